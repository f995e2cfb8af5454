"""Rules for the structure of one log: which keys it has, how often, with which values, in which order and at which times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from benchmark import mllog
from benchmark.mllog import Event
from benchmark.submission import DIVISIONS, STATUSES
from benchmark.trainer_contract import ENDS, STARTS
from common.values import is_digest, is_integer, is_number, is_text
from compliance.findings import ERROR, WARNING, Fault, Rule, shown
from compliance.log import Log

MAX_INIT_S = 30 * 60
RANK_SKEW_MS = 1000
"""Allowed difference between the clocks of a run's processes; within one process times must never go back."""
REGION_S, REGION_SHARE = 1.0, 0.01
"""Allowed difference between the telemetry's clock and the log's over a run."""
EARLIEST_MS, LATEST_MS = 1.26e12, 4.1e12
"""2010 and 2099: times outside are not Unix milliseconds (mostly seconds or microseconds)."""


def _is_dataset(value: object) -> bool:
    return isinstance(value, dict) and is_text(value.get("name")) and is_digest(value.get("tree_sha256"))


def _is_score(value: object) -> bool:
    return is_number(value) and value >= 0


def _is_null(value: object) -> bool:
    return value is None


def _is_positive(value: object) -> bool:
    return is_number(value) and value > 0


def _is_stats(value: object) -> bool:
    return (
        isinstance(value, dict)
        and is_number(value.get("train_loss"))
        and _is_positive(value.get("train_s"))
        and _is_positive(value.get("utterances_per_s"))
    )


def _is_telemetry(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _is_positive(value.get("interval_s"))
        and is_integer(value.get("samples"))
        and is_number(value.get("region_s"))
    )


@dataclass(frozen=True)
class Key:
    """A key of a run: its phase of the log, what its value must be, and whether it occurs once per epoch."""

    name: str
    phase: str
    is_valid: Callable[[object], bool] = _is_null
    expected: str = "null"
    each_epoch: bool = False
    required: bool = True


HEAD, INIT, RUN, TAIL = "before init_start", "between init_start and init_stop", "in the run", "after run_stop"
EDGE = ""

KEYS = [
    Key(mllog.SUBMISSION_BENCHMARK, HEAD, lambda v: v == mllog.BENCHMARK, mllog.BENCHMARK),
    Key(mllog.SUBMISSION_ORG, HEAD, is_text, "the submitter's name"),
    Key(mllog.SUBMISSION_DIVISION, HEAD, lambda v: v in DIVISIONS, " or ".join(DIVISIONS)),
    Key(mllog.SUBMISSION_STATUS, HEAD, lambda v: v in STATUSES, f"one of {', '.join(STATUSES)}"),
    Key(mllog.SUBMISSION_PLATFORM, HEAD, is_text, "the system's name"),
    Key(mllog.VARIANT, HEAD, is_text, "the variant's name"),
    Key(mllog.DATASET, HEAD, _is_dataset, "an object with name and tree_sha256 (64 hexadecimal digits)"),
    Key(mllog.PARAMS_SHA256, HEAD, is_digest, "64 hexadecimal digits"),
    Key(mllog.CACHE_CLEAR, HEAD, lambda v: type(v) is bool, "true or false"),
    Key(mllog.INIT_START, EDGE),
    Key(mllog.SEED, INIT, is_integer, "a whole number from 0"),
    Key(mllog.NUMBER_OF_PROCESSES, INIT, lambda v: is_integer(v, 1), "a whole number from 1"),
    Key(mllog.GLOBAL_BATCH_SIZE, INIT, lambda v: is_integer(v, 1), "a whole number from 1"),
    Key(mllog.GRADIENT_ACCUMULATION_STEPS, INIT, lambda v: is_integer(v, 1), "a whole number from 1"),
    Key(mllog.TRAIN_SAMPLES, INIT, lambda v: is_integer(v, 1), "a whole number from 1"),
    Key(mllog.EVAL_SAMPLES, INIT, lambda v: is_integer(v, 1), "a whole number from 1"),
    Key(mllog.OPT_NAME, INIT, is_text, "the optimizer's name"),
    Key(mllog.OPT_BASE_LEARNING_RATE, INIT, is_number, "a number"),
    Key(mllog.OPT_WEIGHT_DECAY, INIT, is_number, "a number"),
    Key(mllog.OPT_GRADIENT_CLIP_NORM, INIT, is_number, "a number"),
    Key(mllog.OPT_LEARNING_RATE_WARMUP_STEPS, INIT, is_integer, "a whole number from 0"),
    Key(mllog.HYPERPARAMETERS, INIT, lambda v: isinstance(v, dict), "an object of dotted names"),
    Key(mllog.TARGET_WER, INIT, _is_score, "a word error rate in percent"),
    Key(mllog.ACCELERATORS, INIT, lambda v: isinstance(v, list) and bool(v), "a list, one item for each process"),
    Key(mllog.INIT_STOP, EDGE),
    Key(mllog.RUN_START, EDGE),
    Key(mllog.EPOCH_START, RUN, each_epoch=True),
    Key(mllog.EPOCH_STOP, RUN, each_epoch=True),
    Key(
        mllog.TRACKED_STATS,
        RUN,
        _is_stats,
        "an object with the numbers train_loss, train_s and utterances_per_s",
        each_epoch=True,
    ),
    Key(mllog.EVAL_START, RUN, each_epoch=True),
    Key(mllog.EVAL_ACCURACY, RUN, _is_score, "a word error rate in percent, finite, from 0", each_epoch=True),
    Key(mllog.EVAL_STOP, RUN, each_epoch=True),
    Key(mllog.RESUMED, RUN, lambda v: is_integer(v, 1), "the last epoch kept", each_epoch=True, required=False),
    Key(mllog.TRAINED_SAMPLES, RUN, lambda v: is_integer(v, 1), "a whole number from 1"),
    Key(mllog.RUN_ABORTED_REASON, RUN, is_text, "why the run ended", required=False),
    Key(mllog.RUN_STOP, EDGE),
    Key(mllog.TELEMETRY_SUMMARY, TAIL, _is_telemetry, "an object with interval_s, samples and region_s"),
]
KEY_OF = {key.name: key for key in KEYS}


def is_known_key(key: str) -> bool:
    """Whether the rules cover a key; others may occur anywhere."""
    return key in KEY_OF or key.startswith("opt_")


def key_present(log: Log) -> Iterator[Fault]:
    """Every key of a run occurs."""
    for key in KEYS:
        if key.required and not log.all(key.name):
            place = key.phase or "in the log"
            remedy = "log the whole run; a truncated log cannot be repaired: make the run again"
            yield Fault(f"{key.name}, {place}", "no such event", remedy, log.last_line)


def key_once(log: Log) -> Iterator[Fault]:
    """A key that must occur once occurs once, even if the values are equal."""
    processes = log.value(mllog.NUMBER_OF_PROCESSES)
    for name, events in log.by_key.items():
        if not is_known_key(name) or (name in KEY_OF and KEY_OF[name].each_epoch):
            continue
        # One init_start from each of several processes is unnecessary but harmless: a warning.
        tolerated = is_integer(processes, 2) and name == mllog.INIT_START and len(events) <= processes
        for event in events[1:]:
            found = f"again, after line {events[0].line}"
            remedy = "let only rank 0 log; put two runs into two files"
            yield Fault(f"{name} once", found, remedy, event.line, WARNING if tolerated else ERROR)


def key_value(log: Log) -> Iterator[Fault]:
    """Each value has the right type and range."""
    for key in KEYS:
        for event in log.all(key.name):
            if not key.is_valid(event.value):
                remedy = "log the run's own value"
                yield Fault(f"{key.name}: {key.expected}", shown(event.value), remedy, event.line)


def key_order(log: Log) -> Iterator[Fault]:
    """Each key is in its phase of the log, and the phases are in order."""
    edges = [mllog.INIT_START, mllog.INIT_STOP, mllog.RUN_START, mllog.RUN_STOP]
    index = {id(event): number for number, event in enumerate(log.events)}
    place = {name: index[id(log.all(name)[0])] for name in edges if log.all(name)}
    for earlier, later in pairwise(edges):
        if earlier in place and later in place and place[earlier] > place[later]:
            line = log.all(later)[0].line
            yield Fault(f"{later} after {earlier}", f"{later} first", "log the events as they happen", line)
    start, stop = -1, len(log.events)
    span = {
        HEAD: (start, place.get(mllog.INIT_START, stop)),
        INIT: (place.get(mllog.INIT_START, start), place.get(mllog.INIT_STOP, stop)),
        RUN: (place.get(mllog.RUN_START, start), place.get(mllog.RUN_STOP, stop)),
        TAIL: (place.get(mllog.RUN_STOP, start), stop),
    }
    for event in log.events:
        phase = KEY_OF[event.key].phase if event.key in KEY_OF else INIT
        if is_known_key(event.key) and phase:
            low, high = span[phase]
            if not low < index[id(event)] < high:
                yield Fault(f"{event.key} {phase}", "it is elsewhere", "log the events as they happen", event.line)


def event_type(log: Log) -> Iterator[Fault]:
    """Starts, stops and points are logged as such, in a namespace that is text."""
    for event in log.events:
        if is_known_key(event.key):
            if not isinstance(event.namespace, str):
                found = f"namespace {shown(event.namespace)}"
                yield Fault(f"{event.key}: a namespace that is text", found, "log it with mlperf-logging", event.line)
            kind = "INTERVAL_START" if event.key in STARTS else "INTERVAL_END" if event.key in ENDS else "POINT_IN_TIME"
            if event.event_type != kind:
                yield Fault(f"{event.key}: {kind}", shown(event.event_type), "log it with mlperf-logging", event.line)


def clock_plausible(log: Log) -> Iterator[Fault]:
    """Times are milliseconds since 1970."""
    for event in log.events:
        if not (is_number(event.time_ms) and EARLIEST_MS < event.time_ms < LATEST_MS):
            found, remedy = shown(event.time_ms), "log Unix time in milliseconds, with the clock set"
            yield Fault("time_ms between 2010 and 2099", found, remedy, event.line)


def clock_order(log: Log) -> Iterator[Fault]:
    """Times never go back; a small skew between several processes is only a warning."""
    several = is_integer(log.value(mllog.NUMBER_OF_PROCESSES), 2)
    before: Event | None = None
    for event in log.events:
        if before is not None and is_number(event.time_ms) and is_number(before.time_ms):
            back_ms = before.time_ms - event.time_ms
            if back_ms > 0:
                small = several and back_ms <= RANK_SKEW_MS
                found = f"{back_ms:g} ms earlier than line {before.line}"
                remedy = "run with a clock that is not set back, and restore the order of the lines"
                yield Fault("times that never go back", found, remedy, event.line, WARNING if small else ERROR)
        before = event


def init_time(log: Log) -> Iterator[Fault]:
    """Initialisation before the timed region takes at most 30 minutes."""
    start, stop = log.first(mllog.INIT_START), log.first(mllog.INIT_STOP)
    if start and stop and is_number(start.time_ms) and is_number(stop.time_ms):
        init_s = (stop.time_ms - start.time_ms) / 1000
        if init_s > MAX_INIT_S:
            remedy = "prepare data before the run; only the model is set up here"
            yield Fault(f"init_stop within {MAX_INIT_S} s of init_start", f"{init_s:.0f} s", remedy, stop.line)


def run_time(log: Log) -> Iterator[Fault]:
    """The timed region has a positive duration."""
    start, stop = log.first(mllog.RUN_START), log.first(mllog.RUN_STOP)
    if start and stop and is_number(start.time_ms) and is_number(stop.time_ms) and stop.time_ms <= start.time_ms:
        found = f"{stop.time_ms - start.time_ms:g} ms"
        yield Fault("run_stop later than run_start", found, "make the run again", stop.line)


def run_telemetry(log: Log) -> Iterator[Fault]:
    """The duration measured by the telemetry, which has its own clock, is that of the log."""
    resumed, telemetry = log.all(mllog.RESUMED), log.first(mllog.TELEMETRY_SUMMARY)
    begin, stop = resumed[-1] if resumed else log.summary.run_start, log.summary.run_stop
    if begin is None or stop is None or telemetry is None or not isinstance(telemetry.value, dict):
        return
    region_s, logged_s = telemetry.value.get("region_s"), (stop.time_ms - begin.time_ms) / 1000
    if is_number(region_s) and abs(region_s - logged_s) > REGION_S + REGION_SHARE * logged_s:
        expected = f"telemetry over the {logged_s:g} s from line {begin.line} to line {stop.line}"
        remedy = "restore the times as they were logged; a run whose clock was set while it was running is invalid"
        yield Fault(expected, f"region_s {region_s:g}", remedy, telemetry.line)


SKELETON_RULES = [
    Rule("key-present", "Every key of a run occurs.", key_present),
    Rule("key-once", "Keys other than those of an epoch occur once, even with equal values.", key_once),
    Rule("key-value", "Each value has the right type and range.", key_value),
    Rule("key-order", "Each key is in its phase of the log: head, initialisation, run, tail.", key_order),
    Rule(
        "event-type",
        "Starts are INTERVAL_START, stops INTERVAL_END, all else POINT_IN_TIME; the namespace is text.",
        event_type,
    ),
    Rule("clock-plausible", "Times are Unix milliseconds.", clock_plausible),
    Rule("clock-order", "Times never go back (a warning up to 1 s between several processes).", clock_order),
    Rule("init-time", "Initialisation takes at most 30 minutes.", init_time),
    Rule("run-time", "run_stop is later than run_start.", run_time),
    Rule("run-telemetry", "The duration measured by the telemetry's own clock is that of the log.", run_telemetry),
]
