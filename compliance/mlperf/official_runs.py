"""The number of runs of an MLPerf result, the runs that may fail, and its power logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.mllog import RecordCollector
from benchmark.rounds.result_tree import POWER
from common.errors import listed
from compliance.findings import ERROR, WARNING, Fault, Finding, Rule
from compliance.mlperf.checked_result import MlperfResult
from compliance.mlperf.official_logs import VERDICT


@dataclass
class RefusedRuns:
    """The runs of a result that do not comply, by the name of the log's file without its suffix.

    `power` are the messages about the power logs, `stopped` the exception of their checker.
    """

    result: MlperfResult
    names: set[str] = field(default_factory=set)
    power: list[str] = field(default_factory=list)
    stopped: str | None = None

    @property
    def forgiven(self) -> bool:
        """Whether all of them are dropped by olympic scoring."""
        return len(self.names) <= self.result.forgiven


def refused_runs(result: MlperfResult, findings: list[Finding]) -> RefusedRuns:
    """The runs of a result that MLPerf's checkers of logs and of power logs refuse."""
    refused = RefusedRuns(result)
    files = {str(log.path): log.path.stem for log in result.logs}
    refused.names = {files[f.file] for f in findings if f.rule == VERDICT and f.severity == ERROR and f.file in files}
    folder = result.folder / POWER
    if folder.is_dir():
        _check_power(refused, folder)
    return refused


def _check_power(refused: RefusedRuns, folder: Path) -> None:
    from mlperf_logging.package_checker.power_checker import PowerChecker

    with _only_collected() as collected:
        try:
            _, errors = PowerChecker(refused.result.rules.name).check_power(
                str(folder), [str(log.path) for log in refused.result.logs]
            )
        # Third-party code, which fails on names without a number and on folders without logs.
        except Exception as error:
            refused.stopped = f"{type(error).__name__}: {error}"
        else:
            refused.names |= errors
    refused.power = [record.getMessage() for record in collected.records]


@contextmanager
def _only_collected() -> Iterator[RecordCollector]:
    """Collect what is logged, and print none of it."""
    collector = RecordCollector()
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [collector]
    try:
        yield collector
    finally:
        root.handlers = handlers


def _number(refused: RefusedRuns) -> Iterator[Fault]:
    result, found = refused.result, len(refused.result.logs)
    if result.weak and found < result.wanted:
        yield Fault(
            f"at least {result.wanted} runs of {result.benchmark} (weak scaling)", str(found), "add the missing runs"
        )
    elif not result.weak and found != result.wanted:
        remedy = "submit exactly that number of runs, named result_N.txt"
        yield Fault(f"{result.wanted} runs of {result.benchmark}", str(found), remedy)


def _refused(refused: RefusedRuns) -> Iterator[Fault]:
    result, names = refused.result, sorted(refused.names)
    if not names:
        return
    some = listed(names, 5)
    expected = f"at most {result.forgiven} run{'s' if result.forgiven > 1 else ''} of {result.benchmark} that fail"
    if refused.forgiven:
        remedy = "none needed: olympic scoring drops the slowest, and a failed run counts as such"
        yield Fault(
            expected, f"{len(names)} {'does' if len(names) == 1 else 'do'} not comply: {some}", remedy, None, WARNING
        )
    else:
        remedy = "repeat the runs that failed, or correct what the findings of their logs name"
        yield Fault(expected, f"{len(names)} do not comply: {some}", remedy)


def _power(refused: RefusedRuns) -> Iterator[Fault]:
    folder = refused.result.folder / POWER
    if refused.stopped is not None:
        remedy = "one folder per run (power/result_N/), with files node_0, node_1, ... and sw_0, sw_1, ..."
        yield Fault("power logs", f"mlperf_logging's power checker stopped: {refused.stopped}", remedy, file=folder)
    for message in refused.power:
        remedy = "one folder per run, with the same number of node_N and sw_N files in each"
        yield Fault("power logs of every run", message, remedy, None, WARNING, folder)


RUN_RULES = [
    Rule(
        "official-runs", "An MLPerf result has the number of runs of its benchmark (weak scaling: at least).", _number
    ),
    Rule(
        "official-failed-runs",
        "At most one run of an MLPerf result fails, four of unet3d (warning: they are dropped).",
        _refused,
    ),
    Rule("official-power", "Power logs, if there are any, are complete (warning: the run counts as failed).", _power),
]
