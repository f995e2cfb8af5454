"""Computes the score of a set of runs, and the speed-up between two scores with its uncertainty.

The MLPerf rule: a benchmark requires a fixed number of runs; the fastest and the slowest are dropped (four of each for
unet3d) and the rest are averaged. A run that did not converge counts as the slowest; if more runs failed than may be
dropped, there is no score. The counts are from mlperf-logging's table. These scores are never verified by MLCommons.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.submission import dropped_each_side, olympic_mean, runs_wanted

UNVERIFIED = "MLPerf-style, not verified by MLCommons"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Score:
    """A score in minutes (None if there is none) and a description of the rule that gave it.

    `kind` is `olympic`, `median` or `none`. `scaling_factor` is the review committee's (scaling.json), already applied.
    """

    minutes: float | None
    kind: str
    rule: str
    scaling_factor: float | None = None


@dataclass(frozen=True)
class Speedup:
    """Ratio to the baseline with bounds `low` and `high`, which are None if there are too few runs."""

    ratio: float
    low: float | None
    high: float | None
    method: str


def score_runs(benchmark: str | None, minutes: Sequence[float], failed: int, scaling: float | None = None) -> Score:
    """The score of a set of runs: `minutes` of the converged ones, and the number of `failed` ones."""
    total, wanted, dropped = len(minutes) + failed, runs_wanted(benchmark), dropped_each_side(benchmark)
    if not total:
        return Score(None, "none", "no run")
    # A failed run counts as slower than any converged one.
    times = [*minutes, *[math.inf] * failed]
    if wanted is not None and total >= wanted:
        value = olympic_mean(times, dropped)
        more = "" if total == wanted else f" (MLPerf wants exactly {wanted})"
        if value is None:
            return Score(None, "none", f"no score: {failed} of {total} runs failed, at most {dropped} may{more}")
        return _scaled(value, "olympic", f"olympic mean of {total} runs{more}", scaling)
    fewer = "no MLPerf count known" if wanted is None else f"MLPerf wants {wanted}"
    value = statistics.median(times)
    if math.isinf(value):
        return Score(None, "none", f"no score: {failed} of {total} runs failed ({fewer})")
    what = "single run" if total == 1 else f"median of {total} runs"
    return _scaled(value, "median", f"{what} ({fewer})", scaling)


def _scaled(minutes: float, kind: str, rule: str, scaling: float | None) -> Score:
    if scaling is None or scaling == 1:
        return Score(minutes, kind, rule, scaling)
    return Score(minutes * scaling, kind, f"{rule} x {scaling:.6g} (scaling.json)", scaling)


def speedup(benchmark: str | None, baseline: RunTimes, other: RunTimes) -> Speedup | None:
    """The ratio of the scores of `baseline` and `other`; None if either has no score.

    For two olympic means: a 95 % interval for the ratio of trimmed means, on the logarithm, with standard errors from
    winsorised variances (Tukey and McLaughlin 1963) and Welch's degrees of freedom, as in Yuen's test (1974). Failed
    runs count as the slowest converged one, as in winsorising. Otherwise, with at least two converged runs on a side:
    the range over all pairs of single runs, which is not a confidence interval.
    """
    if baseline.score.minutes is None or other.score.minutes is None:
        return None
    ratio = baseline.score.minutes / other.score.minutes
    scales = (baseline.score.scaling_factor or 1.0, other.score.scaling_factor or 1.0)
    if baseline.score.kind == other.score.kind == "olympic":
        dropped = dropped_each_side(benchmark)
        errors = [_relative_error(side, dropped) for side in (baseline, other)]
        if all(degrees > 0 for _, degrees in errors):
            return _yuen(ratio, errors)
    if len(baseline.minutes) < 2 and len(other.minutes) < 2:
        return Speedup(ratio, None, None, "single runs: no uncertainty known")
    low = min(baseline.minutes) * scales[0] / (max(other.minutes) * scales[1])
    high = max(baseline.minutes) * scales[0] / (min(other.minutes) * scales[1])
    return Speedup(ratio, low, high, "range over single runs")


@dataclass(frozen=True)
class RunTimes:
    """One side of a speed-up: its score, the minutes of its converged runs and its number of failed runs."""

    score: Score
    minutes: Sequence[float]
    failed: int


def _relative_error(side: RunTimes, dropped: int) -> tuple[float, int]:
    """Standard error of the trimmed mean relative to the mean, and its degrees of freedom."""
    ordered = sorted(side.minutes)
    ordered += ordered[-1:] * side.failed
    count = len(ordered)
    degrees = count - 2 * dropped - 1
    if degrees <= 0:
        return 0.0, degrees
    low, high = ordered[dropped], ordered[count - dropped - 1]
    winsorised = [min(max(value, low), high) for value in ordered]
    mean = statistics.fmean(ordered[dropped : count - dropped])
    error = statistics.stdev(winsorised) / ((1 - 2 * dropped / count) * math.sqrt(count))
    return error / mean, degrees


def _yuen(ratio: float, errors: Sequence[tuple[float, int]]) -> Speedup:
    from scipy.special import stdtrit

    method = f"{CONFIDENCE:.0%} interval (Yuen)"
    variance = sum(error**2 for error, _ in errors)
    if variance == 0:
        return Speedup(ratio, ratio, ratio, method)
    degrees = variance**2 / sum(error**4 / count for error, count in errors)
    width = float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * math.sqrt(variance)
    return Speedup(ratio, ratio * math.exp(-width), ratio * math.exp(width), method)
