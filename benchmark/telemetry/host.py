"""CPU, memory and disk use of the host and of the trainer's processes, read through psutil and /proc."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import psutil

from benchmark.telemetry.readings import TRAINER_READINGS


class Host:
    """The whole machine. CPU is the utilization of all cores since the previous call; disk bytes are counters."""

    def __init__(self) -> None:
        self._busy_total: tuple[float, float] | None = None

    def read(self) -> dict[str, float | None]:
        """The values of HOST_READINGS; `cpu_pct` is 0..100 of all cores, None at first."""
        read_bytes, write_bytes = _disk_bytes()
        return {
            "cpu_pct": self._cpu_pct(),
            "memory_used_bytes": psutil.virtual_memory().used,
            "disk_read_bytes": read_bytes,
            "disk_write_bytes": write_bytes,
        }

    def _cpu_pct(self) -> float | None:
        times = psutil.cpu_times()
        # Linux counts guest time into user time already.
        total = sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)
        busy = total - times.idle - getattr(times, "iowait", 0)
        before, self._busy_total = self._busy_total, (busy, total)
        if before is None or total <= before[1]:
            return None
        return min(100.0, max(0.0, 100 * (busy - before[0]) / (total - before[1])))


def _disk_bytes() -> tuple[int | None, int | None]:
    try:
        disks = psutil.disk_io_counters(perdisk=True, nowrap=True)
    except (OSError, RuntimeError, ValueError, NotImplementedError):
        return None, None
    # Only physical disks: partitions, RAID and mapped devices would count the same bytes again.
    physical = [counters for name, counters in disks.items() if Path(f"/sys/block/{name}/device").exists()]
    if not physical:
        return None, None
    return sum(disk.read_bytes for disk in physical), sum(disk.write_bytes for disk in physical)


class ProcessTree:
    """A process and all its descendants, which may change at any time.

    CPU time is the sum of each process's increase; what a process used between the last reading and its end is
    missing, at most one interval each. Memory is the sum of resident sets, so shared pages count once per process.
    """

    def __init__(self, pid: int) -> None:
        self._root = pid
        self._processes: dict[int, psutil.Process] = {}
        self._cpu_s: dict[int, float] = {}
        self._last_s: float | None = None

    def read(self, now_s: float) -> dict[str, float | None]:
        """`cpu_pct` (of one core; None at first), `rss_bytes`, `processes`; all None once the root has ended."""
        seen: dict[int, float] = {}
        rss_bytes = 0
        for pid in _tree(self._root):
            try:
                process = self._processes.get(pid) or psutil.Process(pid)
                with process.oneshot():
                    times, memory = process.cpu_times(), process.memory_info()
            except psutil.Error:
                self._processes.pop(pid, None)
                continue
            if memory.rss == 0:  # a zombie: it has ended and waits to be reaped
                continue
            self._processes[pid] = process
            seen[pid] = times.user + times.system
            rss_bytes += memory.rss
        before, self._cpu_s = self._cpu_s, seen
        before_s, self._last_s = self._last_s, now_s
        self._processes = {pid: process for pid, process in self._processes.items() if pid in seen}
        if self._root not in seen:
            self._last_s = None
            return dict.fromkeys(reading.name for reading in TRAINER_READINGS)
        cpu_pct = None
        if before_s is not None and now_s > before_s:
            # A new process, or one that reuses a process id, counts with all its CPU time.
            used_s = sum(
                cpu_s - before.get(pid, 0.0) if cpu_s >= before.get(pid, 0.0) else cpu_s for pid, cpu_s in seen.items()
            )
            cpu_pct = 100 * used_s / (now_s - before_s)
        return {"cpu_pct": cpu_pct, "rss_bytes": rss_bytes, "processes": len(seen)}

    def process_ids(self) -> set[int] | None:
        """The ids of its processes, some of which may have ended meanwhile; None once the root has ended."""
        try:
            ended = psutil.Process(self._root).status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            ended = True
        return None if ended else set(_tree(self._root))


def other_processes(listed: Collection[int] | None, own: Collection[int], ranks: int) -> int | None:
    """The number of processes that a driver lists for a GPU and that are not the run's own; None if unknown.

    `own` are the ids of the run's processes, `ranks` is how many of them compute on this GPU. In a container with its
    own process ids the driver lists none of `own`: the run's processes are then among the others, unless it hides
    them all.
    """
    if listed is None:
        return None
    others = sum(pid not in own for pid in listed)
    if others < len(listed):
        return others
    return others - ranks if others >= ranks else None


def _tree(root: int) -> list[int]:
    """The ids of a process and its descendants; may include zombies and processes that end meanwhile."""
    found = [root]
    try:
        for pid in found:  # the list grows during the loop
            found += _children(pid)
    except FileNotFoundError:
        # A kernel without CONFIG_PROC_CHILDREN: psutil scans every process of the machine instead.
        try:
            return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
        except psutil.Error:
            return [root]
    return found


def _children(pid: int) -> list[int]:
    """The children of one process, from the kernel's lists: one small file per thread."""
    children: list[int] = []
    tasks = f"/proc/{pid}/task"
    try:
        threads = os.listdir(tasks)
    except OSError:
        return children
    for thread in threads:
        # Plain system calls for speed: a trainer may have thousands of threads, each read once a second.
        try:
            file = os.open(f"{tasks}/{thread}/children", os.O_RDONLY)
        except FileNotFoundError:
            if os.path.exists(f"{tasks}/{thread}"):
                raise
            continue
        except OSError:
            continue
        try:
            with suppress(ProcessLookupError):  # the thread ended meanwhile
                while part := os.read(file, 1 << 20):
                    children += map(int, part.split())
        finally:
            os.close(file)
    return children
