"""Computes how many times as fast one row is as another, and how sure that is: in time, in throughput, in progress.

docs/results.md has the methods and their measured coverage.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from results.comparing.score_of_runs import Score

CONFIDENCE = 0.95
POWER = 0.8
"""With what probability as many runs as `Ratio.runs_to_tell` gives tell two rows apart."""
FEWEST_TIMES, FEWEST_RATES, FEWEST_PAIRS = 6, 4, 3
"""Runs of both sides together that an interval needs: for times and progress, for throughput; pairs of runs.

Runs that take 3 or 4 epochs by chance may all take 3 if there are only two of them, and then seem not to vary at all.
Throughput varies continuously, so that fewer runs show how much."""
_MOST_RUNS = 1000
"""With more runs than that, a difference is not worth finding."""


@dataclass(frozen=True)
class RunFigures:
    """What is compared of one run that counts; `minutes` is None for a run that failed. Unknown is None.

    `progress` is how far training had come at the target (epochs, or samples or steps).
    """

    minutes: float | None
    progress: float | None = None
    samples_per_s: float | None = None
    seed: object = None


@dataclass(frozen=True)
class Side:
    """One row as far as it is compared: its score, its runs, and how many of them its score drops at each end.

    `pairable`: whether a run of the same seed on another machine is the same training, as for DeepSpeech2.
    """

    score: Score
    runs: Sequence[RunFigures]
    dropped: int = 0
    pairable: bool = False

    @property
    def failed(self) -> int:
        """The number of runs that did not reach the target."""
        return sum(run.minutes is None for run in self.runs)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast (or as far) the other row is; above 1 it is better than the baseline.

    `low` and `high` bound a 95 % confidence interval, None if the runs do not give one. `method` says how both were
    computed. `run_variance` is the variance of the ratio's logarithm if there were one run (one pair) on each side.
    """

    value: float
    low: float | None
    high: float | None
    method: str
    run_variance: float | None = None

    @property
    def certain(self) -> bool:
        """Whether the interval is known and does not contain 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high

    def runs_to_tell(self, limit: float = 1.0) -> int | None:
        """With how many runs (pairs of runs) on each side this ratio, if it is the true one, would be told from `limit`.

        With probability POWER, from the normal distribution; None if that is not known, or is more than anyone would
        make.
        """
        distance = abs(math.log(self.value / limit))
        if distance == 0 or not self.run_variance:
            return None
        normal = statistics.NormalDist()
        quantiles = normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(POWER)
        needed = (quantiles / distance) ** 2 * self.run_variance
        return math.ceil(needed) if needed <= _MOST_RUNS else None


@dataclass(frozen=True)
class Speedup:
    """A row against its baseline. `time` is that of the scores; `throughput` that of training; `progress` is above 1 if
    the row needs less of it. Each is None where it is not known. `pairs` is the number of runs compared by seed.
    """

    time: Ratio | None
    throughput: Ratio | None
    progress: Ratio | None
    pairs: int = 0


def speedup_of(baseline: Side, other: Side) -> Speedup:
    """The speed-up of `other` over `baseline`."""
    paired = _paired(baseline, other)
    base, row = paired or (baseline, other)
    time = _time(baseline, other) if paired is None else _ratio(_minutes(base), _minutes(row), _scales(base, row), True)
    return Speedup(
        time=time,
        throughput=_invert(_ratio(_rates(base), _rates(row), (1.0, 1.0), paired is not None, FEWEST_RATES)),
        progress=_ratio(_progress(base), _progress(row), (1.0, 1.0), paired is not None),
        pairs=len(base.runs) if paired else 0,
    )


# ---------------------------------------------------------------------------------------------------------------------
# What is compared


@dataclass(frozen=True)
class _Values:
    """The values of one side, in the order of its runs, with the number dropped at each end of the sorted ones."""

    values: Sequence[float]
    dropped: int


def _paired(baseline: Side, other: Side) -> tuple[Side, Side] | None:
    """Both sides with only their runs of common seeds, in the same order; None unless one side has all its seeds there.

    A difference of two runs of the same seed is free of the seed's luck.
    """
    if not (baseline.pairable and other.pairable) or baseline.failed or other.failed:
        return None
    by_seed = [{str(run.seed): run for run in side.runs if run.seed is not None} for side in (baseline, other)]
    if any(len(found) < len(side.runs) for found, side in zip(by_seed, (baseline, other), strict=True)):
        return None  # A seed is unknown or used twice.
    common = [seed for seed in by_seed[0] if seed in by_seed[1]]
    if len(common) < FEWEST_PAIRS or len(common) < min(map(len, by_seed)):
        return None
    whole = len(common) == len(by_seed[0]) == len(by_seed[1])
    dropped = min(baseline.dropped, other.dropped) if whole else 0
    sides = [
        Side(side.score, [found[seed] for seed in common], dropped, True)
        for side, found in zip((baseline, other), by_seed, strict=True)
    ]
    return sides[0], sides[1]


def _minutes(side: Side) -> _Values:
    """Minutes of all runs. A failed run counts as the slowest that converged, as winsorising does."""
    known = [run.minutes for run in side.runs if run.minutes is not None]
    return _Values(known + [max(known)] * side.failed if known else [], side.dropped)


def _rates(side: Side) -> _Values:
    known = [run.samples_per_s for run in side.runs if run.samples_per_s is not None and run.samples_per_s > 0]
    return _Values(known, side.dropped if len(known) == len(side.runs) else 0)


def _progress(side: Side) -> _Values:
    known = [run.progress for run in side.runs if run.progress is not None and run.minutes is not None]
    known = [value for value in known if value > 0]
    return _Values(known, side.dropped if len(known) == len(side.runs) else 0)


def _scales(baseline: Side, other: Side) -> tuple[float, float]:
    return baseline.score.scaling_factor or 1.0, other.score.scaling_factor or 1.0


def _time(baseline: Side, other: Side) -> Ratio | None:
    """The speed-up of two scores from runs that are not paired."""
    if baseline.score.cost is None or other.score.cost is None:
        return None
    ratio = baseline.score.cost / other.score.cost
    if not _comparable(ratio):
        return None
    if "weak" in (baseline.score.kind, other.score.kind):
        return Ratio(ratio, None, None, "ratio of models per minute; measured once, no uncertainty known")
    if any(side.failed and side.score.kind != "olympic" for side in (baseline, other)):
        return Ratio(ratio, None, None, "ratio of medians; no uncertainty known, because runs failed")
    return _ratio(_minutes(baseline), _minutes(other), _scales(baseline, other), paired=False)


# ---------------------------------------------------------------------------------------------------------------------
# Ratio of two means


def _ratio(
    base: _Values, row: _Values, scales: tuple[float, float], paired: bool, fewest: int = FEWEST_TIMES
) -> Ratio | None:
    """mean(base) / mean(row) with its interval, trimmed as the sides say; None if a side has no values."""
    if not base.values or not row.values or (paired and len(base.values) != len(row.values)):
        return None
    sides = [_Spread.of(side) for side in (base, row)]
    value = sides[0].mean / sides[1].mean * (scales[0] / scales[1])
    if not _comparable(value):
        return None
    if paired:
        variance, degrees = _paired_variance(base, row), float(len(base.values) - 2 * base.dropped - 1)
        method = f"runs of the same seed, {len(base.values)} pairs"
    elif len(base.values) + len(row.values) < fewest:
        what = "single runs" if len(base.values) == len(row.values) == 1 else "too few runs"
        return Ratio(value, None, None, f"{what}: no uncertainty known")
    elif min(len(base.values), len(row.values)) < 3:
        variance, degrees = _pooled([base.values, row.values])
        method = "Student; the side with fewer runs is taken to vary as the other"
    else:
        variance = sum(side.variance for side in sides)
        degrees = _welch(sides, variance)
        method = "Yuen" if base.dropped or row.dropped else "Welch"
    if degrees <= 0:
        return Ratio(value, None, None, "no uncertainty known")
    width = _quantile(degrees) * math.sqrt(variance) if variance > 0 else 0.0
    low, high = value * math.exp(-width), value * math.exp(min(width, 700.0))
    # The harmonic mean is the number of runs on each side that has the same error as these two numbers.
    each = 2 / (1 / len(base.values) + 1 / len(row.values))
    return Ratio(value, low, high, f"{CONFIDENCE:.0%} interval ({method})", variance * each)


def _comparable(value: float) -> bool:
    """Whether a ratio and its inverse are numbers: a log may have any times."""
    return math.isfinite(value) and value > 0 and math.isfinite(1 / value)


def _invert(ratio: Ratio | None) -> Ratio | None:
    """The same comparison of a quantity of which more is better."""
    if ratio is None:
        return None
    low = None if ratio.high is None else 1 / ratio.high
    high = None if ratio.low is None or ratio.low == 0 else 1 / ratio.low
    return Ratio(1 / ratio.value, low if high is not None else None, high, ratio.method, ratio.run_variance)


@dataclass(frozen=True)
class _Spread:
    """Trimmed mean, the square of its relative standard error, and its degrees of freedom."""

    mean: float
    variance: float
    degrees: int

    @classmethod
    def of(cls, side: _Values) -> _Spread:
        """Tukey and McLaughlin's standard error of a trimmed mean, from the winsorised values (1963)."""
        count, dropped = len(side.values), side.dropped
        kept = count - 2 * dropped
        scale = max(side.values)
        mean = statistics.fmean(value / scale for value in sorted(side.values)[dropped : count - dropped]) * scale
        variance = statistics.variance(_relative(side.values, dropped)) * count / kept**2 if count > 1 else 0.0
        return cls(mean, variance, kept - 1)


def _winsorised(values: Sequence[float], dropped: int) -> list[float]:
    """The values in their order, the `dropped` lowest and highest replaced by the nearest that are kept."""
    ordered = sorted(values)
    low, high = ordered[dropped], ordered[len(ordered) - dropped - 1]
    return [min(max(value, low), high) for value in values]


def _welch(sides: Sequence[_Spread], variance: float) -> float:
    """Welch's degrees of freedom (1947), as in Yuen's test of trimmed means (1974)."""
    if variance == 0:
        return 1.0  # Not used: the interval has no width.
    return 1 / sum((side.variance / variance) ** 2 / side.degrees for side in sides)


def _pooled(sides: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Variance and degrees of freedom if both sides vary alike, relative to their means: Student's (1908)."""
    degrees = sum(len(values) - 1 for values in sides)
    squares = sum((value - 1) ** 2 for values in sides for value in _relative(values))
    return squares / degrees * sum(1 / len(values) for values in sides), degrees


def _relative(values: Sequence[float], dropped: int = 0) -> list[float]:
    """The winsorised values, in their order, relative to the trimmed mean."""
    # Relative to the largest first, so that no sum or square overflows.
    scale = max(values)
    scaled = [value / scale for value in values]
    mean = statistics.fmean(sorted(scaled)[dropped : len(values) - dropped])
    return [value / mean for value in _winsorised(scaled, dropped)]


def _paired_variance(base: _Values, row: _Values) -> float:
    """The variance of the logarithm of the ratio of two trimmed means of paired values (Yuen's test for dependent
    groups, Wilcox 2012, section 5.9.5, with the standard error of `_Spread`).
    """
    count, dropped = len(base.values), base.dropped
    sides = [_relative(side.values, dropped) for side in (base, row)]
    # Rounding leaves differences of exactly proportional times at some 1e-16, which are none.
    differences = [round(one - other, 12) for one, other in zip(*sides, strict=True)]
    return statistics.variance(differences) * count / (count - 2 * dropped) ** 2


def _quantile(degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
