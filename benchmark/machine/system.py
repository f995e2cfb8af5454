"""The system description that MLPerf requires, as far as the machine reports it, and the software versions of a result.

The 33 fields are those of mlperf_logging.system_desc_checker (training). A field that only a person can fill stays
empty; `missing` lists those.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.machine import hardware
from benchmark.machine.nvml import Gpu, Nvml, NvmlUnavailable
from benchmark.submission import LOCK_FILE
from common import limits
from common.files import sha256_of

FIELDS = (
    "submitter",
    "division",
    "status",
    "system_name",
    "number_of_nodes",
    "host_processors_per_node",
    "host_processor_model_name",
    "host_processor_core_count",
    "host_processor_vcpu_count",
    "host_processor_frequency",
    "host_processor_caches",
    "host_processor_interconnect",
    "host_memory_capacity",
    "host_storage_type",
    "host_storage_capacity",
    "host_networking",
    "host_networking_topology",
    "host_memory_configuration",
    "accelerators_per_node",
    "accelerator_model_name",
    "accelerator_host_interconnect",
    "accelerator_frequency",
    "accelerator_on-chip_memories",
    "accelerator_memory_configuration",
    "accelerator_memory_capacity",
    "accelerator_interconnect",
    "accelerator_interconnect_topology",
    "cooling",
    "hw_notes",
    "framework",
    "other_software_stack",
    "operating_system",
    "sw_notes",
)
NOT_APPLICABLE = "N/A"
_MAY_BE_EMPTY = {"hw_notes", "sw_notes"}
_GPU_NODES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu")

PACKAGES = {
    "torch": ("torch",),
    "torchaudio": ("torchaudio",),
    "cuda_runtime": ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"),
    "cublas": ("nvidia-cublas", "nvidia-cublas-cu12"),
    "cudnn": ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
    "cufft": ("nvidia-cufft", "nvidia-cufft-cu12"),
    "nccl": ("nvidia-nccl-cu13", "nvidia-nccl-cu12"),
    "triton": ("triton",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "numpy": ("numpy",),
    "mlperf_logging": ("mlperf-logging",),
    "nvidia_ml_py": ("nvidia-ml-py",),
    "soundfile": ("soundfile",),
    "espeakng_loader": ("espeakng-loader",),
    "wonderwords": ("wonderwords",),
}
"""Our name of a piece of software, and the distributions that may provide it; looked up in their metadata without
imports."""


def describe(number_of_nodes: int = 1, gpus: Sequence[str] | None = None) -> dict[str, Any]:
    """The system description: each of FIELDS as text (`other_software_stack` as a dict), "" if a person must fill it.

    `gpus` names the GPUs that can be used (empty: the run used the CPU, and a note lists the unused GPUs); None: all
    that NVML lists.
    """
    with _OpenNvml() as nvml:
        listed, versions = _whole_gpus(nvml), _versions(nvml)
        unused = listed if gpus is not None and not gpus else []
        used = [] if unused else listed
        return {field: "" for field in FIELDS} | _host(unused) | _accelerators(used, gpus or ()) | _software_fields(versions) | {
            "number_of_nodes": str(number_of_nodes),
            "system_name": _system_name(_names(used) or gpus or ()),
        }  # fmt: skip


def missing(description: dict[str, Any]) -> list[str]:
    """The fields that a person still has to fill: absent or empty ones, except notes."""
    return [field for field in FIELDS if field not in _MAY_BE_EMPTY and not description.get(field)]


def software() -> dict[str, str | None]:
    """The version of everything that can change a result; None if it is not installed or not found."""
    with _OpenNvml() as nvml:
        return _versions(nvml)


def code_version(root: Path) -> dict[str, Any]:
    """`{"commit", "clean"}` of the checkout at `root`; both None without git or if `root` is not a repository.

    Clean means that no tracked file was changed and no code or parameter file was added; other new files do not count.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=all")
    if top is None or commit is None or status is None or Path(top.strip()).resolve() != Path(root).resolve():
        return {"commit": None, "clean": None}
    changed = [line for line in status.splitlines() if not line.startswith("??") or _is_code(line)]
    return {"commit": commit.strip(), "clean": not changed}


def lock_sha256(root: Path, commit: str | None = None) -> str | None:
    """The SHA-256 of `root`/requirements.lock, which has every installed file's hash; None without that file.

    `commit`: the file at that commit; None if git does not know the commit.
    """
    if commit is not None:
        return _lock_at(Path(root), commit)
    try:
        return sha256_of(Path(root) / LOCK_FILE)
    except FileNotFoundError:
        return None


@functools.cache
def _lock_at(root: Path, commit: str) -> str | None:
    # The commit comes from a record, which anyone may have edited: it must not be taken for an option of git.
    known = re.fullmatch("[0-9a-f]{40}", commit)
    text = _git(root, "show", f"{commit}:./{LOCK_FILE}") if known else None
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def gpu_label(gpus: Sequence[str] | None = None) -> str:
    """A short name of the first of `gpus` for folder names (`h200`, `rtx-4090`).

    It is `cpu` if there are none. `gpus` None: those that NVML lists.
    """
    if gpus is None:
        with _OpenNvml() as nvml:
            gpus = _names(_whole_gpus(nvml))
    return label(gpus[0]) if gpus else "cpu"


def has_gpu() -> bool:
    """Whether there is any sign of an NVIDIA GPU, even of one that PyTorch cannot use.

    NVML is not the only sign: a container may have the driver without it, and Jetson boards have no NVML.
    """
    with _OpenNvml() as nvml:
        if _whole_gpus(nvml):
            return True
    return has_gpu_devices() or hardware.nvidia_devices_on_bus() > 0


def has_gpu_devices() -> bool:
    """Whether the driver's device files exist; Jetson boards have different ones from cards."""
    return any(Path(node).exists() for node in _GPU_NODES)


def label(name: str) -> str:
    """A device's name made fit for a folder name: `NVIDIA A100-SXM4-80GB` becomes `a100-sxm4-80gb`."""
    plain = re.sub(r"\b(nvidia|geforce|tesla|quadro)\b", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "gpu"


class _OpenNvml:
    """`with _OpenNvml() as nvml`: NVML, or None on a machine without it."""

    def __enter__(self) -> Nvml | None:
        try:
            self._nvml: Nvml | None = Nvml()
        except NvmlUnavailable:
            self._nvml = None
        return self._nvml

    def __exit__(self, *_: object) -> None:
        if self._nvml is not None:
            self._nvml.close()


def _whole_gpus(nvml: Nvml | None) -> list[Gpu]:
    return [gpu for gpu in nvml.gpus if gpu.info.mig_parent_uuid is None] if nvml else []


def _names(gpus: list[Gpu]) -> list[str]:
    return [gpu.info.name or "unknown GPU" for gpu in gpus]


def _system_name(gpus: Sequence[str]) -> str:
    machine = hardware.product()
    accelerators = hardware.counted(label(name).upper() for name in gpus)
    return " ".join(part for part in (machine, accelerators) if part)


def _host(unused: list[Gpu]) -> dict[str, str]:
    cpu, disks = hardware.processor(), hardware.disks()
    notes = {
        "cpu governor": cpu.governor,
        "virtual machine": "yes" if hardware.virtual_machine() else None,
        "usable cores": f"{limits.usable_cores():g}",
        "unused GPUs": hardware.counted(_names(unused)) or None,
    }
    return {
        "host_processors_per_node": str(cpu.sockets or ""),
        "host_processor_model_name": cpu.model or "",
        "host_processor_core_count": str(cpu.cores or ""),
        "host_processor_vcpu_count": str(cpu.threads or ""),
        "host_processor_frequency": f"{cpu.frequency_mhz:.0f} MHz" if cpu.frequency_mhz else "",
        "host_processor_caches": cpu.caches or "",
        "host_processor_interconnect": NOT_APPLICABLE if cpu.sockets == 1 else "",
        "host_memory_capacity": _gib(memory) if (memory := limits.memory_bytes()) else "",
        "host_memory_configuration": hardware.memory_modules() or "",
        "host_storage_type": " + ".join(dict.fromkeys(disk.kind for disk in disks)),
        "host_storage_capacity": hardware.counted(f"{disk.capacity_bytes / 1e9:.0f} GB {disk.kind}" for disk in disks),
        "host_networking": hardware.counted(hardware.network()),
        "hw_notes": _notes(notes),
    }


def _accelerators(gpus: list[Gpu], names: Sequence[str]) -> dict[str, str]:
    """The fields of the GPUs that NVML lists; if it lists none, `names` is all that is known about the GPUs in use."""
    if not gpus and names:
        return {"accelerators_per_node": str(len(names)), "accelerator_model_name": hardware.counted(names)}
    if not gpus:
        fields = [field for field in FIELDS if field.startswith("accelerator")]
        return dict.fromkeys(fields, NOT_APPLICABLE) | {"accelerators_per_node": "0"}
    first = gpus[0].info
    kind = re.search(r"HBM\w*|GDDR\w*", first.name or "")
    memory = [kind.group() if kind else "", f"{first.memory_bus_bits}-bit" if first.memory_bus_bits else ""]
    link = f"NVLink {first.nvlink_version or ''} x{first.nvlink_links}".replace("  ", " ") if first.nvlink_links else ""
    alone = NOT_APPLICABLE if len(gpus) == 1 else ""
    pcie = f"PCIe {first.pcie_generation}.0 x{first.pcie_width}" if first.pcie_generation and first.pcie_width else ""
    return {
        "accelerators_per_node": str(len(gpus)),
        "accelerator_model_name": hardware.counted(_names(gpus))
        if len({gpu.info.name for gpu in gpus}) > 1
        else first.name or "",
        "accelerator_host_interconnect": pcie,
        "accelerator_frequency": f"{first.sm_clock_max_mhz:.0f} MHz" if first.sm_clock_max_mhz else "",
        "accelerator_memory_configuration": ", ".join(part for part in memory if part),
        "accelerator_memory_capacity": _gib(first.memory_total_bytes) if first.memory_total_bytes else "",
        "accelerator_interconnect": link or alone,
        "accelerator_interconnect_topology": alone,
    }


def _software_fields(versions: dict[str, str | None]) -> dict[str, Any]:
    elsewhere = ("torch", "operating_system", "container")
    return {
        "framework": f"PyTorch {versions['torch']}" if versions["torch"] else "",
        "other_software_stack": {
            name: version for name, version in versions.items() if version and name not in elsewhere
        },
        "operating_system": hardware.operating_system(),
        "sw_notes": _notes({"container": hardware.container()}),
    }


def _versions(nvml: Nvml | None) -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    versions |= {name: _installed(distributions) for name, distributions in PACKAGES.items()}
    return versions | {
        "driver": nvml.driver_version if nvml else None,
        "cuda_driver": nvml.cuda_driver_version if nvml else None,
        "nvml": nvml.nvml_version if nvml else None,
        "operating_system": hardware.operating_system(),
        "container": hardware.container(),
    }


@functools.cache
def _installed(distributions: tuple[str, ...]) -> str | None:
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _gib(size: int) -> str:
    return f"{size / 1024**3:.0f} GiB"


def _notes(notes: dict[str, str | None]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in notes.items() if value)


def _is_code(status_line: str) -> bool:
    return status_line.strip('" ').endswith((".py", ".sh", ".yaml", ".lock"))


def _git(root: Path, *arguments: str) -> str | None:
    # In a container the checkout may belong to another user, which git refuses by default; and the caller's GIT_DIR
    # (in a hook, for example) must not apply to this folder.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(root), "-c", "safe.directory=*", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
