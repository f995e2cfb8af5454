"""One timed run: prepare the data, start the trainer, time it from its own log, sample telemetry, write the record.

The log goes to stdout and result.txt; everything for people goes to stderr. Once the run's folder exists, every
outcome is recorded.
"""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass, field, replace

from benchmark import clock, mllog
from benchmark.harness import launch
from benchmark.harness.caches import drop_caches
from benchmark.harness.display import Display
from benchmark.harness.job import Job, initial_record, resolve, trainer_command, utc_now
from benchmark.harness.outcome import EXIT_STATUS, follower_outcome, outcome
from benchmark.harness.run_log import ErrorLog, RunLog
from benchmark.harness.summary import print_summary
from benchmark.log_summary import LogSummary, summarise
from benchmark.machine.cpu_load import Load, Measurement
from benchmark.mllog import Event, LogWriter
from benchmark.record import RunRecord, Status, hash_files, write_record
from benchmark.settings import Settings
from benchmark.submission import ERRORS_FILE, LOG_FILE, TELEMETRY_FILE
from benchmark.telemetry.integrals import Summary
from benchmark.telemetry.sampler import Telemetry
from common.errors import EXIT_ERROR, from_os_error, one_line
from common.values import is_integer

RESERVE_BYTES = 1 << 18
"""Disk space held back in the run's folder, so that the record can still be written when the disk fills up."""

MARKED = frozenset(
    (
        mllog.RUN_START,
        mllog.RESUMED,
        mllog.EPOCH_START,
        mllog.EPOCH_STOP,
        mllog.EVAL_START,
        mllog.EVAL_STOP,
        mllog.RUN_STOP,
    )
)
"""The events whose times are also marked in telemetry.csv."""


@dataclass(frozen=True)
class _Outputs:
    """The outputs of a run."""

    display: Display
    log: RunLog
    writer: LogWriter
    errors: ErrorLog
    telemetry: Telemetry
    slept_before_s: float = field(default_factory=clock.slept_s)


def run(settings: Settings) -> int:
    """Do one timed run, or resume one; returns the exit status: 0 target reached, 1 not reached, 2 error.

    Raises UserError, before anything is recorded, if parameters or data are invalid.
    """
    display = Display()
    with launch.stop_on_signals() as stop:
        job = resolve(settings, display)
        # From here on a signal requests an orderly end, and every outcome is recorded.
        stop.deferred = True
        load = Measurement()
        out = _open(job, display)
        record = initial_record(job)
        write_record(record, job.run_dir)
        try:
            record = replace(record, notes=record.notes + _warn_of_load(load.end(), display))
            cleared: bool | None = _clear_caches(settings, display)
            if job.resumption:
                out.log.replay(job.resumption.keep_bytes)
                logged = out.log.first(mllog.CACHE_CLEAR)
                # What counts is the state when the clock started.
                cleared = logged.value if logged else None
            record = replace(record, run=replace(record.run, cache_cleared=cleared))
            if settings.leads and not job.resumption:
                _log_submission(out.writer, record, settings)
            exit_status = _train(job, record, out, stop)
            status, reason = _outcome(exit_status, job, out, stop)
        except Exception as error:
            # A full disk, or a bug: it goes into the record before the command reports it.
            _finish(record, job, out, "failed", f"the harness stopped: {one_line(str(error)) or type(error).__name__}")
            raise
        record = _finish(record, job, out, status, reason)

    display.show(lambda: print_summary(record, job.run_dir))
    if record.status not in EXIT_STATUS:
        display.message(f"error: {record.reason}")
    return EXIT_STATUS.get(record.status, EXIT_ERROR)


# ---------------------------------------------------------------------------------------------------------------------
# The timed region


def _open(job: Job, display: Display) -> _Outputs:
    run_dir = job.run_dir
    log = RunLog(run_dir / LOG_FILE, to_stdout=job.settings.leads)
    (run_dir / ".reserve").write_bytes(bytes(RESERVE_BYTES))
    telemetry = Telemetry(run_dir / TELEMETRY_FILE, notify=lambda text: display.message(f"telemetry: {text}"))
    return _Outputs(display, log, LogWriter(log.sink), ErrorLog(run_dir / ERRORS_FILE), telemetry)


def _clear_caches(settings: Settings, display: Display) -> bool:
    if not settings.drop_caches:
        display.message("file caches are not dropped (DROP_CACHES=0)")
        return False
    why_not = drop_caches()
    if why_not:
        display.message(f"file caches could not be dropped ({why_not}); the log has cache_clear false")
    return why_not is None


def _warn_of_load(load: Load, display: Display) -> tuple[str, ...]:
    """Warn if other programs would slow the run down; returns the note for its record."""
    if not load.disturbs:
        return ()
    display.message(f"warning: {load}, which slows the run down - stop them, or wait, before a run that counts")
    return (f"before the clock started: {load}",)


def _log_submission(writer: LogWriter, record: RunRecord, settings: Settings) -> None:
    """Log who ran what, where and on which data."""
    data = record.dataset
    writer.event(mllog.SUBMISSION_BENCHMARK, mllog.BENCHMARK)
    writer.event(mllog.SUBMISSION_ORG, settings.org)
    writer.event(mllog.SUBMISSION_DIVISION, record.division)
    writer.event(mllog.SUBMISSION_STATUS, settings.status)
    writer.event(mllog.SUBMISSION_PLATFORM, settings.platform or _platform(record))
    writer.event(mllog.VARIANT, record.variant)
    dataset = {"name": data.name, "tree_sha256": data.tree_sha256, "verified_at": data.verified_at}
    writer.event(mllog.DATASET, dataset)
    writer.event(mllog.PARAMS_SHA256, record.params_sha256)
    writer.event(mllog.CACHE_CLEAR, record.run.cache_cleared)


def _platform(record: RunRecord) -> str:
    return str(record.system.get("system_name") or platform.node())


def _train(job: Job, record: RunRecord, out: _Outputs, stop: launch.Stop) -> int:
    """Start the trainer and handle its output until it ends; returns its exit status, negative for a signal."""
    if stop.reason is not None:
        return EXIT_ERROR
    # Before the telemetry thread: the child must be started while this process has a single thread.
    process = launch.start(trainer_command(job), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out.telemetry.watch(process.pid)
        # A resumed run has the devices of its first start until its trainer lists others.
        out.telemetry.use(_uuids(out.log.last(mllog.ACCELERATORS)))
        out.telemetry.start()

        def on_output(raw: bytes) -> None:
            if out.display.progress(raw):
                return
            at = raw.rfind(mllog.TOKEN)
            if not isinstance(mllog.parse_line(raw), Event):
                out.display.message("trainer: " + raw.decode("utf-8", "replace"))
                return
            if at > 0:
                out.display.message("trainer: " + raw[:at].decode("utf-8", "replace"))
            out.display.clear_for_log_line()
            event = out.log.write(raw[at:].rstrip(b"\r"))
            if out.log.failure:
                stop.request(f"{out.log.path}: the log cannot be written ({out.log.failure})")
            if event:
                _react(event, record, out)

        launch.read_output(process, stop, on_output, lambda raw: out.display.message(out.errors.write(raw)))
    finally:
        exit_status = launch.end(process)
        out.telemetry.stop()
        out.display.close()
    return exit_status


def _react(event: Event, record: RunRecord, out: _Outputs) -> None:
    if event.key in MARKED:
        epoch = f" {event.epoch_num}" if event.epoch_num is not None else ""
        out.telemetry.mark(event.key + epoch, event.time_ms / 1000)
    if event.key in (mllog.ACCELERATORS, mllog.RESUMED) and _listed(event):
        out.telemetry.use(_uuids(event))
    if event.key in (mllog.RUN_START, mllog.RESUMED):
        out.telemetry.request_process_count()
    if event.key == mllog.EVAL_STOP:
        log = summarise(out.log.events)
        if log.epochs and log.run_start:
            since_start_s = max(0.0, clock.now_s() - log.run_start.time_ms / 1000)
            out.display.epoch(log.epochs[-1], record.params["train"]["max_epochs"], since_start_s)


def _uuids(accelerators: Event | None) -> list[str]:
    return [item["uuid"] for item in _listed(accelerators) if isinstance(item.get("uuid"), str)]


def _listed(accelerators: Event | None) -> list[dict]:
    """The devices in the value of an `accelerators` event, or in the metadata of a `resumed` one."""
    listed: object = None
    if accelerators:
        resumed = accelerators.key == mllog.RESUMED
        listed = accelerators.metadata.get(mllog.ACCELERATORS) if resumed else accelerators.value
    if not isinstance(listed, list):
        return []
    return [item for item in listed if isinstance(item, dict)]


# ---------------------------------------------------------------------------------------------------------------------
# After the timed region


def _outcome(exit_status: int, job: Job, out: _Outputs, stop: launch.Stop) -> tuple[Status, str | None]:
    errors = list(out.errors.tail)
    # A run that logged its end before the stop request did end: its log decides, as it does under torchrun.
    log_decides = job.settings.uses_torchrun or (stop.reason is not None and out.log.last(mllog.RUN_STOP) is not None)
    if job.settings.leads:
        target_wer = job.params.train.target_wer
        status, reason = outcome(exit_status, out.log, errors, target_wer=target_wer, log_decides=log_decides)
    else:
        status, reason = follower_outcome(exit_status, errors)
    if stop.reason is not None and status not in EXIT_STATUS:
        return ("interrupted" if stop.signal_number else "failed"), stop.reason
    return status, reason


def _finish(record: RunRecord, job: Job, out: _Outputs, status: Status, reason: str | None) -> RunRecord:
    """Close the log and write the record; a full disk is reported and does not raise."""
    out.telemetry.stop()
    (job.run_dir / ".reserve").unlink(missing_ok=True)
    out.log.retry()
    if out.log.first(mllog.RUN_START) and not out.log.last(mllog.RUN_STOP):
        epochs = [event.epoch_num for event in out.log.events if event.key == mllog.EPOCH_START]
        epoch_num = epochs[-1] if epochs else 0
        if not out.log.last(mllog.RUN_ABORTED_REASON):
            out.writer.event(mllog.RUN_ABORTED_REASON, reason or status, epoch_num=epoch_num)
        out.writer.end(mllog.RUN_STOP, status=mllog.ABORTED, epoch_num=epoch_num)
    log = summarise(out.log.events)
    summary = _telemetry_summary(log, out)
    if summary:
        out.writer.event(mllog.TELEMETRY_SUMMARY, summary.as_dict())
    out.log.close()
    out.errors.close()
    if out.log.failure and status in EXIT_STATUS:
        status, reason = "failed", f"{out.log.path}: the log could not be written to its end ({out.log.failure})"

    peak = summary.trainer_peak_bytes if summary else None
    record = replace(
        record,
        status=status,
        reason=reason,
        ended_at=utc_now(),
        run=replace(
            record.run,
            device=_device(out.log.last(mllog.ACCELERATORS)) or record.run.device,
            init_s=log.init_s,
            run_s=log.run_s,
            minutes=log.minutes,
            epochs=len(log.evaluations),
            best_wer=log.best,
            final_wer=log.final,
            peak_memory_bytes=None if peak is None else int(peak),
            threads=_threads(out.log.first(mllog.CPU_THREADS)),
        ),
        epochs=log.epochs,
        telemetry=summary.as_dict() if summary else None,
        files=hash_files(job.run_dir),
        notes=record.notes + _notes(out),
    )
    try:
        write_record(record, job.run_dir)
    except OSError as error:
        failure = f"the record could not be written ({from_os_error(error)})"
        out.display.message(f"error: {failure}")
        if status in EXIT_STATUS:
            record = replace(record, status="failed", reason=failure)
    return record


def _device(accelerators: Event | None) -> str | None:
    """`cuda` or `cpu`, as the trainer logged it; None if it did not."""
    return next(
        (item["device"].partition(":")[0] for item in _listed(accelerators) if isinstance(item.get("device"), str)),
        None,
    )


def _threads(logged: Event | None) -> int | None:
    """The trainer's CPU threads as it logged them; None if it did not, or not as a whole number from 1."""
    return logged.value if logged and is_integer(logged.value, 1) else None


def _telemetry_summary(log: LogSummary, out: _Outputs) -> Summary | None:
    """Telemetry from run_start (or from where the run was resumed) to run_stop; None if the run had no timed region."""
    begin = out.log.last(mllog.RESUMED) or log.run_start
    if not begin or not log.run_stop:
        return None
    summary = out.telemetry.summary(begin.time_ms / 1000, log.run_stop.time_ms / 1000)
    return summary if summary.samples else None


def _notes(out: _Outputs) -> tuple[str, ...]:
    notes = []
    if out.log.stdout_lost:
        notes.append("the reader of stdout went away before the end: result.txt has the complete log")
    if out.display.lost:
        notes.append("stderr could not be written to the end (its terminal was closed)")
    if out.errors.failure:
        notes.append(f"trainer.err is incomplete ({out.errors.failure})")
    slept_s = clock.slept_s() - out.slept_before_s
    if slept_s > 1:
        notes.append(f"the machine slept for {slept_s:.0f} s: the run's clock continued, its telemetry did not")
    return tuple(notes)
