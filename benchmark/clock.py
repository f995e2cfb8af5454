"""The clock of the log: Unix time that runs on evenly, whatever happens to the system's clock while a run goes on.

A run lasts for hours, and a score is the difference of two stamps. Were they read from the system's clock, a correction by
NTP or by hand between them would be part of the score. So that clock is read once, when the harness starts, and from there on
one is read that nobody can set. Among those Linux's CLOCK_BOOTTIME is the one that goes on while the machine sleeps: the
benchmark's clock never pauses. The harness hands what it read to the trainer, so that both write stamps of one clock. A run
that is resumed reads the system's clock again: the machine may be another one, or may have been started anew.
"""

from __future__ import annotations

import os
import time

VARIABLE = "DS2_CLOCK_OFFSET_S"
"""What a process tells those that it starts: Unix time less `even_s`, in seconds."""

_EVEN = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def even_s() -> float:
    """Seconds since some moment in the past, by the clock that is never set and never pauses."""
    return time.clock_gettime(_EVEN)


def _offset_s() -> float:
    try:
        return float(os.environ[VARIABLE])
    except (KeyError, ValueError):
        return time.time() - even_s()


OFFSET_S = _offset_s()


def now_s() -> float:
    """Unix time in seconds: the system's when this process, or the one that started it, began, and even since then."""
    return OFFSET_S + even_s()


def slept_s() -> float:
    """Seconds that the machine has slept since some moment in the past (0 where the system does not tell)."""
    return even_s() - time.clock_gettime(time.CLOCK_MONOTONIC)
