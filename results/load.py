"""One log with what lies beside it (record, system description, scaling) as one Run: facts, units in their names.

Whatever a source does not say is None. What is broken becomes a problem in words, never an exception: one bad file may
not spoil a comparison.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from benchmark import mllog
from benchmark.mllog import BENCHMARK, BadLine, Event
from datasets.errors import one_line
from results import legacy
from results.discover import Source
from results.measures import Measures, count, measures_of, number, text

WER_PERCENT = {BENCHMARK: 1.0, "rnnt": 100.0}
"""Benchmarks whose eval_accuracy is a word error rate, with the factor that makes it percent."""
LEFT_OUT = {"unfinished", "interrupted"}
"""Record states of runs that may still be continued: not scored, but always counted and told."""
PENDING, FAILED = "pending", "failed"


@dataclass(slots=True, eq=False)
class Run:
    """What one log says. Times are milliseconds since the Unix epoch where the name says so, else the unit named.

    `verdict`: `success` or `aborted` as the log's run_stop says, `failed` where no run_stop follows run_start (or the
    log has none of both), `missed` where a log claims success above its target, `pending` for a run that may continue.
    """

    log: Path
    source: Source
    verdict: str = FAILED
    minutes: float | None = None
    started_ms: float | None = None
    stopped_ms: float | None = None
    benchmark: str | None = None
    submitter: str | None = None
    system: str | None = None
    division: str | None = None
    availability: str | None = None
    variant: str | None = None
    params_sha256: str | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    dataset_name: str | None = None
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
    """The lowest word error rate in percent; None where the benchmark's metric is another."""
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
    record: dict[str, Any] | None = None
    description: dict[str, Any] | None = None
    scaling_factor: float | None = None
    bad_lines: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def wer_factor(self) -> float | None:
        """What makes this run's eval_accuracy a word error rate in percent; None where the metric is another."""
        return WER_PERCENT.get(self.benchmark or "")

    @property
    def run_s(self) -> float | None:
        """Seconds from run_start to run_stop."""
        return None if self.minutes is None else self.minutes * 60

    def slim(self) -> Run:
        """Forget the curves and the files' contents: what a table needs stays, so that thousands of runs fit."""
        self.evals, self.epoch_marks, self.record, self.description, self.telemetry = [], [], None, None, None
        return self


def read_run(source: Source) -> Run:
    """Read one source. Never raises for what is in the files; `problems` says what was wrong with them."""
    run = Run(source.log, source)
    seen: dict[str, Event] = {}
    try:
        if source.log.exists() and not source.log.is_file():
            raise OSError(errno.EINVAL, "no plain file")
        with open(source.log, "rb") as file:
            _Reader(run, seen).read(mllog.read_lines(file))
        if not seen and not run.bad_lines:
            with open(source.log, "rb") as file:
                _Reader(run, seen).read(legacy.read_lines(file))
        if not seen:
            run.problems.append("no log line of any kind that is known here")
    except OSError as error:
        run.problems.append(f"cannot be read ({error.strerror})")
    run.record = _object(source.record, run)
    run.description = _object(source.description, run)
    scaling = _object(source.scaling, run)
    run.scaling_factor = number(scaling.get("scaling_factor")) if scaling else None
    if source.published and source.description is None:
        run.problems.append(f"no description systems/{source.system}.json: accelerator and nodes stay blank")
    _identity(run, seen)
    _hardware(run, seen)
    if run.evals:
        run.last_epoch, run.last_accuracy, _ = run.evals[-1]
        factor = run.wer_factor
        run.best_wer = min(value for _, value, _ in run.evals) * factor if factor else None
    _verdict(run, seen)
    run.measures = measures_of(run.telemetry, run.record, run.run_s)
    return run


class _Reader:
    """Walks one log's events once and fills a Run; `seen` keeps the first event of every other key."""

    def __init__(self, run: Run, seen: dict[str, Event]) -> None:
        self.run, self.seen = run, seen
        self.open_epoch: Event | None = None
        self.open_eval: float | None = None
        self.trained: list[dict[str, Any]] = []
        self.actions = {
            mllog.RUN_START: self._run_start,
            mllog.EPOCH_START: self._epoch_start,
            mllog.EPOCH_STOP: self._epoch_stop,
            mllog.EVAL_START: self._eval_start,
            mllog.EVAL_STOP: self._eval_stop,
            mllog.EVAL_ACCURACY: self._accuracy,
            "eval_error": self._accuracy,
            mllog.TRACKED_STATS: self._stats,
        }

    def read(self, lines: Iterator[Event | BadLine]) -> None:
        seen, actions, first_bad = self.seen, self.actions, None
        stopped = False
        for line in lines:
            if isinstance(line, BadLine):
                first_bad = first_bad or line
                self.run.bad_lines += 1
                continue
            key = line.key
            # What comes after run_stop was not timed; only descriptions of the run may stand there.
            action = None if stopped else actions.get(key)
            if action is not None:
                action(line)
            if key not in seen:
                seen[key] = line
                stopped = stopped or key == mllog.RUN_STOP
        if first_bad is not None:
            more = f" (and {self.run.bad_lines - 1} more)" if self.run.bad_lines > 1 else ""
            self.run.problems.append(f"line {first_bad.line}: {first_bad.reason}{more}")
        self._sums()

    def _run_start(self, event: Event) -> None:
        if self.run.started_ms is not None and self.run.started_ms != event.time_ms:
            self.run.problems.append(f"line {event.line}: run_start again; the clock is taken from the last one")
        self.run.started_ms = event.time_ms

    def _epoch_start(self, event: Event) -> None:
        self.open_epoch = event

    def _epoch_stop(self, event: Event) -> None:
        if self.open_epoch is not None:
            self.run.epoch_marks.append((number(event.epoch_num), self.open_epoch.time_ms, event.time_ms))
            self.open_epoch = None

    def _eval_start(self, event: Event) -> None:
        self.open_eval = event.time_ms

    def _eval_stop(self, event: Event) -> None:
        if self.open_eval is not None:
            self.run.eval_s = (self.run.eval_s or 0.0) + (event.time_ms - self.open_eval) / 1000
            self.open_eval = None

    def _accuracy(self, event: Event) -> None:
        value = number(event.value)
        if value is None or isinstance(event.value, str):
            self.run.problems.append(f"line {event.line}: {event.key} is no finite number")
            return
        unit = next(
            (event.metadata[k] for k in ("epoch_num", "samples_count", "step_num") if k in event.metadata), None
        )
        self.run.evals.append((number(unit), value, event.time_ms))

    def _stats(self, event: Event) -> None:
        if isinstance(event.value, dict):
            self.trained.append(event.value)

    def _sums(self) -> None:
        run = self.run
        timed = [stats for stats in self.trained if number(stats.get("train_s"))]
        if timed:
            run.train_s = sum(stats["train_s"] for stats in timed)
            waits = [number(stats.get("data_wait_s")) for stats in timed]
            run.data_wait_s = None if None in waits else sum(wait for wait in waits if wait is not None)
            run.samples_per_s = _rate(timed, "utterances_per_s")
            run.audio_s_per_s = _rate(timed, "audio_s_per_s")
        elif rates := [rate for stats in self.trained if (rate := number(stats.get("throughput"))) is not None]:
            run.samples_per_s = sum(rates) / len(rates)


def _rate(epochs: list[dict[str, Any]], key: str) -> float | None:
    """A rate over all epochs: each one's rate weighted with its seconds of training."""
    known = [(rate, stats["train_s"]) for stats in epochs if (rate := number(stats.get(key))) is not None]
    return sum(rate * seconds for rate, seconds in known) / sum(s for _, s in known) if known else None


def _object(path: Path | None, run: Run) -> dict[str, Any] | None:
    """A JSON file's object; None, with a problem, where it is none."""
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


def _identity(run: Run, seen: dict[str, Event]) -> None:
    """Who ran what: the MLPerf tree's folders first, then the log, then description and record."""
    source, record, description = run.source, run.record or {}, run.description or {}

    def logged(key: str) -> Any:
        return seen[key].value if key in seen else None

    run.benchmark = source.benchmark or text(logged(mllog.SUBMISSION_BENCHMARK))
    run.submitter = source.submitter or text(logged(mllog.SUBMISSION_ORG))
    run.system = source.system or text(logged(mllog.SUBMISSION_PLATFORM))
    run.division = text(logged(mllog.SUBMISSION_DIVISION)) or text(description.get("division"))
    run.availability = text(logged(mllog.SUBMISSION_STATUS)) or text(description.get("status"))
    run.variant = text(logged(mllog.VARIANT)) or text(record.get("variant"))
    run.params_sha256 = text(logged(mllog.PARAMS_SHA256)) or text(record.get("params_sha256"))
    hyperparameters = logged(mllog.HYPERPARAMETERS)
    run.hyperparameters = hyperparameters if isinstance(hyperparameters, dict) else {}
    dataset = logged(mllog.DATASET) or record.get("dataset")
    if isinstance(dataset, dict):
        run.dataset_name, run.dataset_sha256 = text(dataset.get("name")), text(dataset.get("tree_sha256"))
    run.target_wer = number(logged(mllog.TARGET_WER))
    run.seed = logged(mllog.SEED)
    run.global_batch_size = logged(mllog.GLOBAL_BATCH_SIZE)
    run.train_samples = logged(mllog.TRAIN_SAMPLES)
    run.processes = count(logged(mllog.NUMBER_OF_PROCESSES))
    telemetry = logged(mllog.TELEMETRY_SUMMARY) or record.get("telemetry")
    run.telemetry = telemetry if isinstance(telemetry, dict) else None
    if mllog.INIT_START in seen and mllog.INIT_STOP in seen:
        run.init_s = (seen[mllog.INIT_STOP].time_ms - seen[mllog.INIT_START].time_ms) / 1000


def _hardware(run: Run, seen: dict[str, Event]) -> None:
    """Accelerators x count and nodes: of our runs what the trainer used, of published ones what the description says."""
    system = (run.record or {}).get("system")
    described = run.description or (system if isinstance(system, dict) else {})
    run.processor = text(described.get("host_processor_model_name"))
    run.nodes = count(described.get("number_of_nodes"))
    used = seen[mllog.ACCELERATORS].value if mllog.ACCELERATORS in seen else None
    if isinstance(used, list) and used:
        devices = [device for device in used if isinstance(device, dict)]
        gpus = [device for device in devices if device.get("uuid") or str(device.get("device", "")).startswith("cuda")]
        run.accelerators = len({str(device.get("uuid") or device.get("rank")) for device in gpus})
        names = list(dict.fromkeys(name for device in gpus if (name := text(device.get("name")))))
        run.accelerator = " + ".join(names) or None
        if not gpus and devices:
            run.processor = run.processor or text(devices[0].get("name"))
        facts = (run.record or {}).get("run")
        run.nodes = count(facts.get("nnodes") if isinstance(facts, dict) else None) or run.nodes
        return
    named = text(described.get("accelerator_model_name"))
    run.accelerator = None if named in ("N/A", "-") else named
    per_node = count(described.get("accelerators_per_node"))
    run.accelerators = per_node * run.nodes if per_node is not None and run.nodes is not None else None


def _verdict(run: Run, seen: dict[str, Event]) -> None:
    """Minutes and verdict. Minutes: (first run_stop - last run_start before it) / 60000, as MLPerf's summariser has it."""
    stop = seen.get(mllog.RUN_STOP)
    state = text((run.record or {}).get("status"))
    if stop is not None and run.started_ms is not None:
        run.stopped_ms = stop.time_ms
        run.minutes = (stop.time_ms - run.started_ms) / 60 / 1000
        run.verdict = text(stop.metadata.get(mllog.STATUS)) or FAILED
        if run.minutes < 0:
            run.problems.append(f"line {stop.line}: run_stop is earlier than run_start")
            run.minutes, run.verdict = None, FAILED
    elif state in LEFT_OUT:
        run.verdict = PENDING
    elif run.started_ms is None and not run.source.published:
        run.verdict = PENDING
        run.problems.append("the clock never started (no run_start): left out of the score")
    else:
        run.problems.append("no run_stop after run_start: counts as a run that failed")
    if state in LEFT_OUT:
        # An interrupted run's log may end in run_stop; it is still one that goes on when it is resumed.
        run.verdict = PENDING
        run.problems.append(f"the run is {state} and can be continued: left out of the score")
    if run.verdict == mllog.SUCCESS and run.target_wer is not None and run.benchmark == BENCHMARK:
        reached = run.last_accuracy is not None and run.last_accuracy <= run.target_wer
        if not reached:
            run.verdict = "missed"
            run.problems.append(
                f"claims success above its target WER of {run.target_wer:g}: counts as a run that failed"
            )
