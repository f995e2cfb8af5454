"""Says in sentences which of the rows of a group is the fastest, by how much, and how sure that is."""

from __future__ import annotations

from benchmark.rounds.rules_by_round import EPOCHS
from results.comparing.columns import bounds_text, minutes_text, ratio_text, row_title
from results.comparing.group import Group
from results.comparing.speedup import CONFIDENCE, Ratio, Speedup, speedup_of


def summary_of(group: Group) -> str:
    """The sentences for a group: its fastest row against the baseline, or against the next one.

    "" if fewer than two rows have a score.
    """
    ranked = sorted((row for row in group.rows if row.rank is not None), key=lambda row: row.rank or 0)
    if len(ranked) < 2:
        return ""
    base = next((row for row in ranked if row.baseline), ranked[1])
    row = next(row for row in ranked if row is not base)
    title, base_title = row_title(row, group.rows), row_title(base, group.rows)
    speedup = row.speedup or speedup_of(base.side, row.side)
    sentence = comparison_text(title, base_title, speedup, row.progress_unit or "progress")
    if len(ranked) == 2:
        return sentence
    first = ranked[0]
    score = "" if first.score.kind == "weak" else f" ({minutes_text(first.score.minutes)} min)"
    return f"{row_title(first, group.rows)} is the fastest of {len(ranked)}{score}. {sentence}"


def comparison_text(row: str, base: str, speedup: Speedup, unit: str = EPOCHS, *, advise: bool = True) -> str:
    """One row against its baseline, by their names, as one sentence; "" if their times cannot be compared.

    `unit` is what progress to the target is counted in. `advise`: say how many runs would tell, if these do not.
    """
    if speedup.time is None:
        return ""
    parts = [_time(row, base, speedup.time, advise)]
    alone = speedup.time.low is not None and not speedup.time.certain
    its = f"{row}'s" if alone else "its"
    if speedup.throughput is not None:
        parts.append(_throughput(its, speedup.throughput))
    if speedup.progress is not None:
        parts.append(_progress(its, speedup.progress, unit))
    pairs = f" Compared by {speedup.pairs} pairs of runs of the same seed." if speedup.pairs else ""
    return f"{parts[0]}{'; ' if parts[1:] else ''}{', '.join(parts[1:])}.{pairs}"


def _time(row: str, base: str, ratio: Ratio, advise: bool) -> str:
    fraction = ratio_text(1 / ratio.value)
    times = f"{ratio_text(ratio.value)} x as fast"
    told = (
        f"{row} trains in {fraction} of {base}'s time"
        if ratio.value >= 1
        else f"{row} takes {fraction} x {base}'s time"
    )
    if ratio.low is None:
        return f"{told}: {times}, which may be chance ({ratio.method})"
    interval = f"{CONFIDENCE * 100:.0f} % interval {bounds_text(ratio)}"
    if ratio.certain:
        return f"{told}: {times}, {interval}"
    needed = ratio.runs_to_tell() if advise else None
    more = "" if needed is None else f"; if they differ by that much, about {needed} runs of each would tell"
    return f"{row} and {base} cannot be told apart by their time: {times}, {interval}{more}"


def _throughput(its: str, ratio: Ratio) -> str:
    if ratio.low is not None and not ratio.certain:
        return f"{its} training steps are equally fast within chance ({bounds_text(ratio)})"
    interval = "" if ratio.low is None else f" ({bounds_text(ratio)})"
    return f"{its} training steps are {ratio_text(ratio.value)} x as fast{interval}"


def _progress(its: str, ratio: Ratio, unit: str) -> str:
    if ratio.value == 1 and (ratio.low is None or ratio.low == ratio.high):
        return f"{its} {unit} are the same"
    if ratio.low is not None and not ratio.certain:
        return f"{its} {unit} are the same within chance"
    return f"{its} {unit} are {ratio_text(1 / ratio.value)} x as many"
