"""One log file as the rules see it: its events by key, and its faults as a file.

The file is read twice in chunks: once as bytes (encoding, line lengths, text before the token), once by the
benchmark's own reader. Neither keeps a long line in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from benchmark import mllog
from benchmark.log_summary import LogSummary, summarise
from benchmark.mllog import BadLine, Event
from benchmark.params import NEUTRAL
from compliance.findings import WARNING, Fault, Rule, shown

MAX_EVENTS = 1_000_000
"""No run logs more events; reading stops there."""
MAX_DEPTH = 32
"""No event nests its values deeper; Python itself fails at a few hundred levels."""
MAX_BYTE_FAULTS = 100
"""A file with this many byte-level faults is not a log, and further faults would add no information."""


@dataclass
class Log:
    """A log file's events in order, its unreadable lines, and the faults of its bytes."""

    path: Path
    events: list[Event]
    bad: list[BadLine]
    byte_faults: dict[str, list[Fault]] = field(default_factory=dict)

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
        events: list[Event] = []
        bad: list[BadLine] = []
        for parsed in mllog.read_lines(file):
            if isinstance(parsed, Event) and not _too_deep(parsed):
                events.append(parsed)
            elif isinstance(parsed, Event):
                bad.append(BadLine(parsed.line, f"values nested deeper than {MAX_DEPTH}", parsed.key))
            else:
                bad.append(parsed)
            if len(events) + len(bad) > MAX_EVENTS:
                fault = Fault(
                    f"at most {MAX_EVENTS:,} events",
                    "more; the rest was not read",
                    "pass the log of one run",
                    parsed.line,
                )
                byte_faults.setdefault("log-size", []).append(fault)
                break
    return Log(Path(path), events, bad, byte_faults)


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
