"""Progress on stderr: a progress bar on a terminal, otherwise a plain line every 15 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from common.errors import one_line

PLAIN_INTERVAL_S = 15.0


class Progress:
    """Shows the progress of a job of `total` steps and the estimated time left.

    Use as a context manager and call `update(done)` as often as convenient; output is rate-limited here.
    """

    def __init__(self, label: str, total: int, unit: str = "") -> None:
        self.label, self.total, self.unit = one_line(label), total, unit
        self._done = 0
        self._started_s = time.monotonic()
        self._last_line_s = self._started_s
        self._bar = _terminal_bar(self.label, total, unit) if sys.stderr.isatty() else None

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None:
            print(
                f"{self.label}: {self._count()} in {format_duration(time.monotonic() - self._started_s)}",
                file=sys.stderr,
                flush=True,
            )

    def update(self, done: int, note: str = "") -> None:
        """Record that `done` steps of the total are finished; `note` is a short remark such as the current loss."""
        self._done = done
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done, note=note)
            return
        now_s = time.monotonic()
        if now_s - self._last_line_s >= PLAIN_INTERVAL_S:
            self._last_line_s = now_s
            left_s = (now_s - self._started_s) * (self.total - done) / done if done else None
            left = f", {format_duration(left_s)} left" if left_s is not None else ""
            print(f"{self.label}: {self._count()}{left}{'  ' + note if note else ''}", file=sys.stderr, flush=True)

    def _count(self) -> str:
        return f"{self._done:,} of {self.total:,} {self.unit}".rstrip()


def print_status(text: str) -> None:
    """Print `text` on stderr immediately, even if stderr is a file or a pipe."""
    print(text, file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """A duration for display: `42 s`, `3:05 min`, `2:10 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes}:{int(seconds % 60):02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _terminal_bar(label: str, total: int, unit: str):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.table import Column
    from rich.text import Text

    class PlainTextColumn(ProgressColumn):
        """Literal text, truncated when the line is too long: rich would read markup into a file name."""

        def __init__(self, text_of: Callable[[Task], str]) -> None:
            super().__init__()
            self._text_of = text_of

        def render(self, task: Task) -> Text:
            return Text(self._text_of(task), no_wrap=True, overflow="ellipsis")

    def unwrapped() -> Column:
        return Column(no_wrap=True)

    console = Console(stderr=True)
    bar = Progress(
        PlainTextColumn(lambda task: task.description),
        BarColumn(bar_width=console.width // 6, table_column=unwrapped()),
        MofNCompleteColumn(table_column=unwrapped()),
        PlainTextColumn(lambda task: unit),
        Elapsed(table_column=unwrapped()),
        Remaining(table_column=unwrapped()),
        PlainTextColumn(lambda task: task.fields["note"]),
        console=console,
        transient=True,
    )
    bar.add_task(label, total=total, note="")
    return bar
