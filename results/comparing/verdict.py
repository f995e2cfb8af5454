"""Says in sentences which of the rows of a group is the fastest, by how much, and how sure that is."""

from __future__ import annotations

from benchmark.rounds.rules_by_round import EPOCHS
from results.comparing.columns import bounds_text, minutes_text, ratio_text, row_title
from results.comparing.group import Group
from results.comparing.rows import Row
from results.comparing.speedup import CONFIDENCE, Ratio, Speedup, speedup_of

_IT = "It"
"""The name of a row that the sentence before is about."""


def summary_of(group: Group) -> str:
    """The sentences for a group: its fastest row against the baseline, or against the next one.

    "" if fewer than two rows have a score.
    """
    ranked = sorted((row for row in group.rows if row.rank is not None), key=lambda row: row.rank or 0)
    if len(ranked) < 2:
        return ""
    base = next((row for row in ranked if row.baseline), ranked[1])
    row = next(row for row in ranked if row is not base)
    speedup = row.speedup if base.baseline and row.speedup else speedup_of(base.side, row.side)
    first, many = ranked[0], len(ranked) > 2
    sentences = [_compared(_IT if many and row is first else row_title(row, group.rows), group, row, base, speedup)]
    if many:
        score = "" if first.score.kind == "weak" else f" ({minutes_text(first.score.minutes)} min)"
        sentences.insert(0, f"{row_title(first, group.rows)} is the fastest of {len(ranked)}{score}.")
    if speedup.time is not None and (speedup.time.value - 1) * ((base.rank or 0) - (row.rank or 0)) < 0:
        # Medians decide the order of few runs, means the ratio; and pairs are only the runs of common seeds.
        compared = "these pairs" if speedup.pairs else "mean times"
        sentences.append(f"This compares {compared}; by their scores in the table the order is the opposite.")
    return " ".join(sentence for sentence in sentences if sentence)


def _compared(title: str, group: Group, row: Row, base: Row, speedup: Speedup) -> str:
    base_title = row_title(base, group.rows)
    if row.score.kind == "weak" and speedup.time is not None:
        ratio = ratio_text(speedup.time.value)
        return f"{title} trains {ratio} x as many models per minute as {base_title}: {speedup.time.method}."
    return comparison_text(title, base_title, speedup, row.progress_unit or "progress")


def comparison_text(row: str, base: str, speedup: Speedup, unit: str = EPOCHS, *, advise: bool = True) -> str:
    """One row against its baseline, by their names, as one sentence; "" if their times cannot be compared.

    `unit` is what progress to the target is counted in. `advise`: say how many runs would tell, if these do not.
    """
    if speedup.time is None:
        return ""
    parts = [_time(row, base, speedup, advise)]
    alone = speedup.time.low is not None and not speedup.time.certain
    who = row if alone and row != _IT else "it"
    its = f"{row}'s" if who == row else "its"
    if speedup.throughput is not None:
        parts.append(_throughput(its, speedup.throughput))
    if speedup.progress is not None:
        parts.append(_progress(who, its, speedup.progress, unit))
    pairs = f" Compared by {pairs_text(speedup.pairs)}." if speedup.pairs else ""
    return f"{parts[0]}{'; ' if parts[1:] else ''}{', '.join(parts[1:])}.{pairs}"


def pairs_text(count: int) -> str:
    """`10 pairs of runs of the same seed`."""
    return f"{count} pairs of runs of the same seed"


def _time(row: str, base: str, speedup: Speedup, advise: bool) -> str:
    ratio = speedup.time
    assert ratio is not None
    fraction = ratio_text(1 / ratio.value)
    times = f"{ratio_text(ratio.value)} x as fast"
    told = (
        f"{row} trains in {fraction} of {base}'s time"
        if ratio.value >= 1
        else f"{row} takes {fraction} x {base}'s time"
    )
    if ratio.low is None:
        return f"{told}: {times}, with too few runs to say how much of that is chance"
    interval = f"{CONFIDENCE * 100:.0f} % interval {bounds_text(ratio)}"
    if ratio.certain:
        return f"{told}: {times}, {interval}"
    needed = ratio.runs_to_tell() if advise else None
    of_what = pairs_text(needed or 0) if speedup.pairs else f"{needed} runs of each"
    more = "" if needed is None else f"; if they differ by that much, about {of_what} would tell"
    return f"{row} and {base} cannot be told apart by their time: {times}, {interval}{more}"


def _throughput(its: str, ratio: Ratio) -> str:
    if ratio.low is not None and not ratio.certain:
        return f"{its} training steps are equally fast within chance ({bounds_text(ratio)})"
    interval = "" if ratio.low is None else f" ({bounds_text(ratio)})"
    return f"{its} training steps are {ratio_text(ratio.value)} x as fast{interval}"


def _progress(who: str, its: str, ratio: Ratio, unit: str) -> str:
    if ratio.value == 1 and (ratio.low is None or ratio.low == ratio.high):
        return f"{its} {unit} are the same"
    if ratio.low is not None and not ratio.certain:
        return f"{its} {unit} are the same within chance"
    return f"{who} needs {ratio_text(1 / ratio.value)} x as many {unit}"
