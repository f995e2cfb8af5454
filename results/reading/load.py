"""Reads a log, with its record, system description and scaling factor, into one Run. Units are in the names.

Unknown values are None. Broken files become entries in `problems`, never an exception, so that one bad file does not
prevent a comparison.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmark import mllog
from benchmark.log_summary import NOT_SUMMARISED, ONLY_OURS, LogSummary, summarise
from benchmark.mllog import BENCHMARK
from benchmark.params import NEUTRAL
from benchmark.record import RunRecord, read_record
from benchmark.rounds import legacy_logs
from benchmark.rounds.descriptions import (
    ENTRY_FILE,
    division_of,
    read_description,
    read_object,
    status_of,
    statuses_differ,
)
from benchmark.rounds.power_logs import energy_joules
from benchmark.rounds.result_tree import WEAK, ResultFolder
from benchmark.rounds.rules_by_round import canonical_name
from benchmark.submission import RESULTS, description_of, devices_of
from common.errors import UserError
from common.values import parse_number
from results.reading.configuration import UNNAMED_CPU, configuration_of
from results.reading.discover import Source
from results.reading.measures import count, described, measures_of, text
from results.reading.run_data import Run
from results.reading.timeline import fill_timeline, fill_verdict


def read_run(source: Source) -> Run:
    """Read one source. Never raises because of a file's content; `problems` lists what was wrong."""
    run = Run(source.log, source)
    log = _summary(source, run)
    run.record = _record(source.record, run)
    if source.result is not None:
        _published(run, source.result)
    _identity(run, log)
    _hardware(run, log)
    run.configuration = configuration_of(run, log)
    fill_timeline(run, log)
    fill_verdict(run, log)
    peak = run.record.run.peak_memory_bytes if run.record else None
    run.measures = measures_of(run.telemetry, peak, run.run_s)
    if source.power is not None and run.run_s is not None:
        _power(run, source.power, run.run_s)
    return run


def _summary(source: Source, run: Run) -> LogSummary:
    """Summarise the log, in the current form or that of the first rounds; empty, with a problem, if it cannot be read."""
    try:
        if source.log.exists() and not source.log.is_file():
            raise OSError(errno.EINVAL, "not a regular file")
        skipped = NOT_SUMMARISED if source.benchmark in (None, BENCHMARK) else NOT_SUMMARISED | ONLY_OURS
        with open(source.log, "rb") as file:
            summary = summarise(mllog.read_lines(file, skipped), source.benchmark)
        if not summary.first and not summary.bad_lines:
            with open(source.log, "rb") as file:
                summary = summarise(legacy_logs.read_lines(file), source.benchmark)
        if not summary.first:
            run.problems.append("no log lines in any known format")
    except OSError as error:
        run.problems.append(f"cannot be read ({error.strerror})")
        return LogSummary()
    return summary


def _record(path: Path | None, run: Run) -> RunRecord | None:
    """The run's record; None, with a problem, if it cannot be read."""
    if path is None:
        return None
    try:
        return read_record(path)
    except OSError as error:
        run.problems.append(f"{path.name}: cannot be read ({error.strerror})")
    except UserError as error:
        field = str(error.where).removeprefix(str(path))
        remedy = f" - {error.remedy}" if error.remedy else ""
        run.problems.append(f"{path.name}{field}: {error.what}{remedy}; only the log is used")
    return None


def _published(run: Run, result: ResultFolder) -> None:
    """Fill in what an MLPerf tree says of a log: its system's description, and the review committee's scaling factor."""
    if result.description is None:
        first = result.round is not None and result.round.version == "0.5"
        missing = result.org / (f"{RESULTS}/{result.system}/{ENTRY_FILE}" if first else description_of(result.system))
        run.shared_problems.append(f"{missing}: no such description; accelerator and nodes are unknown")
    else:
        run.description = _read(result.description, _description, run)
    scaling = _read(result.scaling, read_object, run) if result.scaling else None
    if scaling is not None:
        factor = parse_number(scaling.get("scaling_factor"))
        if factor is not None and factor > 0:
            run.scaling_factor = factor
        else:
            run.shared_problems.append(f"{result.scaling}: scaling_factor is not a positive number: not applied")


def _description(path: Path) -> dict[str, Any]:
    """A system's description, which is the same object for its runs; errors as in `read_description`."""
    state = path.stat()
    return _described(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _described(path: Path, _mtime_ns: int, _size: int) -> dict[str, Any]:
    return read_description(path)


def _power(run: Run, folder: Path, run_s: float) -> None:
    """Fill in energy and mean power from the power logs of an MLPerf tree."""
    try:
        joules = energy_joules(folder, run.log, run_s * 1000)
    except OSError as error:
        run.notes.append(f"energy not known: power logs cannot be read ({error.strerror})")
    except UserError as error:
        run.notes.append(f"energy not known: {error.what}")
    else:
        run.measures = replace(run.measures, energy_kwh=joules / 3.6e6, power_w=joules / run_s)


def _read(path: Path, read: Callable[[Path], dict[str, Any]], run: Run) -> dict[str, Any] | None:
    """A file's object; None, with a problem, if it has none."""
    try:
        return read(path)
    except OSError as error:
        run.shared_problems.append(f"{path}: cannot be read ({error.strerror})")
    except UserError as error:
        run.shared_problems.append(f"{path}: {error.what}")
    return None


def _identity(run: Run, log: LogSummary) -> None:
    """Fill in who ran what: from the MLPerf tree's folders first, then the log, then description and record."""
    result, record = run.source.result, run.record
    named = text(log.value(mllog.SUBMISSION_BENCHMARK))
    run.benchmark = result.benchmark if result else canonical_name(named) if named else None
    if result and named and canonical_name(named) != run.benchmark:
        run.notes.append(f"its logs are of benchmark {named}")
        run.other_benchmark = True
    run.submitter = result.submitter if result else text(log.value(mllog.SUBMISSION_ORG))
    run.system = result.system if result else text(log.value(mllog.SUBMISSION_PLATFORM))
    _division_and_status(run, log)
    run.variant = text(log.value(mllog.VARIANT)) or (record.variant if record else None)
    run.params_sha256 = text(log.value(mllog.PARAMS_SHA256)) or (record.params_sha256 if record else None)
    hyperparameters = log.value(mllog.HYPERPARAMETERS)
    run.hyperparameters = NEUTRAL | hyperparameters if isinstance(hyperparameters, dict) else {}
    dataset = log.value(mllog.DATASET)
    if isinstance(dataset, dict):
        run.dataset_sha256 = text(dataset.get("tree_sha256"))
    elif record:
        run.dataset_sha256 = record.dataset.tree_sha256
    run.target_wer = log.target_wer
    run.seed = log.value(mllog.SEED)
    run.global_batch_size = log.value(mllog.GLOBAL_BATCH_SIZE)
    run.train_samples = log.value(mllog.TRAIN_SAMPLES)
    run.processes = count(log.value(mllog.NUMBER_OF_PROCESSES))
    telemetry = log.value(mllog.TELEMETRY_SUMMARY) or (record.telemetry if record else None)
    run.telemetry = telemetry if isinstance(telemetry, dict) else None


def _division_and_status(run: Run, log: LogSummary) -> None:
    """Fill in division and availability: from the system description in an MLPerf tree, as MLPerf does, else as logged."""
    description = run.description or {}
    logged, described = division_of(log.value(mllog.SUBMISSION_DIVISION)), division_of(description.get("division"))
    run.division = described or logged
    if described and logged and described != logged:
        run.notes.append(f"division {described} by its description, {logged} by its logs")
    status, its_status = status_of(log.value(mllog.SUBMISSION_STATUS)), status_of(description.get("status"))
    run.availability = its_status or status
    if statuses_differ(its_status, status):
        run.notes.append(f"status {its_status} by its description, {status} by its logs")


def _hardware(run: Run, log: LogSummary) -> None:
    """Fill in accelerators and nodes: as used by the trainer in our runs, as described in published ones."""
    description = run.description or (run.record.system if run.record else {})
    run.processor = described(description.get("host_processor_model_name"))
    run.nodes = count(description.get("number_of_nodes"))
    used = log.value(mllog.ACCELERATORS)
    if isinstance(used, list) and used:
        devices, gpus = devices_of(used)
        run.accelerators = len({str(device.get("uuid") or device.get("rank")) for device in gpus})
        names = list(dict.fromkeys(name for device in gpus if (name := text(device.get("name")))))
        run.accelerator = " + ".join(names) or None
        if not gpus and devices:
            name = text(devices[0].get("name")) or ""
            run.processor = run.processor or (name if name and not UNNAMED_CPU.fullmatch(name) else None)
        run.nodes = run.record.run.nnodes if run.record else run.nodes
        return
    run.accelerator = described(description.get("accelerator_model_name"))
    per_node = count(description.get("accelerators_per_node"))
    run.accelerators = per_node * run.nodes if per_node is not None and run.nodes is not None else None
    nodes, accelerators = count(log.value("number_of_nodes")), count(log.value("accelerators_per_node"))
    if run.source.scaling_kind == WEAK and nodes is not None and accelerators is not None:
        # A model trained on processors has no accelerators: it is as large as its nodes.
        run.instance_scale = nodes * max(accelerators, 1)
