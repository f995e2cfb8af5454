"""The files of a run in progress: its log, to result.txt and stdout, and the trainer's stderr."""

from __future__ import annotations

import os
import sys
from collections import deque
from pathlib import Path

from benchmark.mllog import Event, parse_line
from common.errors import UserError, from_os_error
from common.locks import FileLock

KEPT_ERROR_LINES = 400


class RunLog:
    """Writes log lines to `path` (appending) and to stdout, and keeps their events.

    If the reader of stdout goes away, `stdout_lost` is set and the file continues. If the file cannot be written,
    `failure` has the reason; its lines are kept, and `retry` writes them once there is space again. The file is
    locked, so that a run in progress cannot be resumed at the same time.
    """

    def __init__(self, path: Path, *, to_stdout: bool = True) -> None:
        self.path = path
        self.events: list[Event] = []
        self.failure: str | None = None
        self.stdout_lost = False
        self._to_stdout = to_stdout
        self._pending: list[bytes] = []
        busy = UserError("this run is still in progress", where=path.parent, remedy="wait for it, or stop it")
        self._lock = FileLock(path, busy)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._size = os.fstat(self._fd).st_size

    def write(self, line: bytes | str) -> Event | None:
        """Write one line (without its line break) and return its event."""
        raw = line.encode() if isinstance(line, str) else line
        event = parse_line(raw)
        if isinstance(event, Event):
            self.events.append(event)
        self._pending.append(raw + b"\n")
        if self.failure is None:
            self._flush()
        if self._to_stdout:
            self._print(raw + b"\n")
        return event if isinstance(event, Event) else None

    def replay(self, keep_bytes: int) -> None:
        """Keep the first `keep_bytes` of the file (a resumed run) and drop the rest: print them, keep their events."""
        os.ftruncate(self._fd, keep_bytes)
        self._size = keep_bytes
        with open(self.path, "rb") as file:
            for number, raw in enumerate(file, 1):
                event = parse_line(raw, number)
                if isinstance(event, Event):
                    self.events.append(event)
                if self._to_stdout:
                    self._print(raw)

    def sink(self, line: str) -> None:
        """`write` for a LogWriter."""
        self.write(line)

    def retry(self) -> None:
        """Try again to write the lines that a failure held back."""
        self.failure = None
        self._flush()

    def last(self, key: str) -> Event | None:
        """The last event with this key, or None."""
        return next((event for event in reversed(self.events) if event.key == key), None)

    def first(self, key: str) -> Event | None:
        """The first event with this key, or None."""
        return next((event for event in self.events if event.key == key), None)

    def close(self) -> None:
        """Sync the file to disk and close it."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            self.failure = self.failure or from_os_error(error).what
        os.close(self._fd)
        self._lock.close()

    def _flush(self) -> None:
        try:
            while self._pending:
                line = self._pending[0]
                written = os.write(self._fd, line)
                if written < len(line):
                    # A disk that fills up takes part of a line; writing the rest then raises the error.
                    os.write(self._fd, line[written:])
                self._size += len(line)
                self._pending.pop(0)
        except OSError as error:
            self.failure = from_os_error(error).what
            os.ftruncate(self._fd, self._size)

    def _print(self, data: bytes) -> None:
        if self.stdout_lost:
            return
        try:
            while data:
                data = data[os.write(1, data) :]
        except OSError:
            self.stdout_lost = True
            # Later writes (the interpreter's last flush) must not fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stdout.flush()


class ErrorLog:
    """The trainer's stderr: each line goes to `path`, the last ones are in `tail`. An error here never stops a run."""

    def __init__(self, path: Path) -> None:
        self.tail: deque[str] = deque(maxlen=KEPT_ERROR_LINES)
        self.failure: str | None = None
        self._file = open(path, "ab", buffering=0)

    def write(self, raw: bytes) -> str:
        """Keep one line (without its line break); returns its text."""
        # A library's progress bar redraws itself with carriage returns: keep its last state.
        text = raw.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
        self.tail.append(text)
        if self.failure is None:
            try:
                self._file.write(raw + b"\n")
            except OSError as error:
                self.failure = from_os_error(error).what
        return text

    def close(self) -> None:
        """Close the file."""
        self._file.close()
