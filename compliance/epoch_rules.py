"""Rules of the timed part: epochs and evaluations in pairs, counted from 1, and the end at the first that passes."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark import mllog
from benchmark.mllog import Event
from benchmark.params import MAX_EPOCHS_CAP
from benchmark.trainer_contract import EPOCH_EVENTS
from common.values import is_number, is_whole
from compliance.findings import Fault, Rule, shown
from compliance.log import Log

CLOCK_S, CLOCK_SHARE = 0.5, 0.01
"""By so much the system's clock, kept by a time server, may run slower than a stopwatch."""
THROUGHPUT_SHARE = 0.02
"""Both figures are rounded."""
RATE_TOLERANCE = 1e-6
"""Percent: a logged rate must be the ratio of the counts logged beside it."""


def _cycle_events(log: Log) -> list[Event]:
    return [event for event in log.events if event.key in EPOCH_EVENTS]


def epoch_pairs(log: Log) -> Iterator[Fault]:
    """Each epoch is: start, stop, statistics, evaluation start, score, evaluation stop; nothing left out or doubled."""
    place = 0
    events = _cycle_events(log)
    for event in events:
        if event.key != EPOCH_EVENTS[place]:
            remedy = "log each epoch's six events in order, once each"
            yield Fault(f"{EPOCH_EVENTS[place]} next", event.key, remedy, event.line)
            # Go on from here, so that one missing line is one finding.
            place = EPOCH_EVENTS.index(event.key)
        place = (place + 1) % len(EPOCH_EVENTS)
    if events and place:
        remedy = "the log was cut, or the run broke off in mid-epoch: make the run again"
        yield Fault(f"{EPOCH_EVENTS[place]} before the end", f"the last is {events[-1].key}", remedy, events[-1].line)


def epoch_numbers(log: Log) -> Iterator[Fault]:
    """Epochs count from 1 without a gap, and all events of an epoch name it."""
    current = 0
    for event in _cycle_events(log):
        epoch = event.metadata.get(mllog.EPOCH_NUM)
        expected = current + 1 if event.key == mllog.EPOCH_START else max(current, 1)
        if not is_whole(epoch, 1) or epoch != expected:
            found = f"epoch_num {shown(epoch)}" if mllog.EPOCH_NUM in event.metadata else "no epoch_num"
            yield Fault(f"{event.key} with epoch_num {expected}", found, "count epochs from 1, one by one", event.line)
        if event.key == mllog.EPOCH_START:
            current = epoch if is_whole(epoch, 1) else expected
    for key in (mllog.TRAINED_SAMPLES, mllog.RUN_STOP):
        for event in log.all(key):
            epoch = event.metadata.get(mllog.EPOCH_NUM, current)
            if not is_whole(epoch) or epoch != current:
                found = f"epoch_num {shown(epoch)}"
                yield Fault(f"{key} with epoch_num {current}", found, "log the last epoch's number", event.line)


def epoch_cap(log: Log) -> Iterator[Fault]:
    """No run trains longer than its parameters and the benchmark allow."""
    own = log.parameter("train.max_epochs")
    cap = min(own, MAX_EPOCHS_CAP) if is_whole(own, 1) else MAX_EPOCHS_CAP
    for number, event in enumerate(log.all(mllog.EPOCH_START), 1):
        if number > cap:
            yield Fault(f"at most {cap} epochs", f"epoch {number}", "end the run at the cap, as aborted", event.line)


def epoch_time(log: Log) -> Iterator[Fault]:
    """By the log's clock an epoch took at least as long as the trainer's own stopwatch says."""
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
                remedy = "restore the times as they were logged; a clock set in mid-run spoils the run"
                yield Fault(f"an epoch of at least {train_s:g} s (train_s)", f"{logged_s:g} s", remedy, stopped.line)


def epoch_throughput(log: Log) -> Iterator[Fault]:
    """The logged throughput is that of the whole training set in the logged time."""
    samples = log.value(mllog.TRAIN_SAMPLES)
    for event in log.all(mllog.TRACKED_STATS):
        if isinstance(event.value, dict) and is_whole(samples, 1):
            train_s, per_s = event.value.get("train_s"), event.value.get("utterances_per_s")
            if is_number(train_s) and is_number(per_s) and abs(per_s * train_s - samples) > THROUGHPUT_SHARE * samples:
                remedy = "log what the trainer measured"
                expected = f"utterances_per_s x train_s = {samples} utterances"
                yield Fault(expected, f"{per_s:g} x {train_s:g} = {per_s * train_s:.1f}", remedy, event.line)


def eval_score(log: Log) -> Iterator[Fault]:
    """The error rates are the ratios of the counts beside them, on the same words and characters each time."""
    sizes: dict[str, int] = {}
    for event in (each.event for each in log.summary.evaluations):
        for what, rate in (("word", event.value), ("char", event.metadata.get("cer"))):
            edits, now = event.metadata.get(f"{what}_edits"), event.metadata.get(f"{what}s")
            if not is_whole(edits) or not is_whole(now, 1) or not is_number(rate):
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
    """Training ends with the first evaluation that passes."""
    passing = log.summary.first_passing
    if passing is None:
        return
    for event in log.all(mllog.EPOCH_START):
        if event.line > passing.event.line:
            found = f"an epoch that starts after {shown(passing.value)} passed in line {passing.event.line}"
            yield Fault("no training after the target", found, "stop at the first passing evaluation", event.line)


def run_status(log: Log) -> Iterator[Fault]:
    """The run says that it succeeded; an aborted run is an honest outcome, but no entry."""
    for event in log.all(mllog.RUN_STOP):
        status = event.metadata.get(mllog.STATUS)
        reason = log.value(mllog.RUN_ABORTED_REASON)
        if status == mllog.SUCCESS and reason is not None:
            found = f"{mllog.RUN_ABORTED_REASON} {shown(reason)}"
            yield Fault("no reason for an abortion in a run that succeeded", found, "log how the run ended", event.line)
        elif status == mllog.ABORTED:
            found = f"aborted ({shown(reason)})" if reason else "aborted"
            remedy = "a run that missed the target counts as the slowest; replace it, if more than one did"
            yield Fault("status success", found, remedy, event.line)
        elif status != mllog.SUCCESS:
            yield Fault("status success or aborted", shown(status), "log how the run ended", event.line)


def target_reached(log: Log) -> Iterator[Fault]:
    """What run_stop says agrees with the scores."""
    said = log.summary
    stop, target, passing = said.run_stop, said.target_wer, said.first_passing
    if stop is None or target is None:
        return
    if said.status == mllog.SUCCESS and not said.reaches(target):
        found = "no evaluation" if said.final is None else f"{said.final:.4f} in the last evaluation"
        yield Fault(f"a word error rate of at most {target:g} %", found, "such a run is aborted", stop.line)
    if said.status == mllog.ABORTED and passing is not None:
        found = f"aborted, though line {passing.event.line} passed with {passing.value:.4f}"
        yield Fault("success where the target was reached", found, "log how the run ended", stop.line)


def trained_samples(log: Log) -> Iterator[Fault]:
    """Every epoch trained on the whole training set once; the sum is logged when all epochs are over."""
    samples, epochs = log.value(mllog.TRAIN_SAMPLES), len(log.all(mllog.EPOCH_START))
    event = log.first(mllog.TRAINED_SAMPLES)
    if event and is_whole(samples, 1) and is_whole(event.value) and event.value != samples * epochs:
        expected = f"{samples} x {epochs} epochs = {samples * epochs}"
        yield Fault(expected, shown(event.value), "train on each utterance once an epoch", event.line)
    for later in _cycle_events(log):
        if event and later.line > event.line:
            remedy = "log the sum once, when all epochs are over"
            yield Fault("trained_samples after the last epoch", f"{later.key} after it", remedy, event.line)
            break


def resumed(log: Log) -> Iterator[Fault]:
    """A resumed run goes on after a whole epoch, and says which."""
    current, whole = 0, True
    for event in log.events:
        if event.key in EPOCH_EVENTS:
            whole = event.key == mllog.EVAL_STOP
            current += whole
        elif event.key == mllog.RESUMED and (event.value != current or not whole):
            found = shown(event.value) if whole else "in mid-epoch"
            yield Fault(f"resumed after epoch {current}", found, "cut the log back to the last whole epoch", event.line)


EPOCH_RULES = [
    Rule(
        "epoch-pairs",
        "Each epoch logs its start, stop, statistics, evaluation start, score and stop, in order.",
        epoch_pairs,
    ),
    Rule(
        "epoch-numbers",
        "Epochs count from 1 without a gap; every event of an epoch carries its epoch_num.",
        epoch_numbers,
    ),
    Rule("epoch-cap", "A run trains at most train.max_epochs epochs, and never more than ten.", epoch_cap),
    Rule("epoch-time", "By the log's clock an epoch is not shorter than its train_s.", epoch_time),
    Rule("epoch-throughput", "utterances_per_s times train_s is train_samples.", epoch_throughput),
    Rule("eval-score", "WER and CER are 100 x edits / words or characters, over the same set each time.", eval_score),
    Rule("target-stop", "No epoch starts after the first evaluation that reaches the target.", target_stop),
    Rule(
        "target-reached", "Status success means that the target was reached, aborted that it was not.", target_reached
    ),
    Rule("run-status", "The run's status is success; aborted is honest, but no entry.", run_status),
    Rule("trained-samples", "trained_samples is train_samples times the epochs.", trained_samples),
    Rule("epoch-resumed", "A resumed run goes on after a whole epoch.", resumed),
]
