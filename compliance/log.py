"""One log file as the rules see it: its events by key, and its faults as a file.

The file is read twice in chunks: once as bytes (encoding, line lengths, text before the token), once by the
benchmark's own reader. Neither keeps a long line in memory. Only a log that they cannot read completely is read once
more, as MLPerf's checker reads it: it also takes CR as a line end and a number in quotes as a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import orjson

from benchmark import mllog
from benchmark.log_summary import LogSummary, summarise
from benchmark.mllog import BadLine, Event
from benchmark.params import NEUTRAL
from benchmark.rounds import legacy_logs
from benchmark.rounds.official_checker import OfficialVerdict, lines_with_token
from compliance.findings import WARNING, Fault, Rule, shown

MAX_EVENTS = 1_000_000
"""No run logs more events; reading stops there."""
MAX_DEPTH = 32
"""No event nests its values deeper; Python itself fails at a few hundred levels."""
MAX_BYTE_FAULTS = 100
"""A file with this many byte-level faults is not a log, and further faults would add no information."""


MLLOG, V06, V05 = "MLLOG", "0.6", "0.5"
"""Forms of log lines: `:::MLLOG {...}` from round 0.7 on, those of the rounds before it."""
_FORMS = ((mllog.TOKEN, MLLOG), (b":::MLL ", V06), (b":::MLP", V05))


@dataclass
class Log:
    """A log file's events in order, its unreadable lines, and the faults of its bytes.

    `form` is that of its lines. `official` is the verdict of MLPerf's checker, if it was run.
    """

    path: Path
    events: list[Event]
    bad: list[BadLine]
    byte_faults: dict[str, list[Fault]] = field(default_factory=dict)
    form: str = MLLOG
    official: OfficialVerdict | None = None

    @cached_property
    def by_key(self) -> dict[str, list[Event]]:
        """The events of each key, in order."""
        found: dict[str, list[Event]] = {}
        for event in self.events:
            found.setdefault(event.key, []).append(event)
        return found

    def all(self, key: str) -> list[Event]:
        """The events of one key."""
        return self.by_key.get(key, [])

    def first(self, key: str) -> Event | None:
        """The first event of a key."""
        found = self.by_key.get(key)
        return found[0] if found else None

    def line(self, key: str) -> int | None:
        """The line of a key's first event; None if the key is absent."""
        event = self.first(key)
        return event.line if event else None

    def value(self, key: str) -> Any:
        """The value of a key's first event; None if the key is absent."""
        event = self.first(key)
        return None if event is None else event.value

    @cached_property
    def summary(self) -> LogSummary:
        """The run's times, epochs and outcome, as logged."""
        return summarise(self.events)

    @property
    def benchmark(self) -> str | None:
        """The name that submission_benchmark gives, or None."""
        name = self.value(mllog.SUBMISSION_BENCHMARK)
        return name if isinstance(name, str) else None

    @property
    def last_line(self) -> int | None:
        """The line of the last event."""
        return self.events[-1].line if self.events else None

    def parameter(self, name: str) -> Any:
        """One value of the logged hyperparameters, by its dotted name; None if it is absent.

        A parameter that was introduced after the log was written has its neutral value.
        """
        flat = self.value(mllog.HYPERPARAMETERS)
        return flat.get(name, NEUTRAL.get(name)) if isinstance(flat, dict) else None


def read(path: Path) -> Log:
    """Read a log; OSError if the file cannot be read."""
    with open(path, "rb") as file:
        byte_faults = _scan(file)
        file.seek(0)
        log = Log(Path(path), [], [], byte_faults)
        _add(log, mllog.read_lines(file))
        if not log.events and not log.bad:
            file.seek(0)
            log.form = _form_in(file)
            if log.form != MLLOG:
                file.seek(0)
                _add(log, legacy_logs.read_lines(file))
    if (log.bad or "log-line-parse" in byte_faults) and "log-size" not in byte_faults:
        _read_as_mlperf(log)
    return log


def _add(log: Log, lines: Iterator[Event | BadLine]) -> None:
    for parsed in lines:
        if isinstance(parsed, Event) and not _too_deep(parsed):
            log.events.append(parsed)
        elif isinstance(parsed, Event):
            log.bad.append(BadLine(parsed.line, f"values nested deeper than {MAX_DEPTH}", parsed.key))
        else:
            log.bad.append(parsed)
        if len(log.events) + len(log.bad) > MAX_EVENTS:
            expected, found = f"at most {MAX_EVENTS:,} events", "more; the rest was not read"
            fault = Fault(expected, found, "pass the log of one run", parsed.line)
            log.byte_faults.setdefault("log-size", []).append(fault)
            break


def form_of(path: Path) -> str:
    """The form of the lines of a log; MLLOG if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return _form_in(file)
    except OSError:
        return MLLOG


def _form_in(file: BinaryIO) -> str:
    """The form of the first log line of a file."""
    while raw := file.readline(mllog.MAX_LINE_BYTES):
        if b":::ML" in raw:
            return next((form for token, form in _FORMS if token in raw), MLLOG)
    return MLLOG


_BY_LINE = ("log-line-parse", "log-line-length", "log-prefix", "log-last-line")
"""Faults that depend on where lines end."""


def _read_as_mlperf(log: Log) -> None:
    """Read a log's lines as MLPerf's checker does, and replace the faults of those that it takes and ours does not."""
    events: list[Event] = []
    bad: list[BadLine] = []
    quoted: list[Fault] = []
    with open(log.path, encoding="latin-1") as file:
        for number, text in lines_with_token(_bounded_lines(file), mllog.TOKEN.decode()):
            parsed = mllog.parse_line(text.encode("latin-1"), number)
            if isinstance(parsed, BadLine) and (event := _with_quoted_time(text, number)):
                found = f"{event.time_ms:.0f} in quotes"
                quoted.append(Fault("time_ms: a number", found, "log it as a number; MLPerf takes both", number))
                parsed = event
            if isinstance(parsed, Event) and not _too_deep(parsed):
                events.append(parsed)
            elif parsed is not None:
                bad.append(parsed if isinstance(parsed, BadLine) else BadLine(number, "nested too deep", parsed.key))
    if len(events) <= len(log.events):
        return
    if not quoted or len(events) - len(quoted) > len(log.events):
        found, remedy = "lines that end with CR only", "write LF at the line ends; MLPerf's checker takes CR too"
        log.byte_faults["log-line-ends"] = [Fault("lines that end with LF or CRLF", found, remedy, 1)]
        # The bytes were scanned without these line ends.
        log.byte_faults = {rule: found for rule, found in log.byte_faults.items() if rule not in _BY_LINE}
    log.byte_faults.setdefault("log-line-parse", []).extend(quoted)
    log.events, log.bad = events, bad


def _bounded_lines(file: TextIO) -> Iterator[str]:
    """The lines of a text, of which overlong ones are cut."""
    whole = True
    while line := file.readline(mllog.MAX_LINE_BYTES):
        if whole:
            yield line
        whole = line.endswith("\n")


def _with_quoted_time(text: str, number: int) -> Event | None:
    """The event of a line whose time is a number in quotes; None for any other line."""
    try:
        fields = orjson.loads(text[len(mllog.TOKEN) :].encode("latin-1"))
        if isinstance(fields.get("time_ms"), str):
            fields["time_ms"] = float(fields["time_ms"])
            parsed = mllog.parse_line(mllog.TOKEN + orjson.dumps(fields), number)
            return parsed if isinstance(parsed, Event) else None
    except (ValueError, AttributeError):
        pass
    return None


def _too_deep(event: Event) -> bool:
    """Whether a value is nested too deeply to be printed."""
    level: list[object] = [event.value, event.metadata]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def _scan(file: BinaryIO) -> dict[str, list[Fault]]:
    """The byte-level faults of a file, by rule."""
    faults: dict[str, list[Fault]] = {}
    if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
        remedy = "save the log as UTF-8 (a shell's `>` on Windows writes UTF-16)"
        return {"log-encoding": [Fault("text in UTF-8", "a UTF-16 byte order mark", remedy, 1)]}
    file.seek(0)
    number, whole_line, raw = 0, True, b""
    prefixed: list[tuple[int, bytes]] = []
    prefixes = 0
    while raw := file.readline(mllog.MAX_LINE_BYTES):
        if not whole_line:
            # The rest of an overlong line, which is already reported.
            whole_line = raw.endswith(b"\n")
            continue
        number += 1
        whole_line = raw.endswith(b"\n")
        if mllog.TOKEN in raw and not raw.startswith(mllog.TOKEN):
            prefixes += 1
            prefixed = prefixed or [(number, raw[: raw.find(mllog.TOKEN)])]
        for rule, fault in _scan_line(raw, number, whole_line):
            faults.setdefault(rule, []).append(fault)
        if sum(map(len, faults.values())) > MAX_BYTE_FAULTS:
            break
    for first, prefix in prefixed:
        # A launcher prefixes every line; one finding is enough.
        found = f"{shown(prefix.decode('utf-8', 'replace'))} before it ({prefixes} such lines, this is the first)"
        remedy = "harmless; to avoid the warning, remove the launcher's prefix"
        faults["log-prefix"] = [Fault("lines that begin with :::MLLOG", found, remedy, first, WARNING)]
    return faults


def _scan_line(raw: bytes, number: int, whole_line: bool) -> Iterator[tuple[str, Fault]]:
    if not whole_line and len(raw) == mllog.MAX_LINE_BYTES:
        expected = f"lines of at most {mllog.MAX_LINE_BYTES:,} bytes"
        yield "log-line-length", Fault(expected, "a longer line", "pass the log as the run printed it", number)
        return
    if not whole_line:
        remedy = "pass the whole file: it may have been cut while it was written"
        yield "log-last-line", Fault("a line break at the end", "none", remedy, number, WARNING)
    if b"\0" in raw:
        yield "log-encoding", Fault("text in UTF-8", "NUL bytes", "pass the log as the run printed it", number)
    else:
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"byte 0x{raw[error.start]:02x} at column {error.start + 1}"
            yield "log-encoding", Fault("text in UTF-8", found, "pass the log as the run printed it", number)
    tokens = raw.count(mllog.TOKEN)
    if tokens > 1:
        remedy = "let one process print the log, one event a line"
        yield "log-line-parse", Fault("one event a line", f"{tokens} events in one line", remedy, number)


def _byte_rule(name: str):
    def check(log: Log) -> list[Fault]:
        return log.byte_faults.get(name, [])

    return check


def _line_parse(log: Log) -> Iterator[Fault]:
    yield from log.byte_faults.get("log-line-parse", [])
    for bad in log.bad:
        # An overlong line is reported by its own rule only.
        if "longer than" not in bad.reason:
            expected = "one JSON object with time_ms, key, value and metadata"
            yield Fault(expected, bad.reason, "restore the line as it was printed", bad.line)


def _has_events(log: Log) -> Iterator[Fault]:
    if not log.events:
        remedy = "pass the log of a run: its lines begin with :::MLLOG"
        yield Fault("log lines (:::MLLOG ...)", "none", remedy)


FILE_RULES = [
    Rule("log-encoding", "A log is text in UTF-8.", _byte_rule("log-encoding")),
    Rule("log-line-length", "No line of a log is longer than 1 MiB.", _byte_rule("log-line-length")),
    Rule("log-line-ends", "Lines end with LF or CRLF, not with CR alone.", _byte_rule("log-line-ends")),
    Rule("log-size", "A log has at most a million events.", _byte_rule("log-size")),
    Rule("log-line-parse", "Each line with `:::MLLOG` has exactly one event, a JSON object.", _line_parse),
    Rule("log-last-line", "The last line ends with a line break (warning).", _byte_rule("log-last-line")),
    Rule(
        "log-prefix",
        "Log lines begin with `:::MLLOG` (warning: text before it is ignored).",
        _byte_rule("log-prefix"),
    ),
    Rule("log-events", "A log has at least one event.", _has_events),
]
