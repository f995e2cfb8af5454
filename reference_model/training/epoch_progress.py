"""The trainer's progress: drawn on stderr, or printed as `:::PROGRESS` lines (not log lines) for the harness."""

from __future__ import annotations

import time
from types import TracebackType

from benchmark.trainer_contract import ProgressLine
from common.progress import Progress

EVENT_INTERVAL_S = 0.2


class ProgressEvents:
    """The progress of one pass, printed on stdout for the harness. Same interface as common.progress.Progress."""

    def __init__(self, phase: str, epoch: int, total: int) -> None:
        self._phase, self._epoch, self._total = phase, epoch, total
        self._last_s = 0.0

    def __enter__(self) -> ProgressEvents:
        self.update(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def update(self, done: int, note: str = "") -> None:
        """`done` utterances of the pass are finished."""
        now_s = time.monotonic()
        if now_s - self._last_s >= EVENT_INTERVAL_S or done == self._total:
            self._last_s = now_s
            ProgressLine(self._phase, self._epoch, done, self._total, note=note).print()


class NoProgress:
    """No progress: for every rank but 0."""

    def __enter__(self) -> NoProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def update(self, done: int, note: str = "") -> None:
        """Nothing is shown."""


def progress_of(mode: str, leads: bool, phase: str, epoch: int, total: int) -> Progress | ProgressEvents | NoProgress:
    """The progress display of a pass over `total` utterances; `mode` is `auto` or `events`."""
    if not leads:
        return NoProgress()
    if mode == "events":
        return ProgressEvents(phase, epoch, total)
    return Progress(f"epoch {epoch} {phase}", total, "utterances")
