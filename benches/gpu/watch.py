"""Runs the sections of `python -m benches gpu` in separate processes, supervises them, and saves the table after each section.

A process runs a group of sections; its journal names the current one. A section that exceeds its time limit is killed with its
process, and a process whose GPU is unusable exits; a new process runs the remaining sections.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benches.gpu.table import ROOT, Reader, note, save
from common.errors import EXIT_ERROR, EXIT_OK, UserError

LEAST_S = 10.0
"""A section does not start with less time left than this."""
START_S = 120.0
"""Time limit for an interpreter to start its first section."""
POLL_S = 0.05


class Budget:
    """The time limit for everything together."""

    def __init__(self, seconds: float) -> None:
        self._start_s, self._seconds = time.monotonic(), seconds

    @property
    def taken_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start_s

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        return self._seconds - self.taken_s


@dataclass
class Watched:
    """The command, the time limit of each section, and the results so far.

    `command` are the arguments to Python that start a process; `failed` is whether any section failed.
    """

    command: list[str]
    out: Path
    limits_s: dict[str, float]
    rehearsal: bool
    budget: Budget
    machine: dict[str, Any] = field(default_factory=lambda: {"device": "unknown", "torch": None})
    rows: list[dict[str, Any]] = field(default_factory=list)
    processes: int = 0
    failed: bool = False

    def save(self) -> None:
        """Write the results so far, because the next section may crash the machine."""
        save(self.out, self.machine, self.rehearsal, self.budget.taken_s, self.processes, self.rows)

    def fail(self, section: str, name: str, reason: str) -> None:
        """Add a row for a section that was not measured."""
        self.failed = True
        self.rows.append({"section": section, "name": name, "reason": reason})
        print(f"{section:11} {name}: {reason}", flush=True)


def watch(groups: list[tuple[str, ...]], watched: Watched) -> int:
    """Run every group; exit status 0 if every section succeeded, 2 otherwise.

    UserError if a process reports that nothing can be measured here.
    """
    with tempfile.TemporaryDirectory() as place:
        for group in groups:
            waiting = list(group)
            while waiting and watched.budget.left_s >= LEAST_S:
                _Process(waiting, watched, Path(place)).watch()
            for name in waiting:
                watched.fail(name, "left out", "the time limit is reached")
    watched.save()
    return EXIT_ERROR if watched.failed else EXIT_OK


class _Process:
    """One process that runs the waiting sections; it removes those that it finished, or that ended it, from `waiting`."""

    def __init__(self, waiting: list[str], watched: Watched, place: Path) -> None:
        self._waiting, self._watched, self._place = waiting, watched, place
        self._current: str | None = None
        self._begun = False
        self._since_s = time.monotonic()
        # Each process reads the rows of the earlier ones; the shared folder is in the same place.
        self._journal = place / "journal.jsonl"
        self._journal.write_text("")
        for row in watched.rows:
            note(self._journal, **row)
        self._reader = Reader(self._journal)
        list(self._reader.new())
        watched.processes += 1

    def watch(self) -> None:
        """Supervise until all sections are done, the process has ended, or a section exceeds its limit and is killed."""
        with self._started() as process:
            reason = None
            while reason is None and (self._waiting or self._current):
                ended = process.poll() is not None
                entries = list(self._reader.new())
                for entry in entries:
                    self._record(entry)
                if entries:
                    self._watched.save()
                if ended:
                    reason = f"its process ended with status {process.returncode}"
                elif self._left_s() < 0:
                    reason = f"not done within {time.monotonic() - self._since_s:.0f} s"
                else:
                    time.sleep(POLL_S)
        if reason and (self._current or not self._begun):
            # A process that cannot start would fail again: give up all waiting sections.
            for name in [self._current] if self._current else list(self._waiting):
                self._waiting.remove(name)
                self._watched.fail(name, "could not be done", reason)
        self._watched.save()

    def _left_s(self) -> float:
        limit_s = self._watched.limits_s[self._current] if self._current else START_S
        return min(self._since_s + limit_s - time.monotonic(), self._watched.budget.left_s)

    def _record(self, entry: dict[str, Any]) -> None:
        """Store a row or handle an event of the process."""
        event = entry.get("event")
        if event is None:
            self._watched.rows.append(entry)
        elif event == "machine":
            self._watched.machine = entry["facts"]
        elif event == "refused":
            raise UserError(entry["what"], remedy=entry["remedy"])
        elif event == "begun":
            self._current, self._begun, self._since_s = entry["section"], True, time.monotonic()
        elif event == "done":
            duration_s, self._since_s = time.monotonic() - self._since_s, time.monotonic()
            self._current = None
            self._waiting.remove(entry["section"])
            self._watched.failed |= not entry["succeeded"]
            print(f"-- {entry['section']}: {duration_s:.0f} s", file=sys.stderr, flush=True)

    @contextmanager
    def _started(self) -> Iterator[subprocess.Popen]:
        """Start the process; afterwards kill it with all its children and delete its temporary files."""
        command = [sys.executable, *self._watched.command, "--only", ",".join(self._waiting)]
        command += ["--budget", f"{self._watched.budget.left_s:.1f}", "--in-this-process", str(self._journal)]
        with tempfile.TemporaryDirectory(dir=self._place, ignore_cleanup_errors=True) as own:
            process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, env=os.environ | {"TMPDIR": own})
            try:
                yield process
            finally:
                # The whole group: a section may have started programs that outlive its process.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
