"""What the sections of `python -m benches gpu` share: the device, the clock, and where rows and files go."""

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
    """What a section is given: the device, the sizes, where its rows and files go, and when it will be ended.

    `deadline_s` is of time.monotonic; `tiny` asks for sizes of a rehearsal.
    """

    device: torch.device
    tiny: bool
    out: Path
    journal: Path
    deadline_s: float

    @property
    def on_gpu(self) -> bool:
        """Whether this is no rehearsal."""
        return self.device.type == "cuda"

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes of the tables, the most telling first."""
        return (2, 4) if self.tiny else (8, 32, 128, 64, 16)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions of the tables, the one that is asked for first; a CPU has no TF32."""
        return ("bf16", "tf32", "fp32") if self.on_gpu else ("bf16", "fp32")

    @property
    def kept(self) -> Path:
        """A folder that all sections share, whatever process they run in; it goes when the bench ends."""
        folder = self.journal.parent / "kept"
        folder.mkdir(exist_ok=True)
        return folder

    def row(self, section: str, name: str, **figures: object) -> None:
        """Print and keep one row, at once: what comes after it may end the process."""
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
        """Until the device has done all its work."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give back what the last piece of work held, so that the next finds the device's memory empty."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
