"""This machine's hardware, read from /proc and /sys without root: processor, memory, disks, network, container.

Every function returns None (or nothing) for what the machine does not report; none guesses.
"""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.limits import read_text

SYS = Path("/sys")
PROC = Path("/proc")


def _number(path: Path) -> int | None:
    text = read_text(path)
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None


def counted(names: Iterable[str]) -> str:
    """`2x A + B` for the names A, A, B; an empty string for none."""
    return " + ".join(f"{n}x {name}" if n > 1 else name for name, n in Counter(names).items())


@dataclass(frozen=True)
class Processor:
    """The host's processors. `cores` and `threads` count the whole machine, over all `sockets`.

    `frequency_mhz` is the maximum, or the current one if the kernel does not report a maximum.
    """

    model: str | None
    sockets: int | None
    cores: int | None
    threads: int | None
    frequency_mhz: float | None
    caches: str | None
    governor: str | None


def processor() -> Processor:
    """Read the facts about the processors; `governor` is the kernel's frequency policy, if any."""
    cpu = SYS / "devices/system/cpu"
    packages = {read_text(path) for path in cpu.glob("cpu[0-9]*/topology/physical_package_id")} - {None}
    khz = _number(cpu / "cpu0/cpufreq/cpuinfo_max_freq")
    governors = {read_text(path) for path in cpu.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {None}
    cpuinfo = _cpuinfo()
    mhz = cpuinfo.get("cpu mhz")
    return Processor(
        model=cpuinfo.get("model name") or cpuinfo.get("cpu model") or cpuinfo.get("hardware") or _arm_model(cpuinfo),
        sockets=len(packages) or None,
        cores=psutil.cpu_count(logical=False),
        threads=psutil.cpu_count(),
        frequency_mhz=khz / 1000 if khz else (float(mhz) if mhz else None),
        caches=_caches(cpu / "cpu0/cache"),
        governor="/".join(sorted(map(str, governors))) or None,
    )


def _cpuinfo() -> dict[str, str]:
    """The entries of the first processor in /proc/cpuinfo, keys in lower case."""
    text = (read_text(PROC / "cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs if value.strip()}


def _arm_model(cpuinfo: dict[str, str]) -> str | None:
    part = cpuinfo.get("cpu part")
    return f"{platform.machine()} implementer {cpuinfo.get('cpu implementer', '?')} part {part}" if part else None


def _caches(folder: Path) -> str | None:
    found = []
    for index in sorted(folder.glob("index[0-9]*")):
        level, kind, size = (read_text(index / name) for name in ("level", "type", "size"))
        if level and size:
            found.append(f"L{level}{ {'Data': 'd', 'Instruction': 'i'}.get(kind or '', '') } {size}")
    return ", ".join(found) or None


def memory_modules() -> str | None:
    """The memory modules (`8x 64 GB DDR5`), if the kernel's error checking (EDAC) lists them: that needs no root."""
    modules = []
    for dimm in sorted((SYS / "devices/system/edac/mc").glob("mc*/dimm*")):
        size_mib, kind = _number(dimm / "size"), read_text(dimm / "dimm_mem_type")
        if size_mib:
            modules.append(f"{size_mib / 1024:g} GiB {kind or ''}".strip())
    return counted(modules) or None


SMALLEST_DISK_BYTES = 10**9
DOCKER_SIGN = Path("/.dockerenv")


@dataclass(frozen=True)
class Disk:
    """One disk: the kernel's name, what it is (NVMe SSD, SSD, HDD), its capacity in bytes."""

    name: str
    kind: str
    capacity_bytes: int


def disks() -> list[Disk]:
    """The physical disks; no partitions, loop or mapped devices, and no tiny disk that only carries a configuration."""
    found = []
    for block in sorted((SYS / "block").glob("*")):
        sectors = _number(block / "size")
        if not sectors or sectors * 512 < SMALLEST_DISK_BYTES:
            continue
        if not (block / "device").exists() or read_text(block / "removable") == "1":
            continue
        rotates = _number(block / "queue/rotational")
        kind = "NVMe SSD" if block.name.startswith("nvme") else {0: "SSD", 1: "HDD"}.get(rotates or 0, "disk")
        kind = "virtual disk" if block.name.startswith(("vd", "xvd")) else kind
        found.append(Disk(block.name, kind, sectors * 512))  # the kernel counts in 512-byte sectors on any disk
    return found


def network() -> list[str]:
    """The physical network adapters, with their speed if the link reports it: `100 Gb/s mlx5_core`."""
    found = []
    for net in sorted((SYS / "class/net").glob("*")):
        if not (net / "device").exists():
            continue
        speed_mb = _number(net / "speed")
        driver = (net / "device/driver").resolve().name if (net / "device/driver").exists() else "Ethernet"
        found.append(f"{speed_mb / 1000:g} Gb/s {driver}" if speed_mb and speed_mb > 0 else driver)
    for port in sorted((SYS / "class/infiniband").glob("*/ports/*")):
        rate, layer = read_text(port / "rate"), read_text(port / "link_layer")
        if rate and layer == "InfiniBand":
            found.append(f"InfiniBand {rate}")
    return found


def product() -> str | None:
    """The machine's vendor and model from its firmware."""
    dmi = SYS / "class/dmi/id"
    words = [read_text(dmi / "sys_vendor"), read_text(dmi / "product_name")]
    return " ".join(word for word in words if word) or None


def operating_system() -> str:
    """Distribution, kernel and architecture: `Debian GNU/Linux 12 (bookworm), kernel 6.1.0, x86_64`."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        name = platform.system()
    return f"{name}, kernel {platform.release()}, {platform.machine()}"


def container() -> str | None:
    """The kind of container this process runs in (docker, podman, kubernetes ...); None if none is detected.

    The least specific signs are checked last. A virtual machine made from an image may contain /.dockerenv; in a
    container of Docker, /etc/hosts is also a mount.
    """
    for variable in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        if variable in os.environ:
            return variable.split("_")[0].lower()
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    if named := os.environ.get("container"):  # noqa: SIM112 - the spelling of systemd and podman
        return named
    if Path("/run/.containerenv").exists():
        return "podman"
    if DOCKER_SIGN.exists() and " /etc/hosts " in (read_text(PROC / "self/mountinfo") or ""):
        return "docker"
    found = re.search(r"docker|kubepods|containerd|lxc|libpod|buildkit", read_text(PROC / "1/cgroup") or "")
    return {"kubepods": "kubernetes", "libpod": "podman"}.get(found.group(), found.group()) if found else None


def virtual_machine() -> bool:
    """Whether the processor reports a hypervisor."""
    return " hypervisor" in f" {_cpuinfo().get('flags', '')}"


def nvidia_devices_on_bus() -> int:
    """The number of NVIDIA display or compute devices on the PCI bus, with or without a driver."""
    count = 0
    for device in (SYS / "bus/pci/devices").glob("*"):
        kind = read_text(device / "class") or ""
        count += read_text(device / "vendor") == "0x10de" and kind.startswith("0x03")
    return count
