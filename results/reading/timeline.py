"""Times, evaluations, throughput and verdict of a run, from its log's summary."""

from __future__ import annotations

from benchmark import mllog
from benchmark.log_summary import LogSummary
from benchmark.mllog import BENCHMARK
from benchmark.rounds.progress_to_target import progress_at, progress_to_target
from benchmark.submission import UNFINISHED
from common.values import number
from results.reading.measures import text
from results.reading.run_data import FAILED, PENDING, Run
from results.reading.throughput import fill_throughput


def fill_timeline(run: Run, log: LogSummary) -> None:
    """Fill in times, evaluations and throughput from the log."""
    run.bad_lines = log.bad_lines
    if log.bad is not None:
        more = f" (and {log.bad_lines - 1} more)" if log.bad_lines > 1 else ""
        run.problems.append(f"line {log.bad.line}: {log.bad.reason}{more}")
    for event in log.restarts:
        counted = "last" if event is log.run_start else "first"
        run.problems.append(f"line {event.line}: run_start again; the timed region starts at the {counted} one")
    run.problems += [f"line {event.line}: {event.key} is not a finite number" for event in log.unread]
    run.epoch_marks = log.epoch_spans
    run.started_ms = log.run_start.time_ms if log.run_start else None
    run.init_s = log.init_s
    if log.evaluation_spans:
        run.eval_s = number(sum((stop - start) / 1000 for start, stop in log.evaluation_spans))
    _fill_evaluations(run, log)
    fill_throughput(run, log)


def _fill_evaluations(run: Run, log: LogSummary) -> None:
    """Fill in what the evaluations gave; of several metrics with a line each, the first one."""
    rules = run.rules
    first = next(iter(log.evaluations[0].metrics), "") if log.evaluations else ""
    for each in log.evaluations:
        if first in each.metrics:
            progress = progress_at(each.event.metadata, rules)
            run.evals.append((progress.value if progress else None, each.metrics[first], each.event.time_ms))
    if run.evals:
        run.last_epoch, run.last_accuracy, _ = run.evals[-1]
        run.best_wer = number(log.best * run.wer_factor) if log.best is not None and run.wer_factor else None


def fill_verdict(run: Run, log: LogSummary) -> None:
    """Fill in minutes and verdict."""
    stop, state = log.run_stop, run.record.status if run.record else None
    if stop is not None and log.run_start is not None:
        # A run of no time has measured nothing, whatever its status; it would be infinitely fast.
        run.minutes = log.minutes or None
        run.verdict = FAILED if run.minutes is None else text(log.status) or FAILED
        if run.minutes is None:
            order = "has the time of" if log.minutes == 0 else "is earlier than"
            run.problems.append(f"line {stop.line}: run_stop {order} run_start: counts as a failed run")
        elif text(log.status) is None:
            run.problems.append(f"line {stop.line}: run_stop has no status: counts as a failed run")
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
    if run.verdict == mllog.SUCCESS and (progress := progress_to_target(log, run.rules)) is not None:
        run.progress_to_target, run.progress_unit = progress
