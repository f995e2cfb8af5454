"""The convergence of an MLPerf result, compared with MLPerf's reference convergence points (RCPs) of its round.

The points and the statistics are those of mlperf_logging's rcp_checker. Only the reading of the logs is ours: it takes
time linear in their size, and no scaling.json is written.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.rounds.official_checker import lines_with_token
from benchmark.rounds.rules_by_round import COUNTED_IN_SAMPLES, rules_of
from common.values import is_number
from compliance.findings import ERROR, WARNING, Fault, Rule
from compliance.mlperf.checked_result import RCP_BYPASS, MlperfResult

_TOKEN = ":::MLLOG "
_NO_POINTS = ("minigo",)
FAILED = 1e9
"""Progress to convergence of a run that did not converge, as in rcp_checker."""


@dataclass(frozen=True)
class Convergence:
    """What one log says: batch size (-1: none), benchmark, and the epochs, steps or samples to the target."""

    batch_size: Any
    benchmark: Any
    progress: float


class Unreadable(ValueError):
    """A log on which rcp_checker stops; the text says why."""


def read_convergence(path: Path, ruleset: str) -> Convergence:
    """Read a log as rcp_checker does: any line that contains a key's name counts. Raises Unreadable."""
    batch_size: Any = -1
    benchmark: Any = None
    progress: Any = FAILED
    reached: Any = None
    # FID and CLIP of Stable Diffusion are logged independently of each other.
    metrics: dict[Any, dict[Any, Any]] = {}
    with open(path, encoding="latin-1") as file:
        for number, line in lines_with_token(file, _TOKEN):
            text = line[len(_TOKEN) :]
            try:
                if "global_batch_size" in text:
                    batch_size = json.loads(text)["value"]
                if "submission_benchmark" in text:
                    benchmark = json.loads(text)["value"]
                if "eval_error" in text or "eval_accuracy" in text:
                    reached = _evaluation(json.loads(text), benchmark, ruleset, metrics)
                if "run_stop" in text and (stop := json.loads(text))["key"] == "run_stop":
                    progress = FAILED
                    if stop["metadata"]["status"] == "success":
                        progress = _first_passing(metrics) if benchmark == "stable_diffusion" else reached
                        if progress is None:
                            raise Unreadable(f"line {number}: success without an evaluation before it")
                        if not is_number(progress):
                            raise Unreadable(f"line {number}: the last evaluation's progress is not a number")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                reason = error if isinstance(error, Unreadable) else f"line {number}: {type(error).__name__}: {error}"
                raise Unreadable(str(reason)) from None
    return Convergence(batch_size, benchmark, progress)


def _evaluation(event: Any, benchmark: Any, ruleset: str, metrics: dict[Any, dict[Any, Any]]) -> Any:
    """The progress at an evaluation; None for Stable Diffusion, whose values are added to `metrics`."""
    metadata = event["metadata"]
    if benchmark == "stable_diffusion":
        step = metadata["step_num" if ruleset == "3.1.0" else "samples_count"]
        metrics.setdefault(step, {})[metadata["metric"]] = event["value"]
        return None
    if benchmark in COUNTED_IN_SAMPLES:
        return metadata["samples_count"]
    return round(metadata["epoch_num"], 3)


def _first_passing(metrics: dict[Any, dict[Any, Any]]) -> Any:
    """The first step at which all metrics pass. KeyError for one at which a metric is missing, as in rcp_checker."""
    limits = rules_of("stable_diffusion").metrics
    return min(
        step
        for step, values in metrics.items()
        if all(values[name] <= limit if maximum else values[name] >= limit for name, limit, maximum in limits)
    )


@functools.lru_cache(maxsize=32)
def _points(usage: str, ruleset: str, benchmark: str) -> Any:
    """The reference convergence points of a benchmark in a round, with their statistics; None if there are none."""
    from mlperf_logging.rcp_checker import rcp_checker

    class Points(rcp_checker.RCP_Checker):
        """The checker without its writing and deleting of scaling.json."""

        def _set_results_scaling(self, scale_factor: float, results_dir: str) -> None:
            pass

        def _reset_results_scaling(self, results_dir: str) -> None:
            pass

    try:
        return Points(usage, ruleset, benchmark, False)
    except (KeyError, FileNotFoundError):
        return None


def has_points(result: MlperfResult) -> bool:
    """Whether the round has reference convergence points of a result's benchmark."""
    return (
        result.rules.name is not None and _points(result.rules.usage, result.rules.name, result.benchmark) is not None
    )


def _check(result: MlperfResult) -> Iterator[Fault]:
    if not result.compared or result.benchmark in _NO_POINTS or not has_points(result) or not result.logs:
        return
    bypassed = RCP_BYPASS in result.bypasses
    read: list[Convergence] = []
    for log in result.logs:
        try:
            read.append(read_convergence(log.path, result.rules.name or ""))
        except Unreadable as error:
            found, remedy = f"rcp_checker stops there: {error}", "restore the line as it was printed"
            yield Fault("a log of which the convergence can be read", found, remedy, file=log.path)
    if len(read) < len(result.logs):
        return
    sizes, names = ([getattr(each, what) for each in read] for what in ("batch_size", "benchmark"))
    if any(size != sizes[0] for size in sizes) or any(name != names[0] for name in names):
        what, values = ("batch size", sizes) if any(size != sizes[0] for size in sizes) else ("benchmark", names)
        found = ", ".join(dict.fromkeys(str(value) for value in values))
        yield Fault(f"one {what} in all runs of a result", found, f"submit runs with one {what}", file=result.folder)
        return
    if sizes[0] == -1 or not is_number(sizes[0]):
        yield Fault("global_batch_size in the logs", "none, or not a number", "log the batch size", file=result.folder)
    elif sum(each.progress == FAILED for each in read) > result.forgiven:
        found = f"{sum(each.progress == FAILED for each in read)} did not converge"
        yield Fault(f"at most {result.forgiven} run that does not converge", found, "repeat them", file=result.folder)
    elif len(read) > 2 * result.forgiven:
        # With fewer runs, whose number is a finding already, no mean is left.
        points = _points(result.rules.usage, result.rules.name or "", result.benchmark)
        yield from _compared(points, sizes[0], [each.progress for each in read], bypassed)


def _compared(points: Any, batch_size: Any, progress: list[float], bypassed: bool) -> Iterator[Fault]:
    """Compare the mean progress to convergence with the point of the batch size, or with the one interpolated there."""
    pruned = "pruned_rcps"
    point, missing = points._find_rcp(batch_size, pruned), False
    if point is None:
        low, high = points._find_top_min_rcp(batch_size, pruned), points._find_bottom_max_rcp(batch_size, pruned)
        if low and high:
            point = points._create_interp_rcp(batch_size, low, high)[1]
        elif high:
            # A smaller batch than any reference's: converging slower than the smallest of them is enough.
            point, missing = points._find_min_rcp(pruned), True
    point = None if point is None else dict(point)
    if point is not None and points._eval_submission_record(point, list(progress), "")[0]:
        return
    severity = WARNING if bypassed else ERROR
    if point is None or missing:
        remedy = "submit reference convergence points of this batch size"
        yield Fault(f"a reference convergence point of batch size {batch_size}", "none", remedy, None, severity)
    else:
        dropped = rules_of(point["Benchmark"]).dropped
        kept = sorted(progress)[dropped : len(progress) - dropped]
        mean = sum(kept) / len(kept) if kept else 0.0
        least = point["RCP Mean"] / point["Max Speedup"]
        expected = f"convergence at batch size {batch_size} after {least:.6g} on average, or later"
        remedy = f"use the reference's hyperparameters: it takes {point['RCP Mean']:.6g} on average"
        yield Fault(expected, f"{mean:.6g} on average", remedy, None, severity)


CONVERGENCE_POINT_RULES = [
    Rule(
        "official-convergence",
        "A closed MLPerf result does not converge too fast for the reference (warning: bypassed).",
        _check,
    )
]
