"""What other programs take of this machine's processor, measured now: the doctor and a run judge it alike.

The mean of the last minutes would still hold the synthesis that a run has just ended, so shares of time are taken: the time in
which the processors of this process's affinity mask were busy, less its own and its ended children's. Where a control group
has a quota, what others in the group used of it is taken too, and the scarcer of both counts.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from benchmark.machine import hardware
from common import limits

GLANCE_S, LOOK_S = 0.2, 1.0
"""Seconds measured at least (the kernel counts in hundredths), and where the first look finds much: a moment's burst is no load."""


@dataclass(frozen=True)
class Load:
    """`taken_cores` of this process's `usable_cores` that are not there for it; None where the system does not tell."""

    taken_cores: float | None
    usable_cores: float

    @property
    def disturbs(self) -> bool:
        """Whether a run would take noticeably longer: more than a quarter of the cores, and more than half a core, is gone."""
        return self.taken_cores is not None and self.taken_cores > max(0.5, self.usable_cores / 4)

    def __str__(self) -> str:
        if self.taken_cores is None:
            return "how busy the processors are cannot be read here"
        return f"other programs take {self.taken_cores:.1f} of {self.usable_cores:g} usable cores"


class Measurement:
    """Measures from its making to `end`, over whatever this process does in between, but children that still run."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._before = _Times.now()

    def end(self) -> Load:
        """The load since the beginning; waits where that is but a moment ago."""
        load = self._since(GLANCE_S)
        return self._since(LOOK_S) if load.disturbs else load

    def _since(self, least_s: float) -> Load:
        time.sleep(max(0.0, self._began_s + least_s - time.monotonic()))
        before, after = self._before, _Times.now()
        usable = limits.usable_cores()
        elapsed_s = time.monotonic() - self._began_s
        own_s = after.own_s - before.own_s
        passed_s = after.passed_s - before.passed_s
        if not after.processors or passed_s <= 0:
            return Load(None, usable)
        # On machines of many processors what is free beside a quota or a mask is not ours anyway.
        busy = (after.busy_s - before.busy_s) / (passed_s / after.processors) - own_s / elapsed_s
        free = [after.processors - max(0.0, busy)]
        for old, new in zip(before.quotas, after.quotas, strict=False):
            if old.used_s is not None and new.used_s is not None:
                free.append(new.cores - max(0.0, new.used_s - old.used_s - own_s) / elapsed_s)
        return Load(min(usable, max(0.0, usable - min(free))), usable)


@dataclass(frozen=True)
class _Times:
    """Seconds that count up: of `processors` busy and in all, and of this process with the children that it waited for."""

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
        # A container may number its processors anew.
        counted = [fields for fields in single if fields[0] in wanted] or single
        busy = passed = 0
        for _, *fields in counted:
            # user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time (proc(5)).
            ticks = [int(field) for field in fields[:8]]
            passed += sum(ticks)
            busy += sum(ticks) - sum(ticks[3:5])
        per_s = os.sysconf("SC_CLK_TCK")
        return cls(len(counted), busy / per_s, passed / per_s, sum(os.times()[:4]), limits.quotas())
