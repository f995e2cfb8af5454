"""Rules across the runs of one result: number, distinct seeds, equal parameters and data, no overlap in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmark import mllog
from benchmark.params import NEUTRAL
from benchmark.submission import RUNS
from common.values import is_number
from compliance.findings import ERROR, WARNING, Fault, Rule, shown
from compliance.log import Log


@dataclass
class Runs:
    """The logs of one result (one system, one variant). `official`: they are submitted, so their number matters."""

    logs: list[Log]
    official: bool


def runs_count(runs: Runs) -> Iterator[Fault]:
    """A result has exactly ten runs."""
    if len(runs.logs) != RUNS:
        remedy = f"make {RUNS} runs (`RUNS={RUNS} sh run_and_time.sh`); fewer runs have no MLPerf-style score"
        yield Fault(f"{RUNS} runs", str(len(runs.logs)), remedy, None, ERROR if runs.official else WARNING)


def runs_aborted(runs: Runs) -> Iterator[Fault]:
    """At most one run may have missed the target: it counts as the slowest."""
    aborted = [log for log in runs.logs if log.summary.status != mllog.SUCCESS]
    if len(aborted) > 1:
        for log in aborted:
            stop = log.summary.run_stop
            found, remedy = f"{len(aborted)} runs", "a result with two failed runs has no score"
            yield Fault("at most one run without success", found, remedy, stop.line if stop else None, file=log.path)


def runs_seeds(runs: Runs) -> Iterator[Fault]:
    """No two runs have the same seed."""
    yield from _distinct(runs, lambda log: log.value(mllog.SEED), mllog.SEED, "a different seed for each run")


def runs_distinct(runs: Runs) -> Iterator[Fault]:
    """No log is a copy of another, whether edited or not."""
    remedy = "pass each run's own log"
    seen: dict[object, Log] = {}
    for log in runs.logs:
        if len(log.events) < 3:
            continue
        # Two runs never have the same milliseconds between all events; a copy with another seed or date does.
        times = tuple(event.time_ms - log.events[0].time_ms for event in log.events)
        first = seen.setdefault(times, log)
        if first is not log:
            yield Fault(
                "a different log for each run",
                f"the times of {_other(first, log)}, event by event",
                remedy,
                1,
                file=log.path,
                related=first.path,
            )
    scores: dict[object, Log] = {}
    for log in runs.logs:
        curve = tuple((event.value, shown(event.metadata.get("char_edits"))) for event in log.all(mllog.EVAL_ACCURACY))
        first = scores.setdefault(curve, log) if len(curve) > 1 else log
        if first is not log:
            line = log.all(mllog.EVAL_ACCURACY)[0].line
            found = f"those of {_other(first, log)}, all {len(curve)} of them"
            yield Fault("different error rates for each run", found, remedy, line, WARNING, log.path, first.path)


def runs_parameters(runs: Runs) -> Iterator[Fault]:
    """All runs have the same variant, division and hyperparameters."""

    def complete(log: Log) -> object:
        value = log.value(mllog.HYPERPARAMETERS)
        return NEUTRAL | value if isinstance(value, dict) else value

    for key in (mllog.VARIANT, mllog.SUBMISSION_DIVISION, mllog.PARAMS_SHA256, mllog.HYPERPARAMETERS):
        of = complete if key == mllog.HYPERPARAMETERS else _value_of(key)
        yield from _equal(runs, key, of, "the same parameters in all runs")


def runs_dataset(runs: Runs) -> Iterator[Fault]:
    """All runs used the same dataset."""

    def digest(log: Log) -> object:
        value = log.value(mllog.DATASET)
        return value.get("tree_sha256") if isinstance(value, dict) else value

    yield from _equal(runs, mllog.DATASET, digest, "the same dataset in all runs")
    for key in (mllog.TRAIN_SAMPLES, mllog.EVAL_SAMPLES):
        yield from _equal(runs, key, _value_of(key), "the same dataset in all runs")


def runs_system(runs: Runs) -> Iterator[Fault]:
    """All runs are of one submitter and one system."""

    def names(log: Log) -> object:
        value = log.value(mllog.ACCELERATORS)
        return [a.get("name") if isinstance(a, dict) else a for a in value] if isinstance(value, list) else value

    for key in (mllog.SUBMISSION_ORG, mllog.SUBMISSION_PLATFORM, mllog.SUBMISSION_STATUS, mllog.NUMBER_OF_PROCESSES):
        yield from _equal(runs, key, _value_of(key), "the same system in all runs")
    yield from _equal(runs, mllog.ACCELERATORS, names, "the same accelerators in all runs")


def runs_overlap(runs: Runs) -> Iterator[Fault]:
    """Runs on one system are sequential; two at once would share it."""
    spans = []
    for log in runs.logs:
        # Only the timed region counts; initialisation may overlap without affecting the score.
        start, stop = log.summary.run_start, log.summary.run_stop
        if start and stop and is_number(start.time_ms) and is_number(stop.time_ms):
            spans.append((start.time_ms, stop.time_ms, log, start.line))
    spans.sort(key=lambda span: span[:2])
    latest = None
    for span in spans:
        if latest is not None and span[0] < latest[1]:
            found = f"it starts {(latest[1] - span[0]) / 1000:.1f} s before {_other(latest[2], span[2])} ends"
            remedy = "make the runs one after another, with nothing else running on the system"
            yield Fault(
                "runs that do not overlap in time", found, remedy, span[3], file=span[2].path, related=latest[2].path
            )
        if latest is None or span[1] > latest[1]:
            latest = span


def _other(other: Log, log: Log) -> Path:
    """The other log's file name, or its path if both have the same name."""
    return other.path if other.path.name == log.path.name else Path(other.path.name)


def _value_of(key: str) -> Callable[[Log], object]:
    return lambda log: log.value(key)


def _frozen(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _distinct(runs: Runs, of: Callable[[Log], object], key: str, expected: str) -> Iterator[Fault]:
    seen: dict[bytes, Log] = {}
    for log in runs.logs:
        value = of(log)
        if value is None:
            continue
        first = seen.setdefault(_frozen(value), log)
        if first is not log:
            found = f"{shown(value)}, as in {_other(first, log)}"
            remedy = "leave SEED unset, so that the system draws a seed for each run"
            yield Fault(expected, found, remedy, log.line(key), file=log.path, related=first.path)


def _equal(runs: Runs, key: str, of: Callable[[Log], object], expected: str) -> Iterator[Fault]:
    values = [(log, of(log)) for log in runs.logs if log.first(key) is not None]
    if not values:
        return
    # The most common value is the result's, so that one deviating run is one finding.
    counts: dict[bytes, int] = {}
    for _, value in values:
        counts[_frozen(value)] = counts.get(_frozen(value), 0) + 1
    usual = max(counts, key=lambda frozen: counts[frozen])
    for log, value in values:
        if _frozen(value) != usual:
            remedy = "score only runs of one kind together"
            wanted = f"{expected}: {key} {usual.decode()}"
            yield Fault(wanted, shown(value), remedy, log.line(key), file=log.path)


RUN_RULES = [
    Rule("runs-count", f"A result has exactly {RUNS} runs (a warning outside a package).", runs_count),
    Rule("runs-aborted", "At most one run of a result failed.", runs_aborted),
    Rule("runs-seeds", "No two runs of a result have the same seed.", runs_seeds),
    Rule("runs-distinct", "No run's log is a copy of another's.", runs_distinct),
    Rule(
        "runs-parameters", "All runs of a result have the same variant, division and hyperparameters.", runs_parameters
    ),
    Rule("runs-dataset", "All runs of a result used the same dataset.", runs_dataset),
    Rule("runs-system", "All runs of a result are of one submitter and one system.", runs_system),
    Rule("runs-overlap", "Runs on one system do not overlap in time.", runs_overlap),
]
