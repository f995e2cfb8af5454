"""What a GPU makes of this benchmark: one table, measured in one go.

    python -m benches gpu [--out FOLDER]             everything, within 660 s
    python -m benches gpu --part first               the model alone, within 330 s; `second`: the rest
    python -m benches gpu --only step,loader         these sections
    python -m benches gpu --device cpu --tiny        a rehearsal without a GPU

The first part: three steps of every variant; the card's own ceilings; where a step's time goes, kernel by kernel; the whole step
at each batch size in bf16, TF32 and fp32; the precision of gradients; the front in both memory layouts; what lengths cost
that were not seen before. The second: two epochs of `synthetic` on a part of its corpus, timed by the harness; the loader at
that speed; GRU layers; `mini` to its target, and its checkpoint in use; a training resumed; CUDA graphs; evaluation; what
telemetry costs; torch.compile. Figures are medians of repeats after warm-up, between device synchronisations, on random data.

Sections run one after the other in as few processes as can be, each with a time limit. One that outlasts it, or leaves the GPU
unusable, is ended with its process, and a new process goes on with those after it. The table (gpu_bench.md, gpu_bench.json)
is written anew after each section, with the rows that a broken one got to; kernels.txt and the timed runs (run_*.tar.gz) lie
beside it: all in --out (default: $OUT, else runs/gpu, runs/gpu-first or runs/gpu-second). `python -m benches publish` brings
them into results/published. Exit status 2 where a section could not be done. A rehearsal has small sizes, and four times the
time.
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
    """The module with the function of the section's name, and the seconds after which it is ended."""

    module: str
    limit_s: float


@dataclass(frozen=True)
class Plan:
    """All sections; for each part the groups of sections that share a process, in order; and the module that starts one."""

    sections: dict[str, Section]
    parts: dict[str, tuple[tuple[str, ...], ...]]
    door: tuple[str, ...] = ("benches", "gpu")


PLAN = Plan(
    sections={
        "smoke": Section("benches.gpu.smoke", 60),
        "ceilings": Section("benches.gpu.ceilings", 30),
        "profile": Section("benches.gpu.kernel_profile", 90),
        "step": Section("benches.gpu.full_step", 150),
        "precision": Section("benches.gpu.program_runs", 60),
        "layout": Section("benches.gpu.shapes", 45),
        "new_lengths": Section("benches.gpu.shapes", 45),
        "synthetic": Section("benches.gpu.program_runs", 150),
        "loader": Section("benches.gpu.surroundings", 90),
        "gru": Section("benches.gpu.gru_layers", 75),
        "mini": Section("benches.gpu.program_runs", 120),
        "inference": Section("benches.gpu.program_runs", 45),
        "resume": Section("benches.gpu.resume_check", 75),
        "graphs": Section("benches.gpu.options", 60),
        "evaluation": Section("benches.gpu.surroundings", 60),
        "telemetry": Section("benches.gpu.surroundings", 45),
        "compiled": Section("benches.gpu.options", 120),
    },
    # Timed runs stand at the beginning of a process, before it uses the GPU itself: their records say how much of its
    # memory was in use. What follows the profiler has a process of its own: CUDA's tracing stays loaded in one that was traced.
    parts={
        "first": (("smoke", "ceilings", "profile"), ("step", "precision", "layout", "new_lengths")),
        "second": (
            ("synthetic", "loader", "gru"),
            ("mini", "inference", "resume", "graphs", "evaluation", "telemetry", "compiled"),
        ),
    },
)
PART_S = 330.0
"""Seconds after which a part has ended: with the start of a rented machine, seven minutes."""
PATIENCE = 4
"""A rehearsal has so many times the time: two busy CPU cores are no GPU."""


def main(arguments: list[str] | None = None, plan: Plan = PLAN) -> int:
    """Measure, print and save; exit status 0 where everything could be done, 2 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benches gpu", description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a rehearsal without a GPU")
    parser.add_argument("--out", type=Path, help="default: $OUT, else runs/gpu, runs/gpu-first or runs/gpu-second")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--part", choices=tuple(plan.parts), help="half of the sections (default: all)")
    which.add_argument("--only", help="these sections, separated by commas")
    parser.add_argument(
        "--budget", type=float, help=f"seconds after which all has ended (default: {PART_S:.0f} a part)"
    )
    parser.add_argument("--in-this-process", metavar="JOURNAL", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.out is None:
        folder = ROOT / "runs" / ("-".join(["gpu", *[options.part] * bool(options.part)]))
        options.out = Path(os.environ.get("OUT") or folder)
    return run_cli(lambda: _work(options, plan) if options.in_this_process else _measure(options, plan))


def _measure(options: argparse.Namespace, plan: Plan) -> int:
    """Every chosen section, in processes that are watched."""
    parts = [options.part] if options.part else list(plan.parts)
    groups = [group for part in parts for group in plan.parts[part]]
    if options.only:
        groups = list(_groups_of(options.only.split(","), plan))
    patience = _patience(options)
    budget = Budget(options.budget or PART_S * len(parts) * patience)
    command = ["-m", *plan.door, "--device", options.device, "--out", str(options.out), *["--tiny"] * options.tiny]
    rehearsal = options.tiny or options.device == "cpu"
    limits_s = {name: section.limit_s * patience for name, section in plan.sections.items()}
    return watch(groups, Watched(command, options.out, limits_s, rehearsal, budget))


def _groups_of(chosen: list[str], plan: Plan) -> Iterator[tuple[str, ...]]:
    """The chosen sections in the order they were named in; neighbours of one group share a process."""
    unknown = [name for name in chosen if name not in plan.sections]
    if unknown:
        raise UserError(f"no such section: {', '.join(unknown)}", remedy=f"there are {', '.join(plan.sections)}")
    groups = [group for part in plan.parts.values() for group in part]
    for _, names in itertools.groupby(chosen, lambda name: next(group for group in groups if name in group)):
        yield tuple(names)


def _patience(options: argparse.Namespace) -> int:
    return PATIENCE if options.tiny and options.device == "cpu" else 1


def _work(options: argparse.Namespace, plan: Plan) -> int:
    """The sections of one group, here."""
    end_s = time.monotonic() + options.budget
    # Imported only here: the watching process does without PyTorch.
    from benches.gpu.worker import Task, work

    tasks = [
        Task(name, plan.sections[name].module, plan.sections[name].limit_s * _patience(options))
        for name in options.only.split(",")
    ]
    return work(tasks, options.device, options.tiny, options.out, options.in_this_process, end_s)
