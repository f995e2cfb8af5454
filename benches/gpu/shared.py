"""Shared by the sections of `python -m benches gpu`: the device, timing, and the output of rows and files."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benches.gpu.table import note, short


@dataclass(frozen=True)
class Bench:
    """Argument of a section: the device, the sizes, where its rows and files go, and its deadline.

    `deadline_s` is a time of time.monotonic; `tiny` selects the sizes of a rehearsal.
    """

    device: torch.device
    tiny: bool
    out: Path
    journal: Path
    deadline_s: float

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU (a rehearsal runs on a CPU)."""
        return self.device.type == "cuda"

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes of the tables, the most important first."""
        return (2, 4) if self.tiny else (8, 32, 128, 64, 16)

    @property
    def in_a_row(self) -> int:
        """Steps of one measurement without a wait between them: as in training, the host runs ahead of the device."""
        return 1 if self.tiny else 4

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions of the tables, the most important first; a CPU has no TF32."""
        return ("bf16", "tf32", "fp32") if self.on_gpu else ("bf16", "fp32")

    @property
    def kept(self) -> Path:
        """A folder shared by all sections in all processes; deleted when the bench ends."""
        folder = self.journal.parent / "kept"
        folder.mkdir(exist_ok=True)
        return folder

    def row(self, section: str, name: str, **figures: object) -> None:
        """Print and save one row immediately, because later work may end the process."""
        note(self.journal, section=section, name=name, **figures)
        shown = "  ".join(f"{key} {short(value)}" for key, value in figures.items())
        print(f"{section:11} {name:34} {shown}", flush=True)

    def seconds(self, work: Callable[[], object], repeats: int = 5, warm_up: int = 2) -> float:
        """Median seconds of one call, the device idle before and after."""
        warm_up, repeats = (1, 1) if self.tiny else (warm_up, repeats)
        times = []
        for number in range(warm_up + repeats):
            self.wait()
            start_s = time.perf_counter()
            work()
            self.wait()
            if number >= warm_up:
                times.append(time.perf_counter() - start_s)
        return sorted(times)[len(times) // 2]

    def wait(self) -> None:
        """Wait until the device has finished all work."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Free the device memory of the previous measurement."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
