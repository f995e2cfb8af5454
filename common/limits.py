"""How many cores and how much memory this process may use: the machine's, or what a container or a batch system allows.

Docker, Podman, Kubernetes, Slurm and systemd limit processes by control groups (cgroups), which nest: the limits of the
process's own group and of every group above it apply. Both versions of the kernel interface are read (cgroups(7),
cgroup-v2.rst; cpu.cfs_* and memory.* in version 1). Nothing here needs root or a container engine.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import UserError

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
"""The usual mount point of cgroups, for sandboxes whose mount table lists none."""

WORKER_BYTES = 64 << 20
"""Assumed memory of a worker process (synthesis, pack, import, checksums); 17 to 50 MiB were measured."""


@dataclass(frozen=True)
class Quota:
    """A cgroup's CPU quota in `cores`, and the CPU seconds it has used so far (None: unknown)."""

    cores: float
    used_s: float | None


def usable_cores() -> float:
    """Cores that this process may use: its affinity mask, or a smaller CPU quota, which may be fractional."""
    return min([float(_affinity()), *(quota.cores for quota in quotas())])


def cores() -> int:
    """`usable_cores` as a number of workers or threads: rounded down, at least 1.

    Rounded down because the kernel throttles all threads of a group that has used up its quota for the rest of the 0.1
    s period: one thread more than there are whole cores delays the others.
    """
    return max(1, math.floor(usable_cores()))


def memory_bytes() -> int | None:
    """Memory limit in bytes of this process and its cgroups together: the machine's or a group's; None if unknown."""
    return min([*_as_list(machine_memory_bytes()), *(limit for limit, _ in _memory_levels())], default=None)


def machine_memory_bytes() -> int | None:
    """The machine's physical memory in bytes, regardless of limits; None if unknown."""
    return _meminfo("MemTotal") or _physical()


def available_bytes() -> int | None:
    """How much of `memory_bytes` can be allocated now without swapping; None if unknown.

    A group's page cache is reclaimable and counts as available, as in the kernel's MemAvailable.
    """
    return min([*_as_list(_meminfo("MemAvailable")), *(free for _, free in _memory_levels())], default=memory_bytes())


def workers(each_bytes: int = WORKER_BYTES) -> int:
    """Worker processes of `each_bytes` of memory to run in parallel: one per core, as memory allows; at least 1."""
    free = available_bytes()
    return cores() if free is None else max(1, min(cores(), free // each_bytes))


def has_semaphores() -> bool:
    """Whether processes can share semaphores, which process pools need and which the system keeps in /dev/shm."""
    from multiprocessing import get_context  # Imported here because it takes longer than the rest of this module.

    try:
        get_context("fork").Lock()
    except OSError:
        return False
    return True


def check_processes(chosen: int | None) -> None:
    """UserError if `--processes` is below 1, or asks for more worker processes than fit into memory."""
    if chosen is None:
        return
    if chosen < 1:
        raise UserError("must be 1 or more", where="--processes")
    memory = memory_bytes()
    if memory is not None and chosen * WORKER_BYTES > max(memory, WORKER_BYTES):
        raise UserError(
            f"{chosen} processes do not fit into {memory / 2**30:.1f} GiB of memory",
            where="--processes",
            remedy=f"use at most {max(1, memory // WORKER_BYTES)}; more than one per core ({cores()}) is no faster",
        )


def quotas() -> list[Quota]:
    """The CPU quotas of this process's cgroups, from its own upwards; empty if there are none."""
    found = []
    for group in _groups("cpu"):
        version2 = (read_text(group / "cpu.max") or "").split()
        version1 = [read_text(group / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        quota, period = version2 if len(version2) == 2 else version1
        if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
            found.append(Quota(int(quota) / int(period), _used_s(group)))
    return found


def _used_s(group: Path) -> float | None:
    used_us = _read_counters(group / "cpu.stat").get("usage_usec")
    if used_us is not None:
        return used_us / 1e6
    used_ns = _read_number(group / "cpuacct.usage")  # version 1, if both controllers share a hierarchy
    return None if used_ns is None else used_ns / 1e9


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_levels() -> Iterator[tuple[int, int]]:
    """(limit, available) in bytes, for each cgroup that limits memory."""
    for group in _groups("memory"):
        stat = _read_counters(group / "memory.stat")
        limits = (
            _read_number(group / "memory.max"),
            _read_number(group / "memory.high"),  # above it the kernel throttles the group almost to a halt
            _read_number(group / "memory.limit_in_bytes"),
            stat.get("hierarchical_memory_limit"),  # includes parent groups, which a container may not see
        )
        # Without a limit, version 1 reports the largest number it can represent.
        known = [limit for limit in limits if limit and limit < 1 << 60]
        if known:
            used = _read_number(group / "memory.current") or _read_number(group / "memory.usage_in_bytes") or 0
            files = sum(
                stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file")
            )  # `total_`: version 1, including child groups
            yield min(known), max(0, min(known) - max(0, used - files))


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of its parents, as far as they are visible from here.

    Both versions may be in use at once ("hybrid"): each folder belongs to one of them and has the files of its version.
    """
    seen = set()
    for names, own in _own_groups(controller):
        for mount, root in _mounts(controller if names else None):
            relative = _relative_group(own, root)
            for part in (relative, *relative.parents):
                folder = mount / part
                if folder not in seen:
                    seen.add(folder)
                    yield folder


def _own_groups(controller: str) -> Iterator[tuple[str, str]]:
    """(controllers, path) of this process in each relevant hierarchy; controllers are empty for version 2."""
    for line in (read_text(PROC / "self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if not names or controller in names.split(","):
            yield names, path


def _mounts(controller: str | None) -> Iterator[tuple[Path, str]]:
    """(mount point, mounted group) of a controller's version 1 hierarchy; None: of the version 2 hierarchy."""
    for line in (read_text(PROC / "self/mountinfo") or "").splitlines():
        target, _, source = line.partition(" - ")
        fields, file_system = target.split(), source.split()
        if len(fields) < 5 or len(file_system) < 3:
            continue
        kind, _, options = file_system[:3]
        if kind == "cgroup2" if controller is None else kind == "cgroup" and controller in options.split(","):
            yield Path(_unescaped(fields[4])), _unescaped(fields[3])
    yield (CGROUP if controller is None else CGROUP / controller), "/"


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _relative_group(own: str, root: str) -> PurePosixPath:
    """The group `own` relative to the mounted one; `.` if it is outside (in a namespace of its own, for example).

    A container then sees its own group mounted, or a parent of it.
    """
    try:
        relative = PurePosixPath(own).relative_to(root)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in relative.parts else relative


def _meminfo(name: str) -> int | None:
    found = re.search(rf"^{name}:\s*(\d+) kB", read_text(PROC / "meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _as_list(value: int | None) -> list[int]:
    return [] if value is None else [value]


def _read_counters(path: Path) -> dict[str, int]:
    """The counters of a file with lines `name number`."""
    pairs = (line.split() for line in (read_text(path) or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _read_number(path: Path) -> int | None:
    text = read_text(path)
    return int(text) if text and text.isdigit() else None


def read_text(path: Path) -> str | None:
    """A small system file's text, stripped; None if it cannot be read or is empty."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None
