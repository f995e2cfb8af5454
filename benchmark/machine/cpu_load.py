"""CPU load of other programs, measured now; the doctor and a run use the same measurement.

A load average of the last minutes would still include the synthesis that a run has just finished. So CPU time is
measured: the time for which the processors of this process's affinity mask were busy, minus the time of this process
and its ended children. Under a control-group quota, the share that others in the group used counts too, and the
scarcer of both decides.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from benchmark.machine import hardware
from common import limits

SHORT_S, LONG_S = 0.2, 1.0
"""Minimum seconds of a measurement (the kernel counts in hundredths), and of the second one after a high first one,
which may have been a short burst."""


@dataclass(frozen=True)
class Load:
    """`taken_cores` of this process's `usable_cores` are used by other programs.

    None if the system does not report it.
    """

    taken_cores: float | None
    usable_cores: float

    @property
    def disturbs(self) -> bool:
        """Whether a run would be noticeably slower.

        That is when more than a quarter of the cores, and more than half a core, are taken.
        """
        return self.taken_cores is not None and self.taken_cores > max(0.5, self.usable_cores / 4)

    def __str__(self) -> str:
        if self.taken_cores is None:
            return "CPU load cannot be read here"
        return f"other programs take {self.taken_cores:.1f} of {self.usable_cores:g} usable cores"


class Measurement:
    """Measures from its creation to `end`; excludes this process, but not its children that are still running."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._before = _Times.now()

    def end(self) -> Load:
        """The load since the start; waits if that was less than SHORT_S ago."""
        load = self._since(SHORT_S)
        return self._since(LONG_S) if load.disturbs else load

    def _since(self, least_s: float) -> Load:
        time.sleep(max(0.0, self._start_s + least_s - time.monotonic()))
        before, after = self._before, _Times.now()
        usable = limits.usable_cores()
        elapsed_s = time.monotonic() - self._start_s
        own_s = after.own_s - before.own_s
        passed_s = after.passed_s - before.passed_s
        if not after.processors or passed_s <= 0:
            return Load(None, usable)
        # On a machine with many processors, those outside a quota or mask are not available anyway.
        busy = (after.busy_s - before.busy_s) / (passed_s / after.processors) - own_s / elapsed_s
        free = [after.processors - max(0.0, busy)]
        for old, new in zip(before.quotas, after.quotas, strict=False):
            if old.used_s is not None and new.used_s is not None:
                free.append(new.cores - max(0.0, new.used_s - old.used_s - own_s) / elapsed_s)
        return Load(min(usable, max(0.0, usable - min(free))), usable)


@dataclass(frozen=True)
class _Times:
    """Counters in seconds: busy and total time of `processors`, and CPU time of this process and its ended children."""

    processors: int
    busy_s: float
    passed_s: float
    own_s: float
    quotas: list[limits.Quota]

    @classmethod
    def now(cls) -> _Times:
        wanted = {f"cpu{number}" for number in os.sched_getaffinity(0)} if hasattr(os, "sched_getaffinity") else set()
        lines = [line.split() for line in (limits.read_text(hardware.PROC / "stat") or "").splitlines()]
        single = [fields for fields in lines if fields and fields[0].startswith("cpu") and fields[0] != "cpu"]
        # A container may have its own processor numbers.
        counted = [fields for fields in single if fields[0] in wanted] or single
        busy = passed = 0
        for _, *fields in counted:
            # user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time (proc(5)).
            ticks = [int(field) for field in fields[:8]]
            passed += sum(ticks)
            busy += sum(ticks) - sum(ticks[3:5])
        per_s = os.sysconf("SC_CLK_TCK")
        return cls(len(counted), busy / per_s, passed / per_s, sum(os.times()[:4]), limits.quotas())
