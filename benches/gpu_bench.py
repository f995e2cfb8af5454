"""What the sections of `python -m benches gpu` share: the device, the clock and the rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from reference_model.flops import Ceilings

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Bench:
    """What a section is given: the device, the sizes, where its rows go, and what the card itself reaches (None: unknown)."""

    device: torch.device
    tiny: bool
    out: Path
    deadline_s: float
    rows: Path
    ceilings: Ceilings | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether this is no rehearsal."""
        return self.device.type == "cuda"

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes of the tables."""
        return (2, 4) if self.tiny else (8, 16, 32, 64, 128)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions of the tables, the one that is asked for first; a CPU has no TF32."""
        return ("bf16", "tf32") if self.on_gpu else ("bf16", "fp32")

    def row(self, section: str, name: str, **figures: object) -> None:
        """Print and keep one row, at once: what comes after it may end the process."""
        with self.rows.open("a") as file:
            file.write(json.dumps({"section": section, "name": name, **figures}) + "\n")
        shown = "  ".join(f"{key} {short(value)}" for key, value in figures.items())
        print(f"{section:11} {name:34} {shown}", flush=True)

    def seconds(self, work: Callable[[], object], repeats: int = 5, warm_up: int = 2) -> float:
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
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def ceilings_of(rows: Sequence[dict]) -> Ceilings | None:
    """What the section `ceilings` found; None where it did not get to the end."""
    found = [row for row in rows if row["section"] == "ceilings"]
    rates = {row["precision"]: row["tflops"] * 1e12 for row in found if "tflops" in row}
    copied = [row["tb_per_s"] * 1e12 for row in found if "tb_per_s" in row]
    return Ceilings(rates, copied[0]) if copied else None


def first_line(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else '-'}"


def short(value: object) -> str:
    """A figure as the tables show it: floats to four digits, a dash for what was not measured."""
    return "-" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)
