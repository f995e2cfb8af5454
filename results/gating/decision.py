"""Decides whether new runs are slower than their baseline by more than a margin, with 95 % certainty."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from common.errors import UserError
from results.comparing.speedup import CONFIDENCE, FEWEST_RATES, FEWEST_TIMES, Ratio, Side, Speedup, speedup_of
from results.comparing.verdict import pairs_text
from results.gating.wording import amount, as_factors, interval, percent

TIME, THROUGHPUT = "time", "throughput"
METRICS = (TIME, THROUGHPUT)


class Outcome(enum.Enum):
    """What a gate found; the last two fail it."""

    NOTHING = "nothing to compare with"
    WITHIN = "not slower by more than the margin"
    UNCLEAR = "not slower, as far as the runs tell"
    SEEMS_SLOWER = "slower, but not with certainty"
    TOO_FEW = "too few runs"
    SLOWER = "slower"
    NO_TARGET = "does not reach the target"


FAILURES = (Outcome.SLOWER, Outcome.NO_TARGET)
DOUBTS = (Outcome.SEEMS_SLOWER, Outcome.TOO_FEW)
"""Outcomes that pass and need a look."""
ACCEPTABLE = (Outcome.SLOWER, *DOUBTS)
"""Outcomes after which a user may accept the runs as the next baseline."""


@dataclass(frozen=True)
class Decision:
    """The outcome for one benchmark, and the clause that says it of "the new runs". `speedup` is None if unknown."""

    outcome: Outcome
    text: str
    speedup: Speedup | None = None

    @property
    def passed(self) -> bool:
        """Whether the gate passes."""
        return self.outcome not in FAILURES


def decide(baseline: Side, new: Side, metric: str, margin: float) -> Decision:
    """Whether `new` takes more than 1 + `margin` times the time of `baseline`, or its time per sample (THROUGHPUT).

    It fails only if even the end of the 95 % interval that favours the new runs is slower than that. UserError if the
    metric is not known of both, or the two cannot be compared.
    """
    speedup = speedup_of(baseline, new)
    if metric == TIME:
        if new.score.cost is None:
            return Decision(Outcome.NO_TARGET, _no_target(baseline, new), speedup)
        if baseline.score.cost is None:
            text = f"reaches its target, the baseline does not ({baseline.score.rule})"
            return Decision(Outcome.WITHIN, text, speedup)
    ratio = speedup.time if metric == TIME else speedup.throughput
    if ratio is None:
        raise _unknown(baseline, new, metric)
    outcome = _outcome(ratio, margin)
    if outcome is Outcome.TOO_FEW:
        return Decision(outcome, _too_few(ratio, baseline, new, metric), speedup)
    text = _text(outcome, ratio, metric, margin)
    if outcome in (Outcome.UNCLEAR, Outcome.SEEMS_SLOWER):
        text += _runs(ratio, speedup.pairs, margin)
    return Decision(outcome, text, speedup)


def _unknown(baseline: Side, new: Side, metric: str) -> UserError:
    """Why two sides have no ratio."""
    if metric == THROUGHPUT and not (_rates(baseline) and _rates(new)):
        missing = " and ".join(
            name for name, side in (("the baseline", baseline), ("the new runs", new)) if not _rates(side)
        )
        return UserError(f"the throughput of {missing} is not known", where="--metric", remedy="use --metric time")
    what = "times to the target" if metric == TIME else "throughputs"
    return UserError(
        f"the {what} of the two sides are too far apart for a ratio, so one of them is not a measurement",
        remedy="look into the logs of both sides",
    )


def _rates(side: Side) -> list[float]:
    return [run.samples_per_s for run in side.runs if run.samples_per_s is not None and run.samples_per_s > 0]


def _text(outcome: Outcome, ratio: Ratio, metric: str, margin: float) -> str:
    """What an outcome with an interval says."""
    assert ratio.low is not None and ratio.high is not None
    change = _more(ratio.value)
    low, high = (_more(bound) if bound > 0 else math.inf for bound in (ratio.high, ratio.low))
    factor = as_factors((change, low, high))
    much = amount(change, _WHAT[metric], margin, factor=factor)
    sure = f"{CONFIDENCE * 100:.0f} % interval {interval(low, high, margin, factor=factor)}"
    allowed = f"{margin * 100:.6g} % is allowed"
    if outcome is Outcome.SLOWER:
        return f"takes {much} ({sure}), at most {allowed}"
    if outcome is Outcome.WITHIN:
        return f"takes {much} ({sure}), up to {allowed}"
    if outcome is Outcome.UNCLEAR:
        return f"takes {much}, up to {allowed}, but that is not certain: {sure}"
    slower = f"takes about {much}" if factor else f"is slower by about {percent(change, margin)}"
    return f"{slower}, but not with certainty: {sure}, at most {allowed}"


_WHAT = {TIME: "time", THROUGHPUT: "time per sample"}


def _outcome(ratio: Ratio, margin: float) -> Outcome:
    limit = 1 / (1 + margin)
    if ratio.low is None or ratio.high is None:
        return Outcome.TOO_FEW
    if ratio.high < limit:
        return Outcome.SLOWER
    if ratio.low >= limit:
        return Outcome.WITHIN
    return Outcome.UNCLEAR if ratio.value >= limit else Outcome.SEEMS_SLOWER


def _no_target(baseline: Side, new: Side) -> str:
    if baseline.score.cost is None:
        raise UserError(
            f"neither the new runs ({new.score.rule}) nor the baseline ({baseline.score.rule}) reach the target",
            remedy="compare with runs that do, or use --metric throughput",
        )
    return f"does not reach its target, the baseline does ({new.score.rule})"


def _too_few(ratio: Ratio, baseline: Side, new: Side, metric: str) -> str:
    """What the runs seem to say, and how many more it needs."""
    change = _more(ratio.value)
    seems = f"seems to take {amount(change, _WHAT[metric], factor=as_factors([change]))}"
    fewest = FEWEST_TIMES if metric == TIME else FEWEST_RATES
    counts = [len(side.runs if metric == TIME else _rates(side)) for side in (baseline, new)]
    missing = [max(fewest - count, 0) for count in counts]
    if not any(missing) or "weak" in (baseline.score.kind, new.score.kind):
        return f"{seems}, but how certain that is cannot be said ({ratio.method})"
    kinds = ("of the baseline", "of the new code")
    needs = [f"{count} more {kind}" for count, kind in zip(missing, kinds, strict=True) if count]
    return f"{seems}, but these are too few runs to tell: it needs {' and '.join(needs)} ({fewest} on each side)"


def _runs(ratio: Ratio, pairs: int, margin: float) -> str:
    needed = ratio.runs_to_tell(1 / (1 + margin))
    if needed is None:
        return "; that is too close to the margin to tell"
    of_what = pairs_text(needed) if pairs else f"{needed} runs of each"
    return f"; about {of_what} would tell"


def _more(ratio: float) -> float:
    """The fraction of time that a speed-up of `ratio` adds; below 0 if it saves time."""
    return 1 / ratio - 1
