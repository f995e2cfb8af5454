"""Runs the sections of `python -m benches gpu` in processes of their own, watches them, and saves the table as it grows.

A process is given a group of sections and works through them; its journal says which it is at. A section that outlasts its limit
is ended with its process, and a process that finds the GPU unusable ends by itself; a new one goes on with the sections after it.
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
"""A section is not begun with less time than this."""
START_S = 120.0
"""What an interpreter may take until its first section begins."""
LOOK_S = 0.05


class Budget:
    """The time that everything together may take."""

    def __init__(self, seconds: float) -> None:
        self._began_s, self._seconds = time.monotonic(), seconds

    @property
    def taken_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began_s

    @property
    def left_s(self) -> float:
        """Seconds until the end."""
        return self._seconds - self.taken_s


@dataclass
class Watched:
    """What is run, how long each section may take, and what came of it so far.

    `command` are the arguments to Python that start a process; `failed` says whether a section could not be done.
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
        """Write what there is so far: what comes next may take the machine with it."""
        save(self.out, self.machine, self.rehearsal, self.budget.taken_s, self.processes, self.rows)

    def fail(self, section: str, name: str, reason: str) -> None:
        """A row for what was not measured."""
        self.failed = True
        self.rows.append({"section": section, "name": name, "reason": reason})
        print(f"{section:11} {name}: {reason}", flush=True)


def watch(groups: list[tuple[str, ...]], watched: Watched) -> int:
    """Run every group; exit status 0 where every section could be done, 2 otherwise.

    UserError where a process says that nothing can be measured here.
    """
    with tempfile.TemporaryDirectory() as place:
        for group in groups:
            waiting = list(group)
            while waiting and watched.budget.left_s >= LEAST_S:
                _Process(waiting, watched, Path(place)).watch()
            for name in waiting:
                watched.fail(name, "left out", "the time is up")
    watched.save()
    return EXIT_ERROR if watched.failed else EXIT_OK


class _Process:
    """One process at work on the sections that wait; it takes from `waiting` what it has done, or what ended it."""

    def __init__(self, waiting: list[str], watched: Watched, place: Path) -> None:
        self._waiting, self._watched, self._place = waiting, watched, place
        self._current: str | None = None
        self._begun = False
        self._since_s = time.monotonic()
        # Each process finds the rows of those before it, and a folder beside them that they share.
        self._journal = place / "journal.jsonl"
        self._journal.write_text("")
        for row in watched.rows:
            note(self._journal, **row)
        self._reader = Reader(self._journal)
        list(self._reader.new())
        watched.processes += 1

    def watch(self) -> None:
        """Until all sections are done, the process has ended, or one has taken too long and the process is ended."""
        with self._started() as process:
            reason = None
            while reason is None and (self._waiting or self._current):
                ended = process.poll() is not None
                entries = list(self._reader.new())
                for entry in entries:
                    self._take_down(entry)
                if entries:
                    self._watched.save()
                if ended:
                    reason = f"its process ended with status {process.returncode}"
                elif self._left_s() < 0:
                    reason = f"not done within {time.monotonic() - self._since_s:.0f} s"
                else:
                    time.sleep(LOOK_S)
        if reason and (self._current or not self._begun):
            # A process that cannot even begin would not do so a second time: all that wait are given up.
            for name in [self._current] if self._current else list(self._waiting):
                self._waiting.remove(name)
                self._watched.fail(name, "could not be done", reason)
        self._watched.save()

    def _left_s(self) -> float:
        limit_s = self._watched.limits_s[self._current] if self._current else START_S
        return min(self._since_s + limit_s - time.monotonic(), self._watched.budget.left_s)

    def _take_down(self, entry: dict[str, Any]) -> None:
        """Keep what the process says."""
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
            took_s, self._since_s = time.monotonic() - self._since_s, time.monotonic()
            self._current = None
            self._waiting.remove(entry["section"])
            self._watched.failed |= not entry["well"]
            print(f"-- {entry['section']}: {took_s:.0f} s", file=sys.stderr, flush=True)

    @contextmanager
    def _started(self) -> Iterator[subprocess.Popen]:
        """The process; afterwards it is no more, nor is what it started or left in the folder for temporary files."""
        command = [sys.executable, *self._watched.command, "--only", ",".join(self._waiting)]
        command += ["--budget", f"{self._watched.budget.left_s:.1f}", "--in-this-process", str(self._journal)]
        with tempfile.TemporaryDirectory(dir=self._place, ignore_cleanup_errors=True) as own:
            process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, env=os.environ | {"TMPDIR": own})
            try:
                yield process
            finally:
                # The group, too: a section may have started programs that outlive its process.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
