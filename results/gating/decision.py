"""Decides whether new runs are slower than their baseline by more than a margin, with 95 % certainty."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from common.errors import UserError
from results.comparing.speedup import (
    CONFIDENCE,
    FEWEST_PAIRS,
    FEWEST_RATES,
    FEWEST_TIMES,
    Ratio,
    Side,
    Speedup,
    speedup_of,
)

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
    metric is not known of both.
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
        raise UserError("the throughput of both sides is not known", where="--metric", remedy="use --metric time")
    outcome = _outcome(ratio, margin)
    if outcome is Outcome.TOO_FEW:
        return Decision(outcome, _too_few(ratio, baseline, new, metric), speedup)
    text = _text(outcome, ratio, metric, margin)
    if outcome in (Outcome.UNCLEAR, Outcome.SEEMS_SLOWER):
        text += _runs(ratio, speedup.pairs, margin)
    return Decision(outcome, text, speedup)


def _text(outcome: Outcome, ratio: Ratio, metric: str, margin: float) -> str:
    """What an outcome with an interval says."""
    takes = f"takes {_change(_more(ratio.value))} {_WHAT[metric]}"
    interval = f"{CONFIDENCE * 100:.0f} % interval {_interval(ratio)}"
    allowed = f"{percent(margin)} is allowed"
    if outcome is Outcome.SLOWER:
        return f"{takes} ({interval}), at most {allowed}"
    if outcome is Outcome.WITHIN:
        return f"{takes} ({interval}), up to {allowed}"
    if outcome is Outcome.UNCLEAR:
        return f"{takes}, up to {allowed}, but that is not certain: {interval}"
    return f"is slower by about {percent(_more(ratio.value))}, but not with certainty: {interval}, at most {allowed}"


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
    seems = f"seems to take {_change(_more(ratio.value))} {_WHAT[metric]}"
    fewest = FEWEST_TIMES if metric == TIME else FEWEST_RATES
    missing = fewest - len(baseline.runs) - len(new.runs)
    if missing <= 0:
        return f"{seems}, but how certain that is cannot be said ({ratio.method})"
    pairs = f", or {FEWEST_PAIRS} on each side with the same seeds" if new.pairable and baseline.pairable else ""
    runs = f"{missing} more run{'s' * (missing > 1)}"
    return f"{seems}, but these are too few runs to tell: it needs {runs} ({fewest} of both sides together{pairs})"


def _runs(ratio: Ratio, pairs: int, margin: float) -> str:
    needed = ratio.runs_to_tell(1 / (1 + margin))
    if needed is None:
        return "; that is too close to the margin to tell"
    of_what = "pairs of runs of the same seed" if pairs else "runs of each"
    return f"; about {needed} {of_what} would tell"


def _more(ratio: float) -> float:
    """The fraction of time that a speed-up of `ratio` adds; below 0 if it saves time."""
    return 1 / ratio - 1


def percent(fraction: float) -> str:
    """`7.2 %`, `12 %`: one decimal below 10 %."""
    value = abs(fraction) * 100
    return f"{value:.{1 if value < 9.95 else 0}f}".removesuffix(".0") + " %"


def _change(fraction: float) -> str:
    if percent(fraction) == "0 %":
        return "as much"
    return f"{percent(fraction)} {'more' if fraction > 0 else 'less'}"


def _interval(ratio: Ratio) -> str:
    """The interval of the added time: `8 % to 16 % more`, `3 % less to 8 % more`."""
    assert ratio.low is not None and ratio.high is not None
    low, high = (_more(bound) if bound > 0 else math.inf for bound in (ratio.high, ratio.low))
    if percent(low) == percent(high) and low * high > 0:
        return _change(low)
    if (low >= 0) == (high >= 0):
        first, last = sorted((low, high), key=abs)
        return f"{percent(first)} to {percent(last)} {'more' if high > 0 else 'less'}"
    return f"{percent(low)} less to {percent(high)} more"
