"""The doctor's checks, each a Finding: Python, PyTorch, driver, GPUs, cores, memory, disks, caches, datasets."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.doctor.finding import GIB, Finding
from benchmark.doctor.gpu_checks import gpu_findings
from benchmark.doctor.gpu_remedies import SET_UP, on_host
from benchmark.harness.caches import DROP_FILE
from benchmark.machine import hardware
from benchmark.machine.cpu_load import Load, Measurement
from benchmark.machine.torch_gpus import ask_torch
from common import limits
from common.errors import UserError
from datasets.dataset import LIBRISPEECH, is_prepared, read_dataset, read_stamp, removal_command

OLDEST_PYTHON = (3, 11)
LEAST_MEMORY, FULL_MEMORY = 3 * GIB, 16 * GIB


def examine(data_dir: Path, results_dir: Path) -> Iterator[Finding]:
    """Every finding, in the order of the output."""
    load = Measurement()
    yield _python()
    torch_report = ask_torch()
    yield _torch(torch_report)
    yield from gpu_findings(torch_report)
    yield _cores()
    yield _load(load.end())
    yield _memory()
    yield from _address_space()
    yield from (_shared_memory(), _open_files())
    # Without a GPU a run synthesises `mini`; with one `synthetic`, whose checkpoints take 1.25 GB per epoch.
    full_size = bool(torch_report.get("gpus"))
    yield _data_folder(data_dir, "synthetic" if full_size else "mini")
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


def _torch(torch_report: dict[str, Any]) -> Finding:
    if "error" in torch_report:
        return Finding("problem", "PyTorch", f"cannot be imported ({torch_report['error']})", SET_UP)
    built = f"built for CUDA {torch_report['built_for']}" if torch_report["built_for"] else "built without CUDA"
    return Finding("good", "PyTorch", f"{torch_report['version']}, {built}")


def _cores() -> Finding:
    cpu, usable = hardware.processor(), limits.usable_cores()
    text = f"{usable:g} of {cpu.threads} usable, {cpu.model or 'unknown model'}"
    if usable < 2:
        remedy = (
            "a run needs two or more: give the container (Docker: `--cpus`) or the job (Slurm: `--cpus-per-task`) more"
        )
        return Finding("warning", "CPU cores", text, remedy)
    if cpu.governor and "powersave" in cpu.governor and not Path("/sys/devices/system/cpu/intel_pstate").exists():
        remedy = on_host("`cpupower frequency-set -g performance`, as root, for full clock speed")
        return Finding("warning", "CPU cores", f"{text}; governor {cpu.governor}", remedy)
    return Finding("good", "CPU cores", text)


def _load(load: Load) -> Finding:
    if load.taken_cores is None:
        return Finding(
            "warning", "load", str(load), "make sure that nothing else is running: it would slow the run down"
        )
    if load.disturbs:
        remedy = "they slow the run down: stop them, or wait, before a run that counts"
        return Finding("warning", "load", str(load), remedy)
    return Finding("good", "load", str(load))


def _memory() -> Finding:
    limit, free = limits.memory_bytes(), limits.available_bytes()
    if limit is None or free is None:
        return Finding("warning", "memory", "its size cannot be read here", "the smallest run needs 3 GiB")
    text = f"{free / GIB:.1f} GiB available of {limit / GIB:.1f} GiB"
    more = "stop other programs, or use a larger machine"
    if limit < (limits.machine_memory_bytes() or 0):
        text += f", of the machine's {(limits.machine_memory_bytes() or 0) / GIB:.1f} GiB"
        more = "stop other programs, or give the container (Docker: `--memory`) or the job (Slurm: `--mem`) more"
    if free < LEAST_MEMORY:
        return Finding("problem", "memory", text, f"the smallest run needs 3 GiB: {more}")
    if free < FULL_MEMORY:
        return Finding("warning", "memory", text, f"enough for `mini`; the full-size variants need 16 GiB: {more}")
    return Finding("good", "memory", text)


def _address_space() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        remedy = (
            "PyTorch maps far more address space than it uses, on a GPU more than all memory: `ulimit -v unlimited`"
        )
        if hard != resource.RLIM_INFINITY:
            remedy += ", which here needs a new job or session (a batch system may set it from the requested memory)"
        text = f"at most {soft / GIB:.1f} GiB for each process (`ulimit -v`)"
        yield Finding("warning", "address space", text, remedy)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    larger = {
        "docker": "start the container with `--ipc=host` or `--shm-size=8g`",
        "podman": "start the container with `--ipc=host` or `--shm-size=8g`",
        "kubernetes": "mount an emptyDir of medium Memory at /dev/shm",
    }.get(hardware.container() or "", on_host("`mount -o remount,size=8g /dev/shm` as root"))
    if not folder.is_dir():
        return Finding(
            "warning", "shared memory", "no /dev/shm here", "NPROC above 1 may fail: mount a tmpfs at /dev/shm"
        )
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.1f} GiB in /dev/shm"
    if free < GIB:
        return Finding("warning", "shared memory", text, f"data loaders and NCCL need it: {larger}")
    return Finding("good", "shared memory", text)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 1024:
        remedy = "raise the limit: `ulimit -n 4096`"
        if hard != resource.RLIM_INFINITY and hard < 4096:
            remedy = "have root raise the limit to 4096 (limits.conf; Docker: `--ulimit nofile=4096`)"
        return Finding("warning", "open files", f"at most {soft}", remedy)
    return Finding("good", "open files", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")


def _data_folder(folder: Path, wanted: str) -> Finding:
    """The folder of the corpora. If it is read-only it must hold what a run needs: `wanted`, or LibriSpeech."""
    exists, readable = os.path.isdir(folder), os.access(folder, os.R_OK | os.X_OK)
    ready = [name for name in (LIBRISPEECH, wanted) if readable and is_prepared(folder / name)]
    if not exists or _writable(folder):
        needed = 8 * GIB if wanted == "synthetic" and wanted not in ready else 1 * GIB
        return _disk(
            "data folder", folder, needed_bytes=needed, wanted_bytes=130 * GIB, wanted_for="all of LibriSpeech"
        )
    if not readable:
        remedy = "check its permissions, or choose another folder with DATA_DIR"
        return Finding("problem", "data folder", f"{folder} cannot be read", remedy)
    if ready:
        return Finding("good", "data folder", f"read-only, and holds {' and '.join(ready)}: {folder}")
    others = sorted(path.name.removesuffix(".dataset.json") for path in folder.glob("*.dataset.json"))
    make = shlex.join([sys.executable, "-m", "datasets", "synthesise", wanted, "--data-dir", str(folder)])
    remedy = f"synthesise it in a writable folder (`{make}`), or choose another folder with DATA_DIR"
    if others:
        text = f"read-only, and holds {', '.join(others)}, but not `{wanted}`, which a run synthesises by default"
        return Finding("warning", "data folder", f"{text}: {folder}", f"choose one of those (--params), or {remedy}")
    text = f"{folder} cannot be written, and does not hold `{wanted}`, which a run would synthesise"
    return Finding("problem", "data folder", text, remedy)


def _writable(folder: Path) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _disk(subject: str, folder: Path, *, needed_bytes: int, wanted_bytes: int, wanted_for: str) -> Finding:
    existing = folder.absolute()
    while not os.path.exists(existing) and existing != existing.parent:
        existing = existing.parent
    variable = "DATA_DIR" if subject.startswith("data") else "RESULTS_DIR"
    if not _writable(existing):
        return Finding("problem", subject, f"{folder} cannot be written", f"choose another folder with {variable}")
    free = shutil.disk_usage(existing).free
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
    otherwise = "otherwise the log has cache_clear false"
    remedy = f"run as root for a result that follows this rule; {otherwise}"
    if os.geteuid() == 0:
        remedy = (
            "let the container write to /proc/sys (`--privileged`) for a result that follows this rule; " + otherwise
        )
    return Finding("warning", "file caches", "cannot be dropped before a run", remedy)


def _datasets(data_dir: Path) -> Iterator[Finding]:
    if os.path.isdir(data_dir) and not os.access(data_dir, os.R_OK | os.X_OK):
        return
    descriptions = sorted(data_dir.glob("*.dataset.json")) if os.path.isdir(data_dir) else []
    if not descriptions:
        yield Finding("good", "datasets", "none prepared yet: a run of `mini` or `synthetic` synthesises its own")
    for description in descriptions:
        yield _dataset(description.with_name(description.name.removesuffix(".dataset.json")))


def _dataset(folder: Path) -> Finding:
    verify = f"run `sh verify_dataset.sh {shlex.quote(str(folder))}`"
    try:
        dataset = read_dataset(folder)
    except UserError as error:
        return Finding("problem", "dataset", f"{folder.name}: {error.what}", error.remedy)
    hours = ", ".join(f"{split.duration_s / 3600:.2f} h {name}" for name, split in dataset.splits.items())
    stamp = read_stamp(folder)
    if stamp is None:
        return Finding("warning", "dataset", f"{folder.name}: {hours}; never verified", verify)
    if not stamp.passed:
        again = "start its download again, which repairs it"
        if folder.name != LIBRISPEECH:
            again = f"remove it ({removal_command(folder)}) and prepare it again"
        return Finding("problem", "dataset", f"{folder.name}: failed its verification on {stamp.verified_at}", again)
    if stamp.tree_sha256 != dataset.digest.tree_sha256:
        return Finding("warning", "dataset", f"{folder.name}: {hours}; prepared again since it was verified", verify)
    return Finding("good", "dataset", f"{folder.name}: {hours}; verified {stamp.verified_at}")
