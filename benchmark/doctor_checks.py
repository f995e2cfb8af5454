"""What the doctor looks at: Python, PyTorch, driver, GPUs, cores, memory, disks, caches and data sets, each a Finding."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from datasets.dataset import LIBRISPEECH, is_prepared, read_dataset, read_stamp, removal
from datasets.errors import UserError

from . import hardware
from .ask_torch import ask_torch
from .caches import DROP_FILE
from .expected import gpu_bytes
from .nvml import Gpu, Nvml, NvmlUnavailable
from .params import load_variant

GIB = 1024**3
OLDEST_PYTHON = (3, 11)
SET_UP = "run `sh script/setup.sh`"


@dataclass(frozen=True)
class Finding:
    """One line: how it stands, what was looked at, what was found, and what to do about it (None when all is well)."""

    level: Literal["good", "warning", "problem"]
    subject: str
    text: str
    remedy: str | None = None


def examine(data_dir: Path, results_dir: Path) -> Iterator[Finding]:
    """Every finding, in the order of the screen."""
    yield _python()
    seen = ask_torch()
    yield _torch(seen)
    yield from _gpus(seen)
    yield from (_cores(), _load(), _memory(), _shared_memory(), _open_files())
    # Without a GPU a run makes `mini`; with one `synthetic`, whose checkpoints take 1.25 GB an epoch.
    full_size = bool(seen.get("gpus"))
    corpus_bytes = 8 * GIB if full_size and not is_prepared(data_dir / "synthetic") else 1 * GIB
    yield _disk(
        "data folder", data_dir, needed_bytes=corpus_bytes, wanted_bytes=130 * GIB, wanted_for="all of LibriSpeech"
    )
    yield _disk(
        "results folder",
        results_dir,
        needed_bytes=(10 if full_size else 1) * GIB,
        wanted_bytes=20 * GIB,
        wanted_for="ten full-size checkpoints",
    )
    yield _caches()
    yield from _datasets(data_dir)


def _python() -> Finding:
    text = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("problem", "Python", text, "install Python 3.11 or newer, or name one with PYTHON=...")
    return Finding("good", "Python", text)


def _torch(seen: dict[str, Any]) -> Finding:
    if "error" in seen:
        return Finding("problem", "PyTorch", f"cannot be imported ({seen['error']})", SET_UP)
    built = f"built for CUDA {seen['built_for']}" if seen["built_for"] else "built without CUDA"
    return Finding("good", "PyTorch", f"{seen['version']}, {built}")


def _gpus(seen: dict[str, Any]) -> Iterator[Finding]:
    """Driver, NVML, each GPU, and whether torch sees the same ones."""
    try:
        nvml = Nvml()
    except NvmlUnavailable as error:
        yield _no_driver(str(error))
        if seen.get("gpus"):
            yield Finding(
                "warning", "CUDA", f"PyTorch sees {hardware.counted(seen['gpus'])}; telemetry cannot watch it", _MOUNT
            )
        return
    with nvml:
        yield Finding(
            "good", "NVIDIA driver", f"{nvml.driver_version}, up to CUDA {nvml.cuda_driver_version}; NVML answers"
        )
        for notice in nvml.notices:
            yield Finding("problem", "GPU", notice, "reset the GPU (`nvidia-smi -r`) or restart the machine")
        for gpu in nvml.gpus:
            yield _gpu(gpu)
        yield _cuda(seen, len([gpu for gpu in nvml.gpus if gpu.info.mig_parent_uuid is None]))


_MOUNT = "in a container, start it with `--gpus all`, which brings in the driver's libraries"


def _no_driver(reason: str) -> Finding:
    cards = hardware.nvidia_devices_on_bus()
    if cards and hardware.container():
        return Finding("warning", "NVIDIA driver", f"{cards} on the bus, but none to be used: {reason}", _MOUNT)
    if cards:
        return Finding(
            "warning",
            "NVIDIA driver",
            f"{cards} on the bus, but {reason}",
            "install NVIDIA's driver, or reload it after an update",
        )
    return Finding("good", "GPU", "none: runs use the CPU, which is enough for the variant `mini`")


def _gpu(gpu: Gpu) -> Finding:
    info = gpu.info
    subject = f"GPU {info.index}" if info.mig_parent_uuid is None else f"GPU {info.index} slice"
    total = info.memory_total_bytes
    facts = [info.name or "unknown", f"{total / GIB:.0f} GiB" if total else "", "" if info.gpm_supported else "no GPM"]
    values = gpu.read(time.monotonic())
    text = ", ".join(fact for fact in facts if fact)
    used, busy_pct = values["memory_used_bytes"], values["utilization_pct"]
    if gpu.lost:
        return Finding("problem", subject, f"{text}: lost", "reset the GPU (`nvidia-smi -r`) or restart the machine")
    if used and total and (used > 0.05 * total or (busy_pct or 0) > 5):
        state = f"in use ({used / GIB:.1f} GiB" + (f", {busy_pct:.0f} % busy)" if busy_pct is not None else ")")
        return Finding(
            "warning",
            subject,
            f"{text}: {state}",
            "end the other program (`nvidia-smi` names it), or the time will be wrong",
        )
    if info.mig_enabled:
        return Finding(
            "warning",
            subject,
            f"{text}: in MIG mode",
            "power and energy of a slice cannot be measured; `nvidia-smi -mig 0` ends the mode",
        )
    if total and total < (needed := gpu_bytes(load_variant("synthetic").train.batch_size, 1)):
        remedy = f"the longest batches of `synthetic` need {needed / GIB:.0f} GiB: share them among GPUs with NPROC, or run `mini`"
        return Finding("warning", subject, text, remedy)
    return Finding("good", subject, text)


def _cuda(seen: dict[str, Any], gpus: int) -> Finding:
    if "error" in seen:
        return Finding("warning", "CUDA", "not tried, since PyTorch cannot be imported", SET_UP)
    if not seen["gpus"] and gpus:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") is not None
        remedy = (
            "unset CUDA_VISIBLE_DEVICES"
            if hidden
            else f"update the driver: this PyTorch needs CUDA {seen['built_for']}"
        )
        if seen["built_for"] is None:
            remedy = f"this PyTorch was built without CUDA: {SET_UP}, or leave PYTHON unset"
        return Finding("problem", "CUDA", "PyTorch sees no GPU, although the driver does", remedy)
    level: Literal["good", "warning"] = "good" if len(seen["gpus"]) == gpus else "warning"
    others = "CUDA_VISIBLE_DEVICES or MIG hides the others; NPROC must not exceed what PyTorch sees"
    text = f"PyTorch sees {len(seen['gpus'])} of {gpus}, with NCCL {seen['nccl']}"
    return Finding(level, "CUDA", text, None if level == "good" else others)


def _cores() -> Finding:
    cpu, usable = hardware.processor(), hardware.usable_cores()
    text = f"{usable:g} of {cpu.threads} usable, {cpu.model or 'unknown model'}"
    if usable < 2:
        return Finding("warning", "CPU cores", text, "a run wants two or more: give the container or the machine more")
    if cpu.governor and "powersave" in cpu.governor and not Path("/sys/devices/system/cpu/intel_pstate").exists():
        return Finding(
            "warning",
            "CPU cores",
            f"{text}; governor {cpu.governor}",
            "`cpupower frequency-set -g performance` for full speed",
        )
    return Finding("good", "CPU cores", text)


def _load() -> Finding:
    load, usable = os.getloadavg()[0], hardware.usable_cores()
    text = f"{load:.1f} processes running, mean of the last minute"
    if load > max(0.5, usable / 4):
        return Finding(
            "warning", "load", text, "other programs lengthen the run: end them, or wait, before a result that counts"
        )
    return Finding("good", "load", text)


def _memory() -> Finding:
    limit, free = hardware.memory_limit_bytes(), psutil.virtual_memory().available
    text = f"{min(limit, free) / GIB:.1f} GiB available of {limit / GIB:.1f} GiB"
    if min(limit, free) < 3 * GIB:
        return Finding(
            "problem", "memory", text, "the smallest run needs 3 GiB: end other programs, or use a larger machine"
        )
    if min(limit, free) < 16 * GIB:
        return Finding("warning", "memory", text, "enough for `mini`; the full-size variants want 16 GiB")
    return Finding("good", "memory", text)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("warning", "shared memory", "no /dev/shm here", "NPROC above 1 may fail: mount a tmpfs there")
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.1f} GiB in /dev/shm"
    if free < GIB:
        return Finding(
            "warning",
            "shared memory",
            text,
            "data loaders and NCCL need it: start the container with `--ipc=host` or `--shm-size=8g`",
        )
    return Finding("good", "shared memory", text)


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 1024:
        return Finding("warning", "open files", f"at most {soft}", "raise the limit: `ulimit -n 4096`")
    return Finding("good", "open files", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")


def _disk(subject: str, folder: Path, *, needed_bytes: int, wanted_bytes: int, wanted_for: str) -> Finding:
    standing = folder.absolute()
    while not standing.exists() and standing != standing.parent:
        standing = standing.parent
    variable = "DATA_DIR" if subject.startswith("data") else "RESULTS_DIR"
    if not standing.is_dir() or not os.access(standing, os.W_OK | os.X_OK):
        return Finding("problem", subject, f"{folder} cannot be written", f"choose another folder with {variable}")
    free = shutil.disk_usage(standing).free
    text = f"{free / GIB:.1f} GiB free in {folder}"
    if free < needed_bytes:
        remedy = f"a run needs {needed_bytes / GIB:.0f} GiB: free some space, or choose another disk with {variable}"
        return Finding("problem", subject, text, remedy)
    if free < wanted_bytes:
        return Finding(
            "warning",
            subject,
            text,
            f"{wanted_for} would need about {wanted_bytes / GIB:.0f} GiB; {variable} chooses another disk",
        )
    return Finding("good", subject, text)


def _caches() -> Finding:
    if os.access(DROP_FILE, os.W_OK):
        return Finding("good", "file caches", "can be dropped before a run")
    remedy = "run as root for a result that follows this rule; the log says cache_clear false otherwise"
    return Finding("warning", "file caches", "cannot be dropped before a run", remedy)


def _datasets(data_dir: Path) -> Iterator[Finding]:
    descriptions = sorted(data_dir.glob("*.dataset.json")) if data_dir.is_dir() else []
    if not descriptions:
        yield Finding("good", "data sets", "none prepared yet: a run of `mini` or `synthetic` makes its own")
    for description in descriptions:
        yield _dataset(description.with_name(description.name.removesuffix(".dataset.json")))


def _dataset(folder: Path) -> Finding:
    verify = "run `sh verify_dataset.sh`"
    try:
        dataset = read_dataset(folder)
    except UserError as error:
        return Finding("problem", "data set", f"{folder.name}: {error.what}", error.remedy)
    hours = ", ".join(f"{split.duration_s / 3600:.2f} h {name}" for name, split in dataset.splits.items())
    stamp = read_stamp(folder)
    if stamp is None:
        return Finding("warning", "data set", f"{folder.name}: {hours}; never verified", verify)
    if not stamp.passed:
        again = "start its download again, which mends it"
        if folder.name != LIBRISPEECH:
            again = f"remove it ({removal(folder)}) and prepare it again"
        return Finding("problem", "data set", f"{folder.name}: failed its verification of {stamp.verified_at}", again)
    if stamp.tree_sha256 != dataset.digest.tree_sha256:
        return Finding("warning", "data set", f"{folder.name}: {hours}; prepared anew since it was verified", verify)
    return Finding("good", "data set", f"{folder.name}: {hours}; verified {stamp.verified_at}")
