"""How many cores and how much memory this process may use: the machine's, or what a container, a batch system or `ulimit` leaves.

Docker, Podman, Kubernetes, Slurm and systemd limit processes by control groups, which nest: each group on the way from the
process's own up to the root counts, in both versions of the kernel's interface (cgroups(7), cgroup-v2.rst, and cpu.cfs_* and
memory.* of the first version). Nothing here needs root or asks a container engine.
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
"""Where control groups lie by custom: for sandboxes whose table of mounts names none."""

WORKER_BYTES = 64 << 20
"""Memory that a worker process (synthesis, pack, import, checksums) is taken to need: 17 to 50 MiB were measured."""


@dataclass(frozen=True)
class Quota:
    """A control group's share of the processor: time worth `cores`, and the seconds used of it so far (None: unknown)."""

    cores: float
    used_s: float | None


def usable_cores() -> float:
    """Cores that this process may use, at a fraction where it is so limited: by its affinity mask, or by a quota that is less."""
    return min([float(_affinity()), *(quota.cores for quota in quotas())])


def cores() -> int:
    """`usable_cores` as a number of workers or threads: rounded down, at least 1.

    Down, because the kernel stops a group that has used up its quota for the rest of each tenth of a second, all of its
    threads at once: one thread more than there are whole cores holds up the others.
    """
    return max(1, math.floor(usable_cores()))


def memory_bytes() -> int | None:
    """Memory that this process, with all that share its limits, may fill: the machine's or a group's; None where nothing tells."""
    return min([*_known(machine_memory_bytes()), *(limit for limit, _ in _memory_levels())], default=None)


def machine_memory_bytes() -> int | None:
    """The machine's own memory, whatever of it is for us; None where nothing tells."""
    return _meminfo("MemTotal") or _physical()


def available_bytes() -> int | None:
    """How much of `memory_bytes` can still be filled now without swapping; None where nothing tells.

    What a group keeps of files is given back under pressure and counts as available, as in the kernel's MemAvailable.
    """
    return min([*_known(_meminfo("MemAvailable")), *(free for _, free in _memory_levels())], default=memory_bytes())


def workers(each_bytes: int = WORKER_BYTES) -> int:
    """How many processes that need `each_bytes` of memory work well side by side: one a core, while memory lasts; at least 1."""
    free = available_bytes()
    return cores() if free is None else max(1, min(cores(), free // each_bytes))


def has_semaphores() -> bool:
    """Whether processes can share semaphores, without which there are no pools of them: the system keeps them in /dev/shm."""
    from multiprocessing import get_context  # Importing this takes longer than all the rest here.

    try:
        get_context("fork").Lock()
    except OSError:
        return False
    return True


def check_processes(chosen: int | None) -> None:
    """UserError where `--processes` is below 1, or asks for more worker processes than memory holds."""
    if chosen is None:
        return
    if chosen < 1:
        raise UserError("must be 1 or more", where="--processes")
    memory = memory_bytes()
    if memory is not None and chosen * WORKER_BYTES > max(memory, WORKER_BYTES):
        raise UserError(
            f"{chosen} processes do not fit into {memory / 2**30:.1f} GiB of memory",
            where="--processes",
            remedy=f"use at most {max(1, memory // WORKER_BYTES)}; more than one a core ({cores()}) gain nothing",
        )


def quotas() -> list[Quota]:
    """The processor quotas of this process's control groups, from its own upwards; none where it has none."""
    found = []
    for group in _groups("cpu"):
        second = (read_text(group / "cpu.max") or "").split()
        first = [read_text(group / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        quota, period = second if len(second) == 2 else first
        if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
            found.append(Quota(int(quota) / int(period), _used_s(group)))
    return found


def _used_s(group: Path) -> float | None:
    used_us = _table(group / "cpu.stat").get("usage_usec")
    if used_us is not None:
        return used_us / 1e6
    used_ns = _number(group / "cpuacct.usage")  # of the first version, where both controllers share a hierarchy
    return None if used_ns is None else used_ns / 1e9


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_levels() -> Iterator[tuple[int, int]]:
    """(limit, what is left of it) in bytes, for each control group that limits memory."""
    for group in _groups("memory"):
        stat = _table(group / "memory.stat")
        limits = (
            _number(group / "memory.max"),
            _number(group / "memory.high"),  # beyond it the kernel slows the group down until nothing goes on
            _number(group / "memory.limit_in_bytes"),
            stat.get("hierarchical_memory_limit"),  # of the groups above too, which a container may not see
        )
        # Without a limit the first version tells the largest number it can hold.
        known = [limit for limit in limits if limit and limit < 1 << 60]
        if known:
            used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
            files = sum(
                stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file")
            )  # `total_`: with the groups below, in the first version
            yield min(known), max(0, min(known) - max(0, used - files))


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those above it, as far as they can be seen from here.

    Both versions may be in use at once ("hybrid"): each folder is of either, and has the files of its version.
    """
    seen = set()
    for names, own in _own_groups(controller):
        for mount, root in _mounts(controller if names else None):
            below = _below(own, root)
            for part in (below, *below.parents):
                folder = mount / part
                if folder not in seen:
                    seen.add(folder)
                    yield folder


def _own_groups(controller: str) -> Iterator[tuple[str, str]]:
    """(controllers, path) of this process in each hierarchy that counts; no controllers: the second version's."""
    for line in (read_text(PROC / "self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if not names or controller in names.split(","):
            yield names, path


def _mounts(controller: str | None) -> Iterator[tuple[Path, str]]:
    """(mount point, which group is mounted there) of the hierarchy of a controller; None: of the second version's."""
    for line in (read_text(PROC / "self/mountinfo") or "").splitlines():
        place, _, source = line.partition(" - ")
        fields, of = place.split(), source.split()
        if len(fields) < 5 or len(of) < 3:
            continue
        if of[0] == "cgroup2" if controller is None else of[0] == "cgroup" and controller in of[2].split(","):
            yield Path(_unescaped(fields[4])), _unescaped(fields[3])
    yield (CGROUP if controller is None else CGROUP / controller), "/"


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _below(own: str, root: str) -> PurePosixPath:
    """The group `own` relative to the mounted one; `.` where it lies elsewhere (in a namespace of its own, say).

    A container then sees its own group mounted, or one above it.
    """
    try:
        below = PurePosixPath(own).relative_to(root)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in below.parts else below


def _meminfo(name: str) -> int | None:
    found = re.search(rf"^{name}:\s*(\d+) kB", read_text(PROC / "meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _known(value: int | None) -> list[int]:
    return [] if value is None else [value]


def _table(path: Path) -> dict[str, int]:
    """A file of lines `name number`."""
    pairs = (line.split() for line in (read_text(path) or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(path: Path) -> int | None:
    text = read_text(path)
    return int(text) if text and text.isdigit() else None


def read_text(path: Path) -> str | None:
    """A small system file's text without blank ends; None where it cannot be read or is empty."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None
