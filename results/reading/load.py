"""Reads a log, with its record, system description and scaling factor, into one Run. Units are in the names.

Unknown values are None. Broken files become entries in `problems`, never an exception, so that one bad file does not
prevent a comparison.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from benchmark import mllog
from benchmark.log_summary import LogSummary, summarise
from benchmark.mllog import BENCHMARK
from benchmark.params import NEUTRAL
from benchmark.record import RunRecord, read_record
from benchmark.submission import UNFINISHED, devices_of
from common.errors import UserError, one_line
from common.values import parse_number
from results.reading import legacy_logs
from results.reading.discover import Source
from results.reading.measures import Measures, count, measures_of, text

WER_PERCENT = {BENCHMARK: 1.0, "rnnt": 100.0}
"""Benchmarks whose eval_accuracy is a word error rate, with the factor that converts it to percent."""
PENDING, FAILED = "pending", "failed"


@dataclass(slots=True, eq=False)
class Run:
    """One run, as logged. `*_ms` are milliseconds since the Unix epoch, `minutes` and `*_s` are durations.

    `verdict`: `success` or `aborted` as in the log's run_stop; `failed` if no run_stop follows run_start (or the log
    has neither); `missed` if a log claims success above its target; `pending` for a run that may be resumed.
    """

    log: Path
    source: Source
    verdict: str = FAILED
    minutes: float | None = None
    started_ms: float | None = None
    benchmark: str | None = None
    submitter: str | None = None
    system: str | None = None
    division: str | None = None
    availability: str | None = None
    variant: str | None = None
    params_sha256: str | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    dataset_sha256: str | None = None
    target_wer: float | None = None
    seed: Any = None
    global_batch_size: Any = None
    train_samples: Any = None
    processes: int | None = None
    accelerator: str | None = None
    accelerators: int | None = None
    nodes: int | None = None
    processor: str | None = None
    last_epoch: float | None = None
    """Epoch of the last evaluation before run_stop: MLPerf's epochs to convergence."""
    last_accuracy: float | None = None
    """The last eval_accuracy before run_stop, as logged."""
    best_wer: float | None = None
    """The lowest word error rate in percent; None if the benchmark has another metric."""
    evals: list[tuple[float | None, float, float]] = field(default_factory=list)
    """(epoch, eval_accuracy as logged, time in ms) of every evaluation before run_stop."""
    epoch_marks: list[tuple[float | None, float, float]] = field(default_factory=list)
    """(epoch, start, stop in ms) of every training epoch."""
    init_s: float | None = None
    train_s: float | None = None
    eval_s: float | None = None
    data_wait_s: float | None = None
    samples_per_s: float | None = None
    audio_s_per_s: float | None = None
    measures: Measures = field(default_factory=Measures)
    telemetry: dict[str, Any] | None = None
    record: RunRecord | None = None
    description: dict[str, Any] | None = None
    scaling_factor: float | None = None
    bad_lines: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def wer_factor(self) -> float | None:
        """Factor from eval_accuracy to a word error rate in percent; None if the benchmark has another metric."""
        return WER_PERCENT.get(self.benchmark or "")

    @property
    def run_s(self) -> float | None:
        """Seconds from run_start to run_stop."""
        return None if self.minutes is None else self.minutes * 60

    def slim(self) -> Run:
        """Drop the curves and the files' contents, so that thousands of runs fit in memory; return this run."""
        self.evals, self.epoch_marks, self.record, self.description, self.telemetry = [], [], None, None, None
        return self


def read_run(source: Source) -> Run:
    """Read one source. Never raises because of a file's content; `problems` lists what was wrong."""
    run = Run(source.log, source)
    log = _summary(source, run)
    run.record = _record(source.record, run)
    run.description = _object(source.description, run)
    scaling = _object(source.scaling, run)
    run.scaling_factor = parse_number(scaling.get("scaling_factor")) if scaling else None
    if source.published and source.description is None:
        run.problems.append(f"no description systems/{source.system}.json: accelerator and nodes are unknown")
    _identity(run, log)
    _hardware(run, log)
    _timeline(run, log)
    _verdict(run, log)
    peak = run.record.run.peak_memory_bytes if run.record else None
    run.measures = measures_of(run.telemetry, peak, run.run_s)
    return run


def _summary(source: Source, run: Run) -> LogSummary:
    """Summarise the log, in the current form or that of the first rounds; empty, with a problem, if it cannot be read."""
    try:
        if source.log.exists() and not source.log.is_file():
            raise OSError(errno.EINVAL, "not a regular file")
        with open(source.log, "rb") as file:
            summary = summarise(mllog.read_lines(file), source.benchmark)
        if not summary.first and not summary.bad_lines:
            with open(source.log, "rb") as file:
                summary = summarise(legacy_logs.read_lines(file), source.benchmark)
        if not summary.first:
            run.problems.append("no log lines in any known format")
    except OSError as error:
        run.problems.append(f"cannot be read ({error.strerror})")
        return LogSummary()
    return summary


def _timeline(run: Run, log: LogSummary) -> None:
    """Fill in times, evaluations and throughput from the log."""
    run.bad_lines = log.bad_lines
    if log.bad is not None:
        more = f" (and {log.bad_lines - 1} more)" if log.bad_lines > 1 else ""
        run.problems.append(f"line {log.bad.line}: {log.bad.reason}{more}")
    for event in log.restarts:
        counted = "last" if event is log.run_start else "first"
        run.problems.append(f"line {event.line}: run_start again; the timed region starts at the {counted} one")
    run.problems += [f"line {event.line}: {event.key} is not a finite number" for event in log.unread]
    run.evals = [(each.progress, each.value, each.event.time_ms) for each in log.evaluations]
    run.epoch_marks = log.epoch_spans
    run.started_ms = log.run_start.time_ms if log.run_start else None
    run.init_s = log.init_s
    if log.evaluation_spans:
        run.eval_s = sum((stop - start) / 1000 for start, stop in log.evaluation_spans)
    if run.evals:
        run.last_epoch, run.last_accuracy, _ = run.evals[-1]
        run.best_wer = log.best * run.wer_factor if log.best is not None and run.wer_factor else None
    timed = [(seconds, stats) for stats in log.stats if (seconds := parse_number(stats.get("train_s")))]
    if timed:
        run.train_s = sum(seconds for seconds, _ in timed)
        waits = [parse_number(stats.get("data_wait_s")) for _, stats in timed]
        run.data_wait_s = None if None in waits else sum(wait for wait in waits if wait is not None)
        run.samples_per_s = _rate(timed, "utterances_per_s")
        run.audio_s_per_s = _rate(timed, "audio_s_per_s")
    elif rates := [rate for stats in log.stats if (rate := parse_number(stats.get("throughput"))) is not None]:
        run.samples_per_s = sum(rates) / len(rates)


def _rate(epochs: list[tuple[float, dict[str, Any]]], key: str) -> float | None:
    """Mean rate over all epochs, weighted by their training time."""
    known = [(rate, seconds) for seconds, stats in epochs if (rate := parse_number(stats.get(key))) is not None]
    return sum(rate * seconds for rate, seconds in known) / sum(s for _, s in known) if known else None


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


def _object(path: Path | None, run: Run) -> dict[str, Any] | None:
    """A JSON file's object; None, with a problem, if it has none."""
    if path is None:
        return None
    try:
        found = orjson.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        run.problems.append(f"{path.name}: cannot be read ({error.strerror})")
        return None
    except orjson.JSONDecodeError as error:
        run.problems.append(f"{path.name}: not JSON ({one_line(str(error))})")
        return None
    if not isinstance(found, dict):
        run.problems.append(f"{path.name}: expected a JSON object")
        return None
    return found


def _identity(run: Run, log: LogSummary) -> None:
    """Fill in who ran what: from the MLPerf tree's folders first, then the log, then description and record."""
    source, record, description = run.source, run.record, run.description or {}
    run.benchmark = source.benchmark or text(log.value(mllog.SUBMISSION_BENCHMARK))
    run.submitter = source.submitter or text(log.value(mllog.SUBMISSION_ORG))
    run.system = source.system or text(log.value(mllog.SUBMISSION_PLATFORM))
    run.division = text(log.value(mllog.SUBMISSION_DIVISION)) or text(description.get("division"))
    run.availability = text(log.value(mllog.SUBMISSION_STATUS)) or text(description.get("status"))
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


def _hardware(run: Run, log: LogSummary) -> None:
    """Fill in accelerators and nodes: as used by the trainer in our runs, as described in published ones."""
    described = run.description or (run.record.system if run.record else {})
    run.processor = text(described.get("host_processor_model_name"))
    run.nodes = count(described.get("number_of_nodes"))
    used = log.value(mllog.ACCELERATORS)
    if isinstance(used, list) and used:
        devices, gpus = devices_of(used)
        run.accelerators = len({str(device.get("uuid") or device.get("rank")) for device in gpus})
        names = list(dict.fromkeys(name for device in gpus if (name := text(device.get("name")))))
        run.accelerator = " + ".join(names) or None
        if not gpus and devices:
            run.processor = run.processor or text(devices[0].get("name"))
        run.nodes = run.record.run.nnodes if run.record else run.nodes
        return
    named = text(described.get("accelerator_model_name"))
    run.accelerator = None if named in ("N/A", "-") else named
    per_node = count(described.get("accelerators_per_node"))
    run.accelerators = per_node * run.nodes if per_node is not None and run.nodes is not None else None


def _verdict(run: Run, log: LogSummary) -> None:
    """Fill in minutes and verdict."""
    stop, state = log.run_stop, run.record.status if run.record else None
    if stop is not None and log.run_start is not None:
        run.minutes = log.minutes
        run.verdict = text(log.status) or FAILED
        if run.minutes is None:
            run.problems.append(f"line {stop.line}: run_stop is earlier than run_start")
            run.verdict = FAILED
    elif state in UNFINISHED:
        run.verdict = PENDING
    elif run.started_ms is None and not run.source.published:
        run.verdict = PENDING
        run.problems.append("the timed region never started (no run_start): not in the score")
    else:
        run.problems.append("no run_stop after run_start: counts as a failed run")
    if state in UNFINISHED:
        # An interrupted run's log may end with run_stop, but the run can still be resumed.
        run.verdict = PENDING
        run.problems.append(f"the run is {state} and can be resumed: not in the score")
    if run.verdict == mllog.SUCCESS and run.record and run.record.status == "failed":
        # The harness knows more than the log shows: the trainer's exit status and missing events.
        run.verdict = FAILED
        run.problems.append(f"its record has the status failed ({run.record.reason}): counts as a failed run")
    claims = run.verdict == mllog.SUCCESS and run.target_wer is not None and run.benchmark == BENCHMARK
    if claims and not log.reaches(run.target_wer):
        run.verdict = "missed"
        run.problems.append(f"claims success above its target WER of {run.target_wer:g}: counts as a failed run")
