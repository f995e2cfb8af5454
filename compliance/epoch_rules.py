"""Rules for the timed region: complete epochs and evaluations counted from 1, ending with the first that passes."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark import mllog
from benchmark.mllog import Event
from benchmark.params import MAX_EPOCHS_CAP
from benchmark.trainer_contract import EPOCH_EVENTS
from common.values import is_integer, is_number
from compliance.findings import Fault, Rule, shown
from compliance.log import Log

CLOCK_S, CLOCK_SHARE = 0.5, 0.01
"""Allowed lag of the system clock, which a time server adjusts, behind the trainer's monotonic clock."""
THROUGHPUT_SHARE = 0.02
"""Tolerance, since both figures are rounded."""
RATE_TOLERANCE = 1e-6
"""Percent: a logged rate must be the ratio of the counts logged with it."""


def _cycle_events(log: Log) -> list[Event]:
    return [event for event in log.events if event.key in EPOCH_EVENTS]


def epoch_pairs(log: Log) -> Iterator[Fault]:
    """Each epoch is start, stop, statistics, evaluation start, score, evaluation stop; none is missing or duplicated."""
    place = 0
    events = _cycle_events(log)
    for event in events:
        if event.key != EPOCH_EVENTS[place]:
            remedy = "log each epoch's six events in order, once each"
            yield Fault(f"{EPOCH_EVENTS[place]} next", event.key, remedy, event.line)
            # Continue from here, so that one missing line is one finding.
            place = EPOCH_EVENTS.index(event.key)
        place = (place + 1) % len(EPOCH_EVENTS)
    if events and place:
        remedy = "the log was truncated, or the run ended in mid-epoch: make the run again"
        yield Fault(
            f"{EPOCH_EVENTS[place]} before the end", f"the last event is {events[-1].key}", remedy, events[-1].line
        )


def epoch_numbers(log: Log) -> Iterator[Fault]:
    """Epochs count from 1 without gaps, and every event of an epoch has its number."""
    current = 0
    for event in _cycle_events(log):
        epoch = event.metadata.get(mllog.EPOCH_NUM)
        expected = current + 1 if event.key == mllog.EPOCH_START else max(current, 1)
        if not is_integer(epoch, 1) or epoch != expected:
            found = f"epoch_num {shown(epoch)}" if mllog.EPOCH_NUM in event.metadata else "no epoch_num"
            yield Fault(
                f"{event.key} with epoch_num {expected}", found, "count epochs from 1 in steps of 1", event.line
            )
        if event.key == mllog.EPOCH_START:
            current = epoch if is_integer(epoch, 1) else expected
    for key in (mllog.TRAINED_SAMPLES, mllog.RUN_STOP):
        for event in log.all(key):
            epoch = event.metadata.get(mllog.EPOCH_NUM, current)
            if not is_integer(epoch) or epoch != current:
                found = f"epoch_num {shown(epoch)}"
                yield Fault(f"{key} with epoch_num {current}", found, "log the last epoch's number", event.line)


def epoch_cap(log: Log) -> Iterator[Fault]:
    """A run does not train for more epochs than its parameters and the benchmark allow."""
    own = log.parameter("train.max_epochs")
    cap = min(own, MAX_EPOCHS_CAP) if is_integer(own, 1) else MAX_EPOCHS_CAP
    for number, event in enumerate(log.all(mllog.EPOCH_START), 1):
        if number > cap:
            yield Fault(f"at most {cap} epochs", f"epoch {number}", "end the run at the cap, as aborted", event.line)


def epoch_time(log: Log) -> Iterator[Fault]:
    """By the log's times an epoch took at least as long as the trainer measured."""
    started = stopped = None
    for event in log.events:
        if event.key == mllog.EPOCH_START:
            started = event
        elif event.key == mllog.EPOCH_STOP:
            stopped = event
        elif event.key == mllog.TRACKED_STATS and isinstance(event.value, dict) and started and stopped:
            train_s = event.value.get("train_s")
            logged_s = (stopped.time_ms - started.time_ms) / 1000
            if is_number(train_s) and logged_s < train_s * (1 - CLOCK_SHARE) - CLOCK_S:
                remedy = (
                    "restore the times as they were logged; a run whose clock was set while it was running is invalid"
                )
                yield Fault(f"an epoch of at least {train_s:g} s (train_s)", f"{logged_s:g} s", remedy, stopped.line)


def epoch_throughput(log: Log) -> Iterator[Fault]:
    """The logged throughput is the whole training set divided by the logged time."""
    samples = log.value(mllog.TRAIN_SAMPLES)
    for event in log.all(mllog.TRACKED_STATS):
        if isinstance(event.value, dict) and is_integer(samples, 1):
            train_s, per_s = event.value.get("train_s"), event.value.get("utterances_per_s")
            if is_number(train_s) and is_number(per_s) and abs(per_s * train_s - samples) > THROUGHPUT_SHARE * samples:
                remedy = "log what the trainer measured"
                expected = f"utterances_per_s x train_s = {samples} utterances"
                yield Fault(expected, f"{per_s:g} x {train_s:g} = {per_s * train_s:.1f}", remedy, event.line)


def eval_score(log: Log) -> Iterator[Fault]:
    """The error rates are the ratios of the logged counts, over the same words and characters each time."""
    sizes: dict[str, int] = {}
    for event in (each.event for each in log.summary.evaluations):
        for what, rate in (("word", event.value), ("char", event.metadata.get("cer"))):
            edits, now = event.metadata.get(f"{what}_edits"), event.metadata.get(f"{what}s")
            if not is_integer(edits) or not is_integer(now, 1) or not is_number(rate):
                found = f"{what}_edits {shown(edits)}, {what}s {shown(now)}, rate {shown(rate)}"
                yield Fault(f"a rate with its counts {what}_edits and {what}s", found, "log all three", event.line)
                continue
            ratio = 100.0 * edits / now
            if abs(ratio - rate) > RATE_TOLERANCE:
                remedy = f"log all {what} edits over all reference {what}s, in percent"
                yield Fault(f"100 x {edits} / {now} = {ratio:.6f}", shown(rate), remedy, event.line)
            if sizes.setdefault(what, now) != now:
                remedy = "evaluate the same set after each epoch"
                yield Fault(f"{sizes[what]} {what}s each time", str(now), remedy, event.line)


def target_stop(log: Log) -> Iterator[Fault]:
    """Training ends with the first evaluation that reaches the target."""
    passing = log.summary.first_passing
    if passing is None:
        return
    for event in log.all(mllog.EPOCH_START):
        if event.line > passing.event.line:
            found = f"an epoch that starts after {shown(passing.value)} passed in line {passing.event.line}"
            yield Fault("no training after the target", found, "stop at the first passing evaluation", event.line)


def run_status(log: Log) -> Iterator[Fault]:
    """The run succeeded; an aborted run is a valid outcome, but not an entry."""
    for event in log.all(mllog.RUN_STOP):
        status = event.metadata.get(mllog.STATUS)
        reason = log.value(mllog.RUN_ABORTED_REASON)
        if status == mllog.SUCCESS and reason is not None:
            found = f"{mllog.RUN_ABORTED_REASON} {shown(reason)}"
            yield Fault("no abort reason in a run that succeeded", found, "log how the run ended", event.line)
        elif status == mllog.ABORTED:
            found = f"aborted ({shown(reason)})" if reason else "aborted"
            remedy = "a run that missed the target counts as the slowest; replace it if more than one did"
            yield Fault("status success", found, remedy, event.line)
        elif status != mllog.SUCCESS:
            yield Fault("status success or aborted", shown(status), "log how the run ended", event.line)


def target_reached(log: Log) -> Iterator[Fault]:
    """The status of run_stop agrees with the scores."""
    summary = log.summary
    stop, target, passing = summary.run_stop, summary.target_wer, summary.first_passing
    if stop is None or target is None:
        return
    if summary.status == mllog.SUCCESS and not summary.reaches(target):
        found = "no evaluation" if summary.final is None else f"{summary.final:.4f} in the last evaluation"
        yield Fault(f"a word error rate of at most {target:g} %", found, "log such a run as aborted", stop.line)
    if summary.status == mllog.ABORTED and passing is not None:
        found = f"aborted, though line {passing.event.line} passed with {passing.value:.4f}"
        yield Fault("success, since the target was reached", found, "log how the run ended", stop.line)


def trained_samples(log: Log) -> Iterator[Fault]:
    """Every epoch trains on the whole training set once; the total is logged after the last epoch."""
    samples, epochs = log.value(mllog.TRAIN_SAMPLES), len(log.all(mllog.EPOCH_START))
    event = log.first(mllog.TRAINED_SAMPLES)
    if event and is_integer(samples, 1) and is_integer(event.value) and event.value != samples * epochs:
        expected = f"{samples} x {epochs} epochs = {samples * epochs}"
        yield Fault(expected, shown(event.value), "train on each utterance once an epoch", event.line)
    for later in _cycle_events(log):
        if event and later.line > event.line:
            remedy = "log the total once, after the last epoch"
            yield Fault("trained_samples after the last epoch", f"{later.key} after it", remedy, event.line)
            break


def resumed(log: Log) -> Iterator[Fault]:
    """A resumed run continues after a complete epoch and logs its number."""
    current, whole = 0, True
    for event in log.events:
        if event.key in EPOCH_EVENTS:
            whole = event.key == mllog.EVAL_STOP
            current += whole
        elif event.key == mllog.RESUMED and (event.value != current or not whole):
            found = shown(event.value) if whole else "in mid-epoch"
            yield Fault(
                f"resumed after epoch {current}", found, "truncate the log to the last complete epoch", event.line
            )


EPOCH_RULES = [
    Rule(
        "epoch-pairs",
        "Each epoch logs its start, stop, statistics, evaluation start, score and stop, in order.",
        epoch_pairs,
    ),
    Rule(
        "epoch-numbers",
        "Epochs count from 1 without gaps; every event of an epoch has its epoch_num.",
        epoch_numbers,
    ),
    Rule("epoch-cap", "A run trains at most train.max_epochs epochs, and never more than ten.", epoch_cap),
    Rule("epoch-time", "By the log's times an epoch is not shorter than its train_s.", epoch_time),
    Rule("epoch-throughput", "utterances_per_s times train_s is train_samples.", epoch_throughput),
    Rule("eval-score", "WER and CER are 100 x edits / words or characters, over the same set each time.", eval_score),
    Rule("target-stop", "No epoch starts after the first evaluation that reaches the target.", target_stop),
    Rule(
        "target-reached", "Status success means that the target was reached, aborted that it was not.", target_reached
    ),
    Rule("run-status", "The run's status is success; an aborted run is valid, but not an entry.", run_status),
    Rule("trained-samples", "trained_samples is train_samples times the epochs.", trained_samples),
    Rule("epoch-resumed", "A resumed run continues after a complete epoch.", resumed),
]
