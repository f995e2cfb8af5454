"""Which GPUs the run's trainer will use, as far as that can be told before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.doctor import gpu_remedies
from benchmark.machine import system
from benchmark.machine.torch_gpus import ask_torch
from benchmark.settings import TRAINER_MODULE, Settings
from common.errors import UserError


@dataclass(frozen=True)
class Usable:
    """The GPUs that PyTorch can use here: names in CUDA's order, the first one's memory.

    Where there are none, `why_none` says why, and `remedy` how to mend it where a GPU is here all the same (else None).
    """

    gpus: tuple[str, ...]
    memory_bytes: int = 0
    why_none: str = ""
    remedy: str | None = None

    @property
    def warning(self) -> str | None:
        """A line for whom the CPU would surprise; None where a GPU is used, or none is here or wanted."""
        if self.remedy is None:
            return None
        return f"warning: this run is on the CPU: {self.why_none} - {self.remedy}; DEVICE=cpu if it is meant"


def usable_gpus(settings: Settings) -> Usable:
    """What PyTorch can use of this machine under `settings`; UserError where DEVICE=cuda asks for what is not there."""
    if settings.device == "cpu":
        return Usable((), why_none="DEVICE is cpu")
    # Asking PyTorch takes seconds, and every run would.
    if settings.device == "auto" and not system.has_gpu():
        return Usable((), why_none="no GPU is here")
    # The driver's word is not enough: this PyTorch may be built without CUDA, or the GPU hidden from it.
    seen = ask_torch()
    if seen.get("gpus"):
        return Usable(tuple(seen["gpus"]), seen["memory_bytes"][0])
    what = f"PyTorch cannot be asked for GPUs ({seen['error']})" if "error" in seen else "PyTorch sees no GPU here"
    if settings.device == "cuda":
        raise UserError(what, where="DEVICE=cuda", remedy="`python -m benchmark doctor` says why, or use DEVICE=cpu")
    return Usable((), why_none=f"{what}, although the machine has one", remedy=gpu_remedies.for_torch(seen))


def gpus_of_run(settings: Settings) -> Usable | None:
    """What `usable_gpus` says where it decides the run: the reference trainer asks PyTorch. None for other trainers."""
    if settings.trainer != TRAINER_MODULE and settings.device != "cpu":
        return None
    return usable_gpus(settings)
