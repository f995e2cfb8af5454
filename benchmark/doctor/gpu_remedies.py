"""What to do if GPUs cannot be used: by the driver's error, PyTorch's message and the kind of container."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmark.machine import hardware

SET_UP = "run `sh script/setup.sh`"

_GIVE_GPUS = {
    "docker": "start the container with `--gpus all` (the host needs NVIDIA's Container Toolkit)",
    "podman": "start the container with `--device nvidia.com/gpu=all` (the host needs NVIDIA's Container Toolkit and its CDI file)",
    "kubernetes": "request GPUs in the pod's specification: `nvidia.com/gpu: 1` among the container's resources.limits",
    "apptainer": "start the container with `--nv`",
    "singularity": "start the container with `--nv`",
    "lxc": "give the container a `gpu` device and set `nvidia.runtime=true`",
}
_GIVE_ANY = (
    "start the container with GPUs and the driver's libraries (Docker: `--gpus all`, Podman: `--device nvidia.com/gpu=all`, "
    "Apptainer: `--nv`, enroot: `NVIDIA_VISIBLE_DEVICES=all`)"
)
_MORE = "`nvidia-smi` and the kernel's log (`dmesg | grep NVRM`) say more"

NO_PERMISSION, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND = 4, 9, 12, 13
GPU_IS_LOST, RESET_REQUIRED, OPERATING_SYSTEM, VERSION_MISMATCH, UNKNOWN = 15, 16, 17, 18, 999
"""NVML's error codes, which never change (nvml.h); an older pynvml lacks some of the names."""


def give_gpus() -> str:
    """How to make GPUs and the driver's libraries available in this process's container."""
    return _GIVE_GPUS.get(hardware.container() or "", _GIVE_ANY)


def on_host(remedy: str) -> str:
    """`remedy`, prefixed with `on the host` in a container, where it cannot be done from inside."""
    return f"on the host: {remedy}" if hardware.container() else remedy


def for_nvml(code: int | None) -> str:
    """The remedy if NVML cannot be opened; `code` is its error code, None if there was none."""
    inside = hardware.container() is not None
    module = (hardware.PROC / "driver/nvidia/version").exists()
    if code == VERSION_MISMATCH:
        reload = "reload the driver's modules (`rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia`, `modprobe nvidia`)"
        if inside:
            why = "the host's driver was updated while it was loaded, or the image has its own driver library"
            return f"{why}: on the host {reload} or restart it, then restart the container"
        return f"the driver was updated while it was loaded: {reload}, or restart the machine"
    if code == DRIVER_NOT_LOADED and not module:
        load = "load the driver (`modprobe nvidia`); after a kernel update it may have to be installed again"
        return on_host(load) + ("; then restart the container" if inside else "")
    if code in (LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED):
        if inside:
            return give_gpus()
        if not module:
            return "install NVIDIA's driver"
        return f"the driver is loaded, but its library or devices are not here: install them, or, in a container: {_GIVE_ANY}"
    if code == NO_PERMISSION:
        group = "become a member of the group that owns the driver's device files (`ls -l /dev/nvidia*` names it)"
        return f"{give_gpus()}, as a user with access to /dev/nvidia*" if inside else group
    if code == OPERATING_SYSTEM:
        return give_gpus() if inside else f"{_ask_for_gpus()}; otherwise {_MORE}"
    if code == UNKNOWN and inside:
        return f"restart the container: it loses its devices when the host reloads systemd; otherwise, on the host, {_MORE}"
    if code in (GPU_IS_LOST, RESET_REQUIRED):
        return reset()
    if code == FUNCTION_NOT_FOUND:
        return on_host("update the driver: its NVML is too old")
    return on_host(f"{_MORE}; restarting the machine helps in most cases")


def for_gpu(code: int | None) -> str:
    """The remedy if one GPU cannot be opened; `code` as for `for_nvml`."""
    if code in (NO_PERMISSION, OPERATING_SYSTEM):
        return f"it may belong to another job or container: {for_no_gpu()}"
    return reset()


def reset() -> str:
    """The remedy for a GPU that fell off the bus."""
    return on_host("reset the GPU (`nvidia-smi -r`) or restart the machine")


def for_no_gpu() -> str:
    """The remedy if the driver is loaded, but lists no GPU for this process."""
    return give_gpus() if hardware.container() else _ask_for_gpus()


def _ask_for_gpus() -> str:
    if "SLURM_JOB_ID" in os.environ:
        return "request GPUs from Slurm (`--gres=gpu:1`): this job has none"
    return "request GPUs from the batch system for this job"


def for_torch(torch_report: dict[str, Any]) -> str:
    """The remedy if PyTorch sees no GPU although there is one; `torch_report` is the answer of `ask_torch`."""
    if "error" in torch_report:
        return SET_UP
    if torch_report["built_for"] is None:
        return f"this PyTorch was built without CUDA: {SET_UP}, or leave PYTHON unset"
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return "unset CUDA_VISIBLE_DEVICES"
    why = torch_report.get("why") or ""
    if "too old" in why:
        return on_host(f"update the driver: this PyTorch needs one for CUDA {torch_report['built_for']}")
    if "system not yet initialized" in why:
        return on_host("start the fabric manager of the driver's version (`systemctl start nvidia-fabricmanager`)")
    if "forward compatibility" in why or "unsupported display driver" in why:
        return on_host("update the driver") + ", or remove CUDA's compat libraries from LD_LIBRARY_PATH"
    if "Found no NVIDIA driver" in why:
        if hardware.container() in ("docker", "podman"):
            return (
                "make CUDA's driver library available in the container: `-e NVIDIA_DRIVER_CAPABILITIES=compute,utility`"
            )
        return give_gpus() if hardware.container() else "install the driver's CUDA library (libcuda.so.1)"
    if not Path("/dev/nvidia-uvm").exists() and Path("/dev/nvidiactl").exists():
        return give_gpus() if hardware.container() else "make the missing /dev/nvidia-uvm (`nvidia-modprobe -u -c 0`)"
    if why:
        return (
            on_host(f"check that the driver is for CUDA {torch_report['built_for']} or newer; {_MORE}")
            + f" (PyTorch: {why[:150]})"
        )
    return on_host(f"update the driver: this PyTorch needs one for CUDA {torch_report['built_for']}")
