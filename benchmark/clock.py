"""The clock of the log: Unix time that advances evenly, even if the system clock is set during a run.

A run lasts for hours, and a score is the difference of two timestamps. If they came from the system clock, a
correction by NTP or by hand would become part of the score. So the system clock is read once, when the harness
starts; from then on time comes from a clock that cannot be set. On Linux that is CLOCK_BOOTTIME, which also counts
the time that the machine sleeps: the benchmark's clock never pauses. The harness passes its offset to the trainer, so
that both write timestamps of one clock. A resumed run reads the system clock again: it may be on another machine, or
after a reboot.
"""

from __future__ import annotations

import os
import time

VARIABLE = "DS2_CLOCK_OFFSET_S"
"""The environment variable that passes the offset to child processes: Unix time minus `even_s`, in seconds."""

_EVEN = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def even_s() -> float:
    """Seconds since an arbitrary moment, by a clock that is never set and never pauses."""
    return time.clock_gettime(_EVEN)


def _offset_s() -> float:
    try:
        return float(os.environ[VARIABLE])
    except (KeyError, ValueError):
        return time.time() - even_s()


OFFSET_S = _offset_s()


def now_s() -> float:
    """Unix time in seconds: the system clock when this process (or its parent) started, advanced evenly since then."""
    return OFFSET_S + even_s()


def slept_s() -> float:
    """Seconds that the machine has slept since an arbitrary moment (0 if the system does not report it)."""
    return even_s() - time.clock_gettime(time.CLOCK_MONOTONIC)
