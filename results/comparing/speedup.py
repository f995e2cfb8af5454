"""Computes how many times as fast one row is as another, and how sure that is: in time, in throughput, in progress.

docs/results.md has the methods and their measured coverage.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.values import parse_number
from results.comparing.score_of_runs import Score

CONFIDENCE = 0.95
POWER = 0.8
"""With what probability as many runs as `Ratio.runs_to_tell` gives tell two rows apart."""
FEWEST_TIMES, FEWEST_RATES, FEWEST_PAIRS = 3, 2, 3
"""Runs on each side that an interval needs for times and progress, and for throughput; pairs of runs of one seed.

Runs that take 3 or 4 epochs by chance may all take 3 if there are only two of them, and then seem not to vary at all.
Throughput varies continuously, so that fewer runs show how much."""
_FEW = 5
"""Below so many runs on a side, how much they seem to vary is itself uncertain."""
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

    `pairable`: whether a run of the same seed on another machine is the same training, as for DeepSpeech2. `unit` is
    what progress is counted in.
    """

    score: Score
    runs: Sequence[RunFigures]
    dropped: int = 0
    pairable: bool = False
    unit: str | None = None

    @property
    def failed(self) -> int:
        """The number of runs that did not reach the target."""
        return sum(run.minutes is None for run in self.runs)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast (or as far) the other row is; above 1 it is better than the baseline.

    `low` and `high` bound a 95 % confidence interval, None if the runs do not give one. `method` says how both were
    computed, or why there is no interval. `run_variance` is the variance of the ratio's logarithm if there were one run
    (one pair) on each side, `runs` the number of runs on the side that has more (of pairs).
    """

    value: float
    low: float | None
    high: float | None
    method: str
    run_variance: float | None = None
    runs: int = 0

    @property
    def certain(self) -> bool:
        """Whether the interval is known and does not contain 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high

    def runs_to_tell(self, limit: float = 1.0) -> int | None:
        """With how many runs (pairs of runs) on each side this ratio, if it is the true one, would be told from `limit`.

        With probability POWER, and more than there are now; None if that is not known, or is more than anyone would
        make.
        """
        distance = abs(math.log(self.value / limit))
        if distance == 0 or not self.run_variance:
            return None
        power = statistics.NormalDist().inv_cdf(POWER)
        needed = self.runs + 1
        while needed <= _MOST_RUNS:
            if (_quantile(needed - 1) + power) ** 2 * self.run_variance / needed <= distance**2:
                return needed
            needed = max(needed + 1, round(needed * 1.02))
        return None


@dataclass(frozen=True)
class Speedup:
    """A row against its baseline, as ratios of means; each is None where it is not known.

    `time` is that of the times to train, trimmed as the scores are, `throughput` that of training; `progress` is above
    1 if the row needs less of it. `pairs` is the number of runs whose times were compared by seed, 0 if they were not.
    """

    time: Ratio | None
    throughput: Ratio | None
    progress: Ratio | None
    pairs: int = 0


def speedup_of(baseline: Side, other: Side) -> Speedup:
    """The speed-up of `other` over `baseline`."""
    pairs = _pairs(baseline, other)
    return Speedup(
        time=_time(baseline, other, pairs),
        throughput=_invert(_ratio(baseline, other, pairs, lambda run: run.samples_per_s, FEWEST_RATES)),
        progress=_ratio(baseline, other, pairs, _progress, FEWEST_TIMES) if baseline.unit == other.unit else None,
        pairs=len(pairs),
    )


# ---------------------------------------------------------------------------------------------------------------------
# What is compared

Pairs = Sequence[tuple[RunFigures, RunFigures]]


def _pairs(baseline: Side, other: Side) -> Pairs:
    """The runs of common seeds; none unless one side has all its seeds on the other, and no run failed.

    A difference of two runs of the same seed is free of the seed's luck.
    """
    if not (baseline.pairable and other.pairable) or baseline.failed or other.failed:
        return []
    by_seed = [{_seed(run): run for run in side.runs if run.seed is not None} for side in (baseline, other)]
    if any(len(found) < len(side.runs) for found, side in zip(by_seed, (baseline, other), strict=True)):
        return []  # A seed is unknown or used twice.
    common = [seed for seed in by_seed[0] if seed in by_seed[1]]
    if len(common) < max(FEWEST_PAIRS, min(map(len, by_seed))):
        return []
    return [(by_seed[0][seed], by_seed[1][seed]) for seed in common]


def _seed(run: RunFigures) -> object:
    """The seed, the same for 100, 100.0 and "100"."""
    number = parse_number(run.seed)
    return str(run.seed) if number is None else number


def _time(baseline: Side, other: Side, pairs: Pairs) -> Ratio | None:
    """The speed-up of the times to train; None unless both rows have a score."""
    if baseline.score.cost is None or other.score.cost is None:
        return None
    if "weak" in (baseline.score.kind, other.score.kind):
        ratio = baseline.score.cost / other.score.cost
        return Ratio(ratio, None, None, "measured once, no interval") if _comparable(ratio) else None
    known = [run.minutes for side in (baseline, other) for run in side.runs if run.minutes is not None]
    slowest = max(known, default=None)

    def minutes(run: RunFigures) -> float | None:
        # A failed run is slower than any that converged.
        return slowest if run.minutes is None else run.minutes

    scale = (baseline.score.scaling_factor or 1.0) / (other.score.scaling_factor or 1.0)
    return _ratio(baseline, other, pairs, minutes, FEWEST_TIMES, scale)


def _progress(run: RunFigures) -> float | None:
    return None if run.minutes is None else run.progress


def _ratio(
    baseline: Side,
    other: Side,
    pairs: Pairs,
    value_of: Callable[[RunFigures], float | None],
    fewest: int,
    scale: float = 1.0,
) -> Ratio | None:
    """mean(baseline) / mean(other) of a quantity, times `scale`, in pairs where enough of them have it.

    None if a side has no values; without an interval if one has less than the `fewest`.
    """

    def known(run: RunFigures) -> float | None:
        value = value_of(run)
        return value if value is not None and value > 0 else None

    paired = [(one, two) for a, b in pairs if (one := known(a)) and (two := known(b))]
    if len(paired) >= FEWEST_PAIRS:
        whole = len(paired) == len(baseline.runs) == len(other.runs)
        dropped = min(baseline.dropped, other.dropped) if whole else 0
        return _of_pairs([one for one, _ in paired], [two for _, two in paired], dropped, scale)
    sides = (baseline, other)
    values = [[value for run in side.runs if (value := known(run))] for side in sides]
    if not all(values):
        return None
    # Trimmed as the score is, if all of its runs have a value.
    trims = [side.dropped * (len(each) == len(side.runs)) for each, side in zip(values, sides, strict=True)]
    return _of_means(values, trims, scale, enough=min(map(len, values)) >= fewest)


def _invert(ratio: Ratio | None) -> Ratio | None:
    """The same comparison of a quantity of which more is better."""
    if ratio is None:
        return None
    low = None if ratio.high is None else 1 / ratio.high
    high = None if not ratio.low else 1 / ratio.low
    return Ratio(1 / ratio.value, low if high is not None else None, high, ratio.method, ratio.run_variance, ratio.runs)


# ---------------------------------------------------------------------------------------------------------------------
# Ratio of two means


def _of_pairs(base: Sequence[float], row: Sequence[float], dropped: int, scale: float) -> Ratio | None:
    """The ratio of two trimmed means of paired values, with Yuen's interval for dependent groups.

    Source: Wilcox, Introduction to Robust Estimation (2012), section 5.9.5, with the standard error of `_variance`.
    """
    value = _mean(base, dropped) / _mean(row, dropped) * scale
    kept = len(base) - 2 * dropped
    # Rounding leaves differences of exactly proportional times at some 1e-16, which are none.
    pairs = zip(_relative(base, dropped), _relative(row, dropped), strict=True)
    differences = [round(one - two, 12) for one, two in pairs]
    variance = statistics.variance(differences) * len(base) / kept**2
    return _with_interval(
        value, variance, kept - 1, f"{len(base)} pairs of runs of the same seed", len(base), len(base)
    )


def _of_means(values: Sequence[Sequence[float]], dropped: Sequence[int], scale: float, *, enough: bool) -> Ratio | None:
    """The ratio of two trimmed means; without an interval unless there are `enough` values."""
    value = _mean(values[0], dropped[0]) / _mean(values[1], dropped[1]) * scale
    counts = [len(each) for each in values]
    kept = [count - 2 * trim for count, trim in zip(counts, dropped, strict=True)]
    if not _comparable(value):
        return None
    if not enough or any(trim and count < 3 for trim, count in zip(dropped, kept, strict=True)):
        return Ratio(value, None, None, "single runs, no interval" if counts == [1, 1] else "too few runs, no interval")
    intervals = []
    if min(counts) >= 3:
        variances = [_variance(each, trim) for each, trim in zip(values, dropped, strict=True)]
        name = "Yuen's" if any(dropped) else "Welch's"
        intervals.append((sum(variances), _welch(variances, [count - 1 for count in kept]), f"{name} interval"))
    if min(counts) < _FEW:
        intervals.append((*_pooled(values), "Student's interval: both sides taken to vary alike"))
    # Of the two for few runs, the wider: neither covers the truth often enough by itself.
    variance, degrees, method = max(intervals, key=lambda each: _quantile(each[1]) ** 2 * each[0])
    return _with_interval(value, variance, degrees, method, max(counts), 2 / sum(1 / count for count in counts))


def _with_interval(value: float, variance: float, degrees: float, method: str, runs: int, each: float) -> Ratio | None:
    """The ratio with its interval. `variance` is that of its logarithm, as of `each` runs on each side."""
    if not _comparable(value):
        return None
    width = min(_quantile(degrees) * math.sqrt(variance), 700.0)
    return Ratio(value, value * math.exp(-width), value * math.exp(width), method, variance * each, runs)


def _comparable(value: float) -> bool:
    """Whether a ratio and its inverse are numbers: a log may have any times."""
    return math.isfinite(value) and value > 0 and math.isfinite(1 / value)


def _mean(values: Sequence[float], dropped: int) -> float:
    """The mean without the `dropped` lowest and highest values."""
    # Relative to the largest, so that no sum overflows.
    largest = max(values)
    return statistics.fmean(value / largest for value in sorted(values)[dropped : len(values) - dropped]) * largest


def _relative(values: Sequence[float], dropped: int = 0) -> list[float]:
    """The values in their order, winsorised, relative to the trimmed mean."""
    largest = max(values)
    scaled = [value / largest for value in values]
    ordered = sorted(scaled)
    low, high = ordered[dropped], ordered[len(ordered) - dropped - 1]
    mean = statistics.fmean(ordered[dropped : len(ordered) - dropped])
    return [min(max(value, low), high) / mean for value in scaled]


def _variance(values: Sequence[float], dropped: int) -> float:
    """The square of the relative standard error of a trimmed mean (Tukey and McLaughlin 1963)."""
    return statistics.variance(_relative(values, dropped)) * len(values) / (len(values) - 2 * dropped) ** 2


def _welch(variances: Sequence[float], degrees: Sequence[int]) -> float:
    """Welch's degrees of freedom (1947), as in Yuen's test of trimmed means (1974)."""
    total = sum(variances)
    if total == 0:
        return float(sum(degrees))
    return 1 / sum((variance / total) ** 2 / count for variance, count in zip(variances, degrees, strict=True))


def _pooled(sides: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Variance and degrees of freedom if both sides vary alike, relative to their means (Student 1908)."""
    degrees = sum(len(values) - 1 for values in sides)
    squares = sum((value - 1) ** 2 for values in sides for value in _relative(values))
    return squares / degrees * sum(1 / len(values) for values in sides), float(degrees)


def _quantile(degrees: float) -> float:
    """Student's quantile for CONFIDENCE."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
