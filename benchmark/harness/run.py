"""One timed run: its data made ready, the trainer started and timed from its own log, the machine watched, all recorded.

The log goes to stdout and result.txt; everything meant for people goes to stderr. From the moment that the run's folder
exists, whatever happens ends in a record.
"""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass, field, replace

from benchmark import clock, mllog
from benchmark.harness import launch
from benchmark.harness.caches import drop_caches
from benchmark.harness.display import Display
from benchmark.harness.job import Job, begin_record, decide, trainer_command, utc_now
from benchmark.harness.outcome import EXIT_STATUS, follower_verdict, verdict
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

RESERVE_BYTES = 1 << 18
"""Disk space held back in the run's folder, so that a disk that fills up leaves room to record that it did."""

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
"""The events whose times stand in telemetry.csv as well."""


@dataclass(frozen=True)
class _Outlets:
    """Where a run's output goes."""

    display: Display
    log: RunLog
    writer: LogWriter
    errors: ErrorLog
    telemetry: Telemetry
    slept_before_s: float = field(default_factory=clock.slept_s)


def run(settings: Settings) -> int:
    """Do one timed run, or go on with one; returns the exit status: 0 target reached, 1 not reached, 2 could not be done.

    Raises UserError, before anything is recorded, where parameters or data are not as they must be.
    """
    display = Display()
    with launch.stop_on_signals() as stop:
        job = decide(settings, display)
        # From here on a signal asks for an orderly end, and whatever happens is recorded.
        stop.heeded = True
        others = Measurement()
        out = _open(job, display)
        record = begin_record(job)
        write_record(record, job.run_dir)
        try:
            record = replace(record, notes=record.notes + _disturbance(others.end(), display))
            cleared: bool | None = _clear_caches(settings, display)
            if job.resumption:
                out.log.replay(job.resumption.keep_bytes)
                logged = out.log.first(mllog.CACHE_CLEAR)
                # What counts is how it was when the clock started.
                cleared = logged.value if logged else None
            record = replace(record, run=replace(record.run, cache_cleared=cleared))
            if settings.leads and not job.resumption:
                _log_submission(out.writer, record, settings)
            exit_status = _train(job, record, out, stop)
            status, reason = _judge(exit_status, job, out, stop)
        except Exception as error:
            # A full disk, or a bug of ours: the record tells of it before the door does.
            _finish(record, job, out, "failed", f"the harness stopped: {one_line(str(error)) or type(error).__name__}")
            raise
        record = _finish(record, job, out, status, reason)

    display.show(lambda: print_summary(record, job.run_dir))
    if record.status not in EXIT_STATUS:
        display.say(f"error: {record.reason}")
    return EXIT_STATUS.get(record.status, EXIT_ERROR)


# ---------------------------------------------------------------------------------------------------------------------
# The timed part


def _open(job: Job, display: Display) -> _Outlets:
    run_dir = job.run_dir
    log = RunLog(run_dir / LOG_FILE, to_stdout=job.settings.leads)
    (run_dir / ".reserve").write_bytes(bytes(RESERVE_BYTES))
    telemetry = Telemetry(run_dir / TELEMETRY_FILE, say=lambda text: display.say(f"telemetry: {text}"))
    return _Outlets(display, log, LogWriter(log.sink), ErrorLog(run_dir / ERRORS_FILE), telemetry)


def _clear_caches(settings: Settings, display: Display) -> bool:
    if not settings.drop_caches:
        display.say("file caches are left alone (DROP_CACHES=0)")
        return False
    why_not = drop_caches()
    if why_not:
        display.say(f"file caches could not be cleared ({why_not}); the log says so")
    return why_not is None


def _disturbance(load: Load, display: Display) -> tuple[str, ...]:
    """A warning where other programs would lengthen the run, said now and kept with it."""
    if not load.disturbs:
        return ()
    display.say(f"warning: {load}: they lengthen the run - end them, or wait, before a result that counts")
    return (f"before the clock started: {load}",)


def _log_submission(writer: LogWriter, record: RunRecord, settings: Settings) -> None:
    """The lines that say who ran what, where and on which data."""
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


def _train(job: Job, record: RunRecord, out: _Outlets, stop: launch.Stop) -> int:
    """Start the trainer and pass on what it says until it has ended; returns its exit status, negative for a signal."""
    if stop.reason is not None:
        return EXIT_ERROR
    # Before the telemetry's thread: a child is started while this is the only one.
    process = launch.start(trainer_command(job), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out.telemetry.watch(process.pid)
        # A resumed run's devices are those of its beginning until its trainer names others.
        out.telemetry.use(_uuids(out.log.last(mllog.ACCELERATORS)))
        out.telemetry.start()

        def on_output(raw: bytes) -> None:
            if out.display.progress(raw):
                return
            at = raw.rfind(mllog.TOKEN)
            if not isinstance(mllog.parse_line(raw), Event):
                out.display.say("trainer: " + raw.decode("utf-8", "replace"))
                return
            if at > 0:
                out.display.say("trainer: " + raw[:at].decode("utf-8", "replace"))
            out.display.make_way()
            event = out.log.write(raw[at:].rstrip(b"\r"))
            if out.log.failure:
                stop.ask(f"{out.log.path}: the log cannot be written ({out.log.failure})")
            if event:
                _react(event, record, out)

        launch.listen(process, stop, on_output, lambda raw: out.display.say(out.errors.write(raw)))
    finally:
        exit_status = launch.end(process)
        out.telemetry.stop()
        out.display.close()
    return exit_status


def _react(event: Event, record: RunRecord, out: _Outlets) -> None:
    if event.key in MARKED:
        epoch = f" {event.epoch_num}" if event.epoch_num is not None else ""
        out.telemetry.mark(event.key + epoch, event.time_ms / 1000)
    if event.key in (mllog.ACCELERATORS, mllog.RESUMED) and _listed(event):
        out.telemetry.use(_uuids(event))
    if event.key in (mllog.RUN_START, mllog.RESUMED):
        out.telemetry.count_others()
    if event.key == mllog.EVAL_STOP:
        log = summarise(out.log.events)
        if log.epochs and log.run_start:
            since_start_s = max(0.0, clock.now_s() - log.run_start.time_ms / 1000)
            out.display.epoch(log.epochs[-1], record.params["train"]["max_epochs"], since_start_s)


def _uuids(accelerators: Event | None) -> list[str]:
    return [item["uuid"] for item in _listed(accelerators) if isinstance(item.get("uuid"), str)]


def _listed(accelerators: Event | None) -> list[dict]:
    """The devices that an `accelerators` event names in its value, a `resumed` one in its metadata."""
    listed: object = None
    if accelerators:
        resumed = accelerators.key == mllog.RESUMED
        listed = accelerators.metadata.get(mllog.ACCELERATORS) if resumed else accelerators.value
    if not isinstance(listed, list):
        return []
    return [item for item in listed if isinstance(item, dict)]


# ---------------------------------------------------------------------------------------------------------------------
# After it


def _judge(exit_status: int, job: Job, out: _Outlets, stop: launch.Stop) -> tuple[Status, str | None]:
    errors = list(out.errors.tail)
    # A run that had logged its end before somebody asked for it did end: its log decides, as it does under torchrun.
    log_decides = job.settings.uses_torchrun or (stop.reason is not None and out.log.last(mllog.RUN_STOP) is not None)
    if job.settings.leads:
        target_wer = job.params.train.target_wer
        status, reason = verdict(exit_status, out.log, errors, target_wer=target_wer, log_decides=log_decides)
    else:
        status, reason = follower_verdict(exit_status, errors)
    if stop.reason is not None and status not in EXIT_STATUS:
        return ("interrupted" if stop.signal_number else "failed"), stop.reason
    return status, reason


def _finish(record: RunRecord, job: Job, out: _Outlets, status: Status, reason: str | None) -> RunRecord:
    """Close the log and write the record; never raises for a disk that takes no more, but says so."""
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
        ),
        epochs=log.epochs,
        telemetry=summary.as_dict() if summary else None,
        files=hash_files(job.run_dir),
        notes=record.notes + _notes(out),
    )
    try:
        write_record(record, job.run_dir)
    except OSError as error:
        said = f"the record could not be written ({from_os_error(error)})"
        out.display.say(f"error: {said}")
        if status in EXIT_STATUS:
            record = replace(record, status="failed", reason=said)
    return record


def _device(accelerators: Event | None) -> str | None:
    """`cuda` or `cpu`: what the trainer found, where the user left the choice to it."""
    return next(
        (item["device"].partition(":")[0] for item in _listed(accelerators) if isinstance(item.get("device"), str)),
        None,
    )


def _telemetry_summary(log: LogSummary, out: _Outlets) -> Summary | None:
    """What was measured from run_start (or from where the run went on) to run_stop; None if the run never got there."""
    begin = out.log.last(mllog.RESUMED) or log.run_start
    if not begin or not log.run_stop:
        return None
    summary = out.telemetry.summary(begin.time_ms / 1000, log.run_stop.time_ms / 1000)
    return summary if summary.samples else None


def _notes(out: _Outlets) -> tuple[str, ...]:
    notes = []
    if out.log.stdout_lost:
        notes.append("the reader of stdout went away before the end: result.txt has the whole log")
    if out.display.lost:
        notes.append("stderr could not be written to the end (its terminal was closed)")
    if out.errors.failure:
        notes.append(f"trainer.err is incomplete ({out.errors.failure})")
    slept_s = clock.slept_s() - out.slept_before_s
    if slept_s > 1:
        notes.append(f"the machine slept for {slept_s:.0f} s: the run's clock went on, its telemetry did not")
    return tuple(notes)
