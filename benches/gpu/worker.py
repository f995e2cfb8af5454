"""The worker process of `python -m benches gpu`: runs the given sections one after the other.

A section's error becomes a row of the table, and the next section runs; but not in this process if the GPU no longer responds:
after an error in a kernel, a process can never use the GPU again.
"""

from __future__ import annotations

import importlib
import platform
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benches.gpu.shared import Bench
from benches.gpu.table import ROOT, first_line, note
from benches.gpu.watch import LEAST_S
from benchmark.machine.system import code_version
from common.errors import EXIT_ERROR, EXIT_OK
from reference_model.runtime import die_with_parent, use_expandable_segments


@dataclass(frozen=True)
class Task:
    """A section, the module that contains the function of its name, and its time limit in seconds."""

    section: str
    module: str
    limit_s: float


def work(tasks: list[Task], device: str, tiny: bool, out: Path, journal: Path, end_s: float) -> int:
    """Run the sections until all are done or `end_s` (time.monotonic) is reached; exit status 2 if the GPU is unusable."""
    die_with_parent()
    if device == "cuda" and not torch.cuda.is_available():
        remedy = "rehearse with `python -m benches gpu --device cpu --tiny`"
        note(journal, event="refused", what="PyTorch sees no GPU here", remedy=remedy)
        return EXIT_ERROR
    use_expandable_segments()
    if device == "cpu":
        # A rehearsal's sizes are too small for more threads, and other processes may need the cores.
        torch.set_num_threads(1)
    note(journal, event="machine", facts=_machine(device))
    out.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        note(journal, event="begun", section=task.section)
        start_s = time.monotonic()
        bench = Bench(torch.device(device), tiny, out, journal, min(end_s, start_s + task.limit_s))
        if end_s - start_s < LEAST_S:
            bench.row(task.section, "left out", reason="the time limit is reached")
            succeeded, unusable = False, None
        else:
            succeeded = _section(bench, task)
            unusable = device_error(bench)
        if unusable:
            bench.row(task.section, "left the device unusable", reason=unusable)
        note(journal, event="done", section=task.section, succeeded=succeeded and not unusable)
        if unusable:
            return EXIT_ERROR
    return EXIT_OK


def _section(bench: Bench, task: Task) -> bool:
    """Run a section; whether it succeeded. Its rows contain the reason of a failure."""
    try:
        getattr(importlib.import_module(task.module), task.section)(bench)
    except Exception as error:
        # Any error becomes a row of the table, and the other sections still run.
        traceback.print_exc()
        bench.row(task.section, "could not be done", reason=first_line(error))
        return False
    return True


def device_error(bench: Bench) -> str | None:
    """Free the section's device memory; the error in one line if the device no longer responds, else None."""
    try:
        bench.free()
        torch.ones(1, device=bench.device).sum().item()
    except RuntimeError as error:
        return first_line(error)
    return None


def _machine(device: str) -> dict[str, Any]:
    """The device, the code and the versions, for the table's heading."""
    on_gpu = device == "cuda"
    return {
        **code_version(ROOT),
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU ({platform.machine()})",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
    }
