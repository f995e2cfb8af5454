"""The doctor's checks of GPUs: the driver, each GPU, and whether PyTorch sees the same GPUs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from benchmark.doctor import gpu_remedies
from benchmark.doctor.finding import GIB, Finding, Level
from benchmark.doctor.gpu_remedies import DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND
from benchmark.machine import hardware
from benchmark.machine.estimates import gpu_bytes
from benchmark.machine.nvml import Gpu, Nvml, NvmlUnavailable
from benchmark.machine.system import has_gpu_devices
from benchmark.params import load_variant

USED_SHARE, BUSY_PCT = 0.05, 5.0
"""A GPU counts as in use above this share of its memory, or this utilization in percent."""


def gpu_findings(torch_report: dict[str, Any]) -> Iterator[Finding]:
    """Driver, NVML, each GPU, and whether PyTorch sees the same GPUs; `torch_report` is the answer of `ask_torch`."""
    try:
        nvml = Nvml()
    except NvmlUnavailable as error:
        if not torch_report.get("gpus"):
            yield no_driver(error)
            return
        text = f"PyTorch sees {hardware.counted(torch_report['gpus'])}; telemetry cannot read it: {error}"
        yield Finding("warning", "CUDA", text, _remedy_for_telemetry(error.code))
        return
    with nvml:
        yield Finding(
            "good", "NVIDIA driver", f"{nvml.driver_version}, up to CUDA {nvml.cuda_driver_version}; NVML answers"
        )
        for notice in nvml.notices:
            yield Finding("problem", "GPU", str(notice), gpu_remedies.for_gpu(notice.code))
        for gpu in nvml.gpus:
            yield gpu_finding(gpu)
        whole = [gpu for gpu in nvml.gpus if gpu.info.mig_parent_uuid is None]
        if whole or torch_report.get("gpus"):
            yield cuda(torch_report, len(whole))
        elif not nvml.notices:
            text = "the driver is loaded, but lists no GPU for this process: runs use the CPU"
            yield Finding("warning", "GPU", text, gpu_remedies.for_no_gpu())


def _remedy_for_telemetry(code: int | None) -> str:
    if code == LIBRARY_NOT_FOUND and hardware.container() in ("docker", "podman"):
        return "make NVML available in the container too: `-e NVIDIA_DRIVER_CAPABILITIES=compute,utility`"
    return gpu_remedies.for_nvml(code)


def no_driver(error: NvmlUnavailable) -> Finding:
    """NVML cannot be opened, and PyTorch sees no GPU either."""
    cards = hardware.nvidia_devices_on_bus()
    if not cards and not has_gpu_devices() and error.code in (None, LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED):
        return Finding("good", "GPU", "none: runs use the CPU, which is sufficient for the variant `mini`")
    found = f"{cards} on the PCI bus, but " if cards else ""
    return Finding("warning", "NVIDIA driver", f"{found}{error}", gpu_remedies.for_nvml(error.code))


def gpu_finding(gpu: Gpu) -> Finding:
    """One GPU or MIG slice: what it is, and whether something else uses it.

    A value that it does not report is `unknown`.
    """
    info = gpu.info
    subject = f"GPU {info.index}" if info.mig_parent_uuid is None else f"GPU {info.index} slice"
    total = info.memory_total_bytes
    size = f"{total / GIB:.0f} GiB" if total else "memory unknown"
    facts = [info.name or "unknown", size, "" if info.gpm_supported else "no GPM"]
    values = gpu.read(time.monotonic())
    text = ", ".join(fact for fact in facts if fact)
    used, busy_pct = values["memory_used_bytes"], values["utilization_pct"]
    if gpu.lost:
        return Finding("problem", subject, f"{text}: lost", gpu_remedies.reset())
    # A GPU that shares the host's memory reports none of its own; processes that use it are listed all the same.
    others = len(gpu.process_ids() or ()) if used is None else 0
    if (used and total and used > USED_SHARE * total) or (busy_pct or 0) > BUSY_PCT or others:
        state = [
            "memory unknown" if used is None else f"{used / GIB:.1f} GiB",
            "load unknown" if busy_pct is None else f"{busy_pct:.0f} % busy",
            f"processes: {others}" if others else "",
        ]
        named = f"{text}: in use ({', '.join(part for part in state if part)})"
        where = ", on the host" if hardware.container() else ""
        return Finding(
            "warning",
            subject,
            named,
            f"stop the other program (`nvidia-smi` lists it{where}), or the run will be slowed down",
        )
    if info.mig_enabled:
        remedy = "power and energy of a slice cannot be measured; "
        remedy += gpu_remedies.on_host(f"`nvidia-smi -i {info.index} -mig 0` as root disables MIG")
        return Finding("warning", subject, f"{text}: in MIG mode", remedy)
    if used is None and busy_pct is None and info.mig_parent_uuid is None:
        remedy = "make sure that nothing else uses it (`nvidia-smi` lists programs), or the run will be slowed down"
        return Finding("warning", subject, f"{text}: neither memory in use nor utilization can be read", remedy)
    if total and total < (needed := gpu_bytes(load_variant("synthetic").train.batch_size, 1)):
        remedy = f"the longest batches of `synthetic` need {needed / GIB:.0f} GiB: split them over GPUs with NPROC, or run `mini`"
        return Finding("warning", subject, text, remedy)
    return Finding("good", subject, text)


def cuda(torch_report: dict[str, Any], gpus: int) -> Finding:
    """What PyTorch sees, compared with the number of whole `gpus` that the driver lists."""
    if "error" in torch_report:
        return Finding("warning", "CUDA", "not checked, since PyTorch cannot be imported", gpu_remedies.SET_UP)
    if not torch_report["gpus"] and gpus:
        text = "PyTorch sees no GPU, although the driver does: runs use the CPU"
        return Finding("problem", "CUDA", text, gpu_remedies.for_torch(torch_report))
    level: Level = "good" if len(torch_report["gpus"]) == gpus else "warning"
    hidden = "CUDA_VISIBLE_DEVICES" if "CUDA_VISIBLE_DEVICES" in os.environ else "MIG mode or the container"
    others = f"{hidden} hides the others; NPROC must not exceed the number that PyTorch sees"
    text = f"PyTorch sees {len(torch_report['gpus'])} of {gpus}, with NCCL {torch_report['nccl']}"
    return Finding(level, "CUDA", text, None if level == "good" else others)
