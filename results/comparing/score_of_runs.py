"""Computes the score of a set of runs.

The MLPerf rule: a benchmark requires a fixed number of runs; the fastest and the slowest are dropped (four of each for
unet3d) and the rest are averaged. A run that did not converge counts as the slowest; if more runs failed than may be
dropped, there is no score. MLPerf HPC's weak scaling trains many models at once and is scored by models per minute. The
numbers are those of the benchmark in its round (`benchmark.rounds.rules_by_round`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.rounds.rules_by_round import Rules
from benchmark.submission import olympic_mean

UNVERIFIED = "MLPerf-style, not verified by MLCommons"
PUBLISHED = "computed from the logs of MLPerf results repositories; where they differ, MLCommons' own tables are right"
"""What the scores of runs of users, and of published MLPerf rounds, are worth."""


@dataclass(frozen=True)
class Score:
    """A score in minutes (None if there is none) and a description of the rule that gave it.

    `kind` is `olympic`, `median`, `weak` or `none`. `scaling_factor` is the review committee's (scaling.json), already
    applied. For weak scaling, `minutes` is the time to train all `models`, and `instance_scale` the number of
    accelerators that train one of them.
    """

    minutes: float | None
    kind: str
    rule: str
    scaling_factor: float | None = None
    models: int | None = None
    instance_scale: int | None = None

    @property
    def models_per_minute(self) -> float | None:
        """The score of weak scaling; None for others."""
        return None if self.minutes is None or self.models is None else self.models / self.minutes

    @property
    def cost(self) -> float | None:
        """What is compared, less is better: minutes of a run; minutes per model for weak scaling."""
        return self.minutes if self.minutes is None or self.models is None else self.minutes / self.models


def score_runs(rules: Rules, minutes: Sequence[float | None], scaling: float | None = None) -> Score:
    """The score of a set of runs: their `minutes` in the order of the runs, None for a failed one."""
    if rules.first_successes and rules.runs is not None:
        return _of_first_successes(rules.runs, rules.dropped, minutes, scaling)
    total, failed = len(minutes), sum(each is None for each in minutes)
    if not total:
        return Score(None, "none", "no run")
    # A failed run counts as slower than any converged one.
    times = [math.inf if each is None else each for each in minutes]
    wanted, dropped = rules.runs, rules.dropped
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


def _of_first_successes(wanted: int, dropped: int, minutes: Sequence[float | None], scaling: float | None) -> Score:
    """The score where failed runs are repeated: only the first successful runs count."""
    successes = [each for each in minutes if each is not None]
    value = olympic_mean(successes[:wanted], dropped) if len(successes) >= wanted else None
    if value is None:
        return Score(
            None, "none", f"no score: {len(successes)} of {len(minutes)} runs succeeded, MLPerf wants {wanted}"
        )
    return _scaled(value, "olympic", f"olympic mean of the first {wanted} of {len(successes)} successful runs", scaling)


def score_models(
    rules: Rules, spans_ms: Sequence[tuple[float, float]], failed: int, scales: Sequence[int | None]
) -> Score:
    """The score of weak scaling: `spans_ms` are (start, stop) of each model that reached the target, `scales` the
    number of accelerators of each.

    As mlperf_logging.result_summarizer: the time from the first start to the last stop, if there are at least as many
    models as the benchmark has runs.
    """
    models, wanted = len(spans_ms), rules.runs or 1
    if models < wanted:
        return Score(
            None, "none", f"no score: {models} of {models + failed} models reached the target, MLPerf wants {wanted}"
        )
    scale = scales[0] if len(set(scales)) == 1 else None
    minutes = (max(stop for _, stop in spans_ms) - min(start for start, _ in spans_ms)) / 60 / 1000
    each = "" if scale is None else f" on {scale} accelerators each"
    return Score(minutes, "weak", f"time to train all of {models} models{each}", models=models, instance_scale=scale)


def energy_of_result(
    rules: Rules, minutes: Sequence[float | None], energies_kwh: Sequence[float | None], scaling: float | None
) -> float | None:
    """The energy of a result with power logs by MLPerf's rule: the mean over the runs whose times count in its score.

    `energies_kwh` are those of the runs with `minutes`; None if one that counts is not known. Source:
    mlperf_logging.result_summarizer, `_index_olympic_average`.
    """
    converged = [(time, energy) for time, energy in zip(minutes, energies_kwh, strict=True) if time is not None]
    failed = len(minutes) - len(converged)
    ordered = [energy for _, energy in sorted(converged, key=lambda pair: pair[0])]
    counted = ordered[rules.dropped : len(ordered) - (rules.dropped - failed)]
    known = [energy for energy in counted if energy is not None]
    if failed > rules.dropped or not known or len(known) < len(counted):
        return None
    return sum(known) / len(known) * (scaling or 1.0)


def _scaled(minutes: float, kind: str, rule: str, scaling: float | None) -> Score:
    if scaling is None or scaling == 1:
        return Score(minutes, kind, rule, scaling)
    return Score(minutes * scaling, kind, f"{rule} x {scaling:.6g} (scaling.json; min-max as measured)", scaling)
