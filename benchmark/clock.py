"""The clock of the log: Unix time that runs on evenly, whatever happens to the system's clock while a run goes on.

A run lasts for hours, and a score is the difference of two stamps. Were they read from the system's clock, a correction by
NTP or by hand between them would be part of the score. So that clock is read once, when this module is imported, and from
there on one is read that nobody can set. Among those Linux's CLOCK_BOOTTIME is the one that goes on while the machine sleeps:
the benchmark's clock never pauses.
"""

from __future__ import annotations

import time

_EVEN = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def even_s() -> float:
    """Seconds since some moment in the past, by the clock that is never set and never pauses."""
    return time.clock_gettime(_EVEN)


_OFFSET_S = time.time() - even_s()


def now_s() -> float:
    """Unix time in seconds: the system's when this process began, and even since then."""
    return _OFFSET_S + even_s()


def slept_s() -> float:
    """Seconds that the machine has slept since some moment in the past (0 where the system does not tell)."""
    return even_s() - time.clock_gettime(time.CLOCK_MONOTONIC)
