"""The GPUs that the run's trainer will use, as far as that is known before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.doctor import gpu_remedies
from benchmark.machine import system
from benchmark.machine.torch_gpus import ask_torch
from benchmark.settings import TRAINER_MODULE, Settings
from common.errors import UserError


@dataclass(frozen=True)
class Usable:
    """The GPUs that PyTorch can use here: names in CUDA's order, memory of the first one.

    If there are none, `why_none` is the reason, and `remedy` what to do if the machine has a GPU nevertheless (else
    None).
    """

    gpus: tuple[str, ...]
    memory_bytes: int = 0
    why_none: str = ""
    remedy: str | None = None

    @property
    def warning(self) -> str | None:
        """A warning if a run unexpectedly uses the CPU of a machine with a GPU; else None."""
        if self.remedy is None:
            return None
        return f"warning: this run is on the CPU: {self.why_none} - {self.remedy}; DEVICE=cpu if that is intended"


def usable_gpus(settings: Settings) -> Usable:
    """The GPUs that PyTorch can use under `settings`; UserError if DEVICE=cuda and there are none."""
    if settings.device == "cpu":
        return Usable((), why_none="DEVICE is cpu")
    # Importing PyTorch takes seconds, and would delay every run.
    if settings.device == "auto" and not system.has_gpu():
        return Usable((), why_none="there is no GPU here")
    # The driver's list is not enough: this PyTorch may be built without CUDA, or the GPU hidden from it.
    torch_report = ask_torch()
    if torch_report.get("gpus"):
        return Usable(tuple(torch_report["gpus"]), torch_report["memory_bytes"][0])
    what = (
        f"PyTorch cannot be queried for GPUs ({torch_report['error']})"
        if "error" in torch_report
        else "PyTorch sees no GPU here"
    )
    if settings.device == "cuda":
        raise UserError(what, where="DEVICE=cuda", remedy="`python -m benchmark doctor` says why, or use DEVICE=cpu")
    return Usable((), why_none=f"{what}, although the machine has one", remedy=gpu_remedies.for_torch(torch_report))


def gpus_of_run(settings: Settings) -> Usable | None:
    """`usable_gpus` for the reference trainer, which uses PyTorch; None for other trainers on `auto` or `cuda`."""
    if settings.trainer != TRAINER_MODULE and settings.device != "cpu":
        return None
    return usable_gpus(settings)
