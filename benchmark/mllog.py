"""Writing and reading log lines: one event per line, `:::MLLOG {json}`, as mlperf-logging defines it.

No other module writes or parses them. Times are milliseconds since the Unix epoch. Word error rates are in percent.
MLPerf's keys keep their names; this benchmark's own keys are defined here, with the unit in the name.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Container, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson
from mlperf_logging.mllog import constants, mllog

from benchmark import clock
from benchmark.submission import BENCHMARK as BENCHMARK

TOKEN = b":::MLLOG "
MAX_LINE_BYTES = 1 << 20
"""No known benchmark logs a longer line; it is reported, and never held in memory completely."""
BLOCK_BYTES = 1 << 16
"""Bytes read from a log at a time, at most MAX_LINE_BYTES."""

SUBMISSION_BENCHMARK = constants.SUBMISSION_BENCHMARK
SUBMISSION_DIVISION = constants.SUBMISSION_DIVISION
SUBMISSION_ORG = constants.SUBMISSION_ORG
SUBMISSION_PLATFORM = constants.SUBMISSION_PLATFORM
SUBMISSION_STATUS = constants.SUBMISSION_STATUS
CACHE_CLEAR = constants.CACHE_CLEAR
INIT_START, INIT_STOP = constants.INIT_START, constants.INIT_STOP
RUN_START, RUN_STOP = constants.RUN_START, constants.RUN_STOP
EPOCH_START, EPOCH_STOP = constants.EPOCH_START, constants.EPOCH_STOP
EVAL_START, EVAL_STOP = constants.EVAL_START, constants.EVAL_STOP
EVAL_ACCURACY = constants.EVAL_ACCURACY
SEED = constants.SEED
TRAIN_SAMPLES, EVAL_SAMPLES = constants.TRAIN_SAMPLES, constants.EVAL_SAMPLES
GLOBAL_BATCH_SIZE = constants.GLOBAL_BATCH_SIZE
GRADIENT_ACCUMULATION_STEPS = constants.GRADIENT_ACCUMULATION_STEPS
OPT_NAME, OPT_WEIGHT_DECAY = constants.OPT_NAME, constants.OPT_WEIGHT_DECAY
OPT_BASE_LEARNING_RATE = constants.OPT_BASE_LR
OPT_GRADIENT_CLIP_NORM = constants.OPT_GRADIENT_CLIP_NORM
OPT_LEARNING_RATE_WARMUP_STEPS = constants.OPT_LR_WARMUP_STEPS
EPOCH_NUM, STATUS, SUCCESS, ABORTED = constants.EPOCH_NUM, constants.STATUS, constants.SUCCESS, constants.ABORTED

VARIANT = "variant"
DATASET = "dataset"
"""Value: {"name", "tree_sha256", "verified_at"}; null if not known."""
PARAMS_SHA256 = "params_sha256"
HYPERPARAMETERS = "hyperparameters"
"""Value: every parameter of the variant by its dotted name."""
TARGET_WER = "target_wer"
NUMBER_OF_PROCESSES = "number_of_processes"
ACCELERATORS = "accelerators"
"""Value: a list of {"rank", "device", "name", "uuid"}; uuid is null for a CPU."""
CPU_THREADS = "cpu_threads"
"""Value: the CPU threads that each trainer process computes with, without those of its data loader workers."""
TRAINED_SAMPLES = "trained_samples"
"""Value: utterances trained on so far, over all epochs and processes."""
TRACKED_STATS = "tracked_stats"
"""Value of one epoch: {"train_loss", "utterances_per_s", "audio_s_per_s", "train_s", "data_wait_s", ...}."""
RUN_ABORTED_REASON = "run_aborted_reason"
RESUMED = "resumed"
"""Value: the last epoch before the resumption; metadata: the devices from here on, as in ACCELERATORS. The time of a
resumed run still starts at its first run_start."""
TELEMETRY_SUMMARY = "telemetry_summary"


class Event(NamedTuple):
    """One parsed log line. `line` counts from 1; `time_ms` is milliseconds since the epoch."""

    key: str
    value: Any
    metadata: dict[str, Any]
    time_ms: float
    event_type: str
    namespace: str
    line: int

    @property
    def epoch_num(self) -> int | None:
        """The event's epoch, counted from 1, or None."""
        return self.metadata.get(EPOCH_NUM)


_FIELDS = itemgetter(*Event._fields[:-1])


class BadLine(NamedTuple):
    """A line with the token that is not a valid event, with the reason; `text` is its beginning."""

    line: int
    reason: str
    text: str


class LogWriter:
    """Writes events to a sink, one complete line at a time, through mlperf-logging.

    `sink` takes one line of text without its line break; its exceptions (such as a full disk) reach the caller, while
    Python's own logging handlers would swallow them.
    """

    def __init__(self, sink: Callable[[str], None], root: Path | None = None) -> None:
        logger = logging.Logger(mllog.__name__, logging.INFO)
        self._sink, self._collected = sink, RecordCollector()
        logger.addHandler(self._collected)
        # Two frames are between mlperf-logging and the caller whose file and line the event carries.
        root_pattern = re.escape(str(root or Path(__file__).resolve().parent.parent))
        self._mllogger = mllog.MLLogger(logger, default_stack_offset=3, root_dir=root_pattern)

    def event(self, key: str, value: object = None, **metadata: object) -> None:
        """Log a point in time."""
        self._write(self._mllogger.event, key, value, metadata)

    def start(self, key: str, value: object = None, **metadata: object) -> None:
        """Log the start of an interval."""
        self._write(self._mllogger.start, key, value, metadata)

    def end(self, key: str, value: object = None, **metadata: object) -> None:
        """Log the end of an interval."""
        self._write(self._mllogger.end, key, value, metadata)

    def _write(self, log: Callable[..., None], key: str, value: object, metadata: dict[str, object]) -> None:
        # mlperf-logging swallows exceptions while it logs, so the line goes to the sink only afterwards. A value that
        # it cannot encode becomes a log message of a higher level; here that is a bug.
        self._collected.records.clear()
        log(key, value, metadata=metadata, time_ms=int(clock.now_s() * 1000))
        for record in self._collected.records:
            if record.levelno != logging.INFO:
                raise ValueError(record.getMessage().strip())
        for record in self._collected.records:
            self._sink(record.getMessage())


class RecordCollector(logging.Handler):
    """Keeps the log records that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


def parse_line(raw: bytes, number: int = 0) -> Event | BadLine | None:
    """Parse one line of a log: an event, a BadLine if no valid event follows the token, None without the token."""
    at = raw.rfind(TOKEN)
    if at < 0:
        return None
    try:
        fields = orjson.loads(raw[at + len(TOKEN) :])
    except orjson.JSONDecodeError as error:
        return _bad(raw, number, f"not JSON ({error})")
    try:
        key, time_ms, metadata = fields["key"], fields["time_ms"], fields["metadata"] or {}
        event = Event(
            key, fields["value"], metadata, time_ms, fields.get("event_type"), fields.get("namespace"), number
        )
    except (KeyError, TypeError, AttributeError):
        return _bad(raw, number, "expected an object with time_ms, key, value and metadata")
    if key.__class__ is not str or metadata.__class__ is not dict or time_ms.__class__ not in (int, float):
        return _bad(raw, number, "key must be a string, time_ms a number and metadata an object")
    return event


def _bad(raw: bytes, number: int, reason: str) -> BadLine:
    return BadLine(number, reason, raw[:200].decode("utf-8", "replace").rstrip())


def read_lines(file: BinaryIO, skipped: Container[str] = ()) -> Iterator[Event | BadLine]:
    """The events and bad lines of an open log, in order; memory is bounded by the block and the line length.

    Tolerates CRLF, text before the token and bytes that are not UTF-8 outside it. Valid events with a key in `skipped`
    are left out.
    """
    number = 0
    for block, overlong in _blocks(file):
        if overlong:
            number += 1
            if TOKEN in block:
                yield _bad(block, number, f"the line is longer than {MAX_LINE_BYTES} bytes")
        else:
            yield from _parse_block(block, number, skipped)
            number += block.count(b"\n")


def _parse_block(block: bytes, number: int, skipped: Container[str]) -> Iterator[Event | BadLine]:
    """The events and bad lines of a block of whole lines that `number` lines precede."""
    numbers, texts = _split_block(block, number + 1)
    # Parsed and checked in C: millions of lines of a round come through here.
    try:
        fields = list(map(_FIELDS, map(orjson.loads, texts)))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        fields = []
    if len(fields) == len(texts) and _are_valid(fields):
        new = tuple.__new__
        for line, (key, value, metadata, time_ms, event_type, namespace) in zip(numbers, fields, strict=True):
            if key not in skipped:
                yield new(Event, (key, value, metadata or {}, time_ms, event_type, namespace, line))
        return
    # A line of this block is odd.
    for line, raw in enumerate(io.BytesIO(block), number + 1):
        parsed = parse_line(raw, line)
        if isinstance(parsed, BadLine) or (parsed is not None and parsed.key not in skipped):
            yield parsed


def _are_valid(fields: Sequence[tuple[Any, ...]]) -> bool:
    """Whether all are fields of valid events; metadata may be empty in any way, such as null."""
    keys, metadata, times = ({value.__class__ for value in map(itemgetter(at), fields)} for at in (0, 2, 3))
    if not keys <= {str} or not times <= {int, float}:
        return False
    return metadata <= {dict} or not any(values[2] for values in fields if values[2].__class__ is not dict)


def _split_block(block: bytes, number: int) -> tuple[list[int], list[bytes]]:
    """The text after the token of each line that has one, with the line's number; the block's first is `number`."""
    numbers, texts = [], []
    before, *parts = block.split(TOKEN)
    number += before.count(b"\n")
    for part in parts:
        stop = part.find(b"\n") + 1
        if stop == len(part) != 0:
            numbers.append(number)
            texts.append(part)
            number += 1
        elif stop:
            numbers.append(number)
            texts.append(part[:stop])
            number += part.count(b"\n")
        # Without a line break, another token follows in the same line: its last one counts.
    if parts and not block.endswith(b"\n"):
        numbers.append(number)
        texts.append(parts[-1])
    return numbers, texts


def _blocks(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """A log in blocks of whole lines, each with whether it is instead the beginning of one overlong line.

    Only the last line may lack its line break, and is then a block of its own.
    """
    rest = b""
    while block := file.read(BLOCK_BYTES):
        stop = block.find(b"\n") + 1
        # `rest` has no line break and is shorter than MAX_LINE_BYTES, so only the first line can be overlong.
        if len(rest) + (stop or len(block) + 1) > MAX_LINE_BYTES:
            yield (rest + block)[:MAX_LINE_BYTES], True
            while not stop and (block := file.read(BLOCK_BYTES)):
                stop = block.find(b"\n") + 1
            rest, block = b"", block[stop:]
        stop = block.rfind(b"\n") + 1
        if stop:
            yield rest + block[:stop], False
            rest = block[stop:]
        else:
            rest += block
    if rest:
        yield rest, False


def read_log(path: Path) -> tuple[list[Event], list[BadLine]]:
    """All events and all bad lines of a log file."""
    events: list[Event] = []
    bad: list[BadLine] = []
    with open(path, "rb") as file:
        for parsed in read_lines(file):
            (events if parsed.__class__ is Event else bad).append(parsed)  # type: ignore[arg-type]
    return events, bad
