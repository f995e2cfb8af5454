"""What the sections of `python -m benches gpu` share: the device, the clock and the rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from reference_model.flops import Ceilings

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Bench:
    """What all sections share: the device, the sizes, the rows so far, and what the card itself reaches."""

    device: torch.device
    tiny: bool
    out: Path
    deadline_s: float
    rows: list[dict] = field(default_factory=list)
    ceilings: Ceilings | None = None

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes of the tables."""
        return (2, 4) if self.tiny else (8, 16, 32, 64, 128)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions of the tables; a CPU has no TF32."""
        return ("tf32", "bf16") if self.device.type == "cuda" else ("fp32", "bf16")

    def row(self, section: str, name: str, **figures: object) -> None:
        """Keep and print one row."""
        self.rows.append({"section": section, "name": name, **figures})
        shown = "  ".join(f"{key} {short(value)}" for key, value in figures.items())
        print(f"{section:11} {name:34} {shown}", flush=True)

    def seconds(self, work: Callable[[], object], repeats: int = 7, warm_up: int = 3) -> float:
        """Median seconds of one call, the device idle before and after."""
        times = []
        for number in range((1 if self.tiny else warm_up) + (2 if self.tiny else repeats)):
            self.wait()
            start_s = time.perf_counter()
            work()
            self.wait()
            if number >= (1 if self.tiny else warm_up):
                times.append(time.perf_counter() - start_s)
        return sorted(times)[len(times) // 2]

    def wait(self) -> None:
        """Until the device has done all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def short(value: object) -> str:
    """A figure as the tables show it: floats to four digits, a dash for what was not measured."""
    return "-" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)
