"""One progress bar for several archives processed in parallel: bytes done, current activity, and the download rate."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from common.errors import one_line
from common.progress import Progress

RATE_WINDOW_S = 10.0
MEGABYTE = 1_000_000


class TransferProgress:
    """Counts bytes of many threads towards `total_bytes`; use as a context manager."""

    def __init__(self, label: str, total_bytes: int) -> None:
        self._progress = Progress(label, -(-total_bytes // MEGABYTE), "MB")
        self._lock = threading.Lock()
        self._done = 0
        self._fetched = 0
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._active: dict[str, float] = {}

    def __enter__(self) -> TransferProgress:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, value, trace)

    def counter(self, activity: str, *, fetching: bool = False) -> Callable[[int], None]:
        """A function to call with the bytes of each further piece; `activity` is shown while it is being called."""

        def count_bytes(count: int) -> None:
            now_s = time.monotonic()
            with self._lock:
                self._done += count
                self._fetched += count if fetching else 0
                self._active[activity] = now_s
                if now_s - self._recent[-1][0] > 0.5:
                    self._recent.append((now_s, self._fetched))
                    while now_s - self._recent[0][0] > RATE_WINDOW_S and len(self._recent) > 2:
                        self._recent.popleft()
                self._progress.update(min(-(-self._done // MEGABYTE), self._progress.total), self._note(now_s))

        return count_bytes

    def print_line(self, line: str) -> None:
        """Print a permanent line above the progress bar."""
        with self._lock:
            print(one_line(line), file=sys.stderr, flush=True)

    def _note(self, now_s: float) -> str:
        names = [activity for activity, last_s in self._active.items() if now_s - last_s < 2]
        shown = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        (first_s, first), (last_s, last) = self._recent[0], self._recent[-1]
        if last > first:
            return f"{(last - first) / (last_s - first_s) / MEGABYTE:.1f} MB/s, {shown}"
        return shown
