"""All GPU measurements of this benchmark, in one table.

    python -m benches gpu [--out FOLDER]             everything, within 660 s
    python -m benches gpu --part first               the model only, within 330 s; `second`: the rest
    python -m benches gpu --only step,loader         these sections
    python -m benches gpu --device cpu --tiny        a rehearsal without a GPU

First part: three steps of every variant; the card's peak rates; a profile of a step by kernel; the whole step at each batch size
in bf16, TF32 and fp32; the step without each optimisation, and in plain PyTorch; the precision of gradients; the convolutional
front in both memory layouts; the cost of new utterance lengths. Second part: two epochs of `synthetic` on part of its corpus,
timed by the harness; the data loader at that speed; GRU layers; `mini` to its target, and inference with its checkpoint; resumed
training; evaluation; the overhead of telemetry; torch.compile. Figures are medians of repeats after warm-up,
between device synchronisations, on random data.

Sections run one after the other in as few processes as possible, each with a time limit. If a section exceeds it or leaves the
GPU unusable, its process is killed and a new process runs the remaining sections. The table (gpu_bench.md, gpu_bench.json) is
rewritten after each section, including the rows of a section that failed partway. It is in --out (default: $OUT, else runs/gpu,
runs/gpu-first or runs/gpu-second), with kernels.txt and the timed runs (run_*.tar.gz). `python -m benches publish` publishes
them in results/published. Exit status 2 if a section failed. A rehearsal has small sizes and four times the time limits.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benches.gpu.table import ROOT
from benches.gpu.watch import Budget, Watched, watch
from common.cli import HelpFormatter
from common.errors import UserError, run_cli


@dataclass(frozen=True)
class Section:
    """The module that contains the function of the section's name, and the section's time limit in seconds."""

    module: str
    limit_s: float


@dataclass(frozen=True)
class Plan:
    """All sections; for each part the groups of sections that share a process, in order; and the module that starts a process."""

    sections: dict[str, Section]
    parts: dict[str, tuple[tuple[str, ...], ...]]
    module: tuple[str, ...] = ("benches", "gpu")


PLAN = Plan(
    sections={
        "smoke": Section("benches.gpu.smoke", 60),
        "ceilings": Section("benches.gpu.ceilings", 30),
        "profile": Section("benches.gpu.kernel_profile", 90),
        "step": Section("benches.gpu.full_step", 150),
        "switches": Section("benches.gpu.switches", 120),
        "precision": Section("benches.gpu.program_runs", 60),
        "layout": Section("benches.gpu.shapes", 45),
        "new_lengths": Section("benches.gpu.shapes", 45),
        "synthetic": Section("benches.gpu.program_runs", 150),
        "loader": Section("benches.gpu.surroundings", 90),
        "gru": Section("benches.gpu.gru_layers", 75),
        "mini": Section("benches.gpu.program_runs", 120),
        "inference": Section("benches.gpu.program_runs", 45),
        "resume": Section("benches.gpu.resume_check", 75),
        "evaluation": Section("benches.gpu.surroundings", 60),
        "telemetry": Section("benches.gpu.surroundings", 45),
        "compiled": Section("benches.gpu.compiled", 120),
    },
    # Timed runs come first in a process, before it uses the GPU itself, because their records state how much GPU memory was
    # in use. Sections after the profiler run in a new process, because CUDA's tracing stays loaded.
    parts={
        "first": (("smoke", "ceilings", "profile"), ("step", "switches", "precision", "layout", "new_lengths")),
        "second": (
            ("synthetic", "loader", "gru"),
            ("mini", "inference", "resume", "evaluation", "telemetry", "compiled"),
        ),
    },
)
PART_S = 330.0
"""Time limit of a part in seconds: with the start of a rented machine, seven minutes."""
REHEARSAL_FACTOR = 4
"""Multiplies the time limits of a rehearsal, because two busy CPU cores are slower than a GPU."""


def main(arguments: list[str] | None = None, plan: Plan = PLAN) -> int:
    """Measure, print and save; exit status 0 if every section succeeded, 2 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benches gpu", description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a rehearsal without a GPU")
    parser.add_argument("--out", type=Path, help="default: $OUT, else runs/gpu, runs/gpu-first or runs/gpu-second")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--part", choices=tuple(plan.parts), help="half of the sections (default: all)")
    which.add_argument("--only", help="these sections, separated by commas")
    parser.add_argument(
        "--budget", type=float, help=f"time limit for everything, in seconds (default: {PART_S:.0f} per part)"
    )
    parser.add_argument("--in-this-process", metavar="JOURNAL", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.out is None:
        folder = ROOT / "runs" / ("-".join(["gpu", *[options.part] * bool(options.part)]))
        options.out = Path(os.environ.get("OUT") or folder)
    return run_cli(lambda: _work(options, plan) if options.in_this_process else _measure(options, plan))


def _measure(options: argparse.Namespace, plan: Plan) -> int:
    """Run every chosen section in supervised processes."""
    parts = [options.part] if options.part else list(plan.parts)
    groups = [group for part in parts for group in plan.parts[part]]
    if options.only:
        groups = list(_groups_of(options.only.split(","), plan))
    time_factor = _time_factor(options)
    budget = Budget(options.budget or PART_S * len(parts) * time_factor)
    command = ["-m", *plan.module, "--device", options.device, "--out", str(options.out), *["--tiny"] * options.tiny]
    rehearsal = options.tiny or options.device == "cpu"
    limits_s = {name: section.limit_s * time_factor for name, section in plan.sections.items()}
    return watch(groups, Watched(command, options.out, limits_s, rehearsal, budget))


def _groups_of(chosen: list[str], plan: Plan) -> Iterator[tuple[str, ...]]:
    """The chosen sections in the given order; neighbours from one group share a process."""
    unknown = [name for name in chosen if name not in plan.sections]
    if unknown:
        raise UserError(f"no such section: {', '.join(unknown)}", remedy=f"choose from {', '.join(plan.sections)}")
    groups = [group for part in plan.parts.values() for group in part]
    for _, names in itertools.groupby(chosen, lambda name: next(group for group in groups if name in group)):
        yield tuple(names)


def _time_factor(options: argparse.Namespace) -> int:
    return REHEARSAL_FACTOR if options.tiny and options.device == "cpu" else 1


def _work(options: argparse.Namespace, plan: Plan) -> int:
    """Run the sections of one group in this process."""
    end_s = time.monotonic() + options.budget
    # Imported only here: the watching process does not need PyTorch.
    from benches.gpu.worker import Task, work

    tasks = [
        Task(name, plan.sections[name].module, plan.sections[name].limit_s * _time_factor(options))
        for name in options.only.split(",")
    ]
    return work(tasks, options.device, options.tiny, options.out, options.in_this_process, end_s)
