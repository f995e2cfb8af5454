"""How far the trainer has come: drawn on stderr, or told to the harness as `:::PROGRESS` lines, which are no log lines."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import orjson

from datasets.progress import Progress

EVENT_INTERVAL_S = 0.2


class Told:
    """The progress of one pass, told on stdout for the harness to draw. Same use as datasets.progress.Progress."""

    def __init__(self, phase: str, epoch: int, total: int) -> None:
        self._fixed = {"phase": phase, "epoch": epoch, "total": total, "unit": "utterances"}
        self._last_s = 0.0

    def __enter__(self) -> Told:
        self.update(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def update(self, done: int, note: str = "") -> None:
        """`done` utterances of the pass are finished."""
        now_s = time.monotonic()
        if now_s - self._last_s >= EVENT_INTERVAL_S or done == self._fixed["total"]:
            self._last_s = now_s
            print_line(f":::PROGRESS {orjson.dumps(self._fixed | {'done': done, 'note': note}).decode()}")


class Silent:
    """No progress: for every process but the first."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def update(self, done: int, note: str = "") -> None:
        """Nothing is shown."""


def progress_of(mode: str, leads: bool, phase: str, epoch: int, total: int) -> Progress | Told | Silent:
    """What shows the progress of a pass over `total` utterances; `mode` is `auto` or `events`."""
    if not leads:
        return Silent()
    if mode == "events":
        return Told(phase, epoch, total)
    return Progress(f"epoch {epoch} {phase}", total, "utterances")


def print_line(text: str) -> None:
    """One complete line on stdout in one write, at once: whoever reads it may be timing, and others may write beside it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
