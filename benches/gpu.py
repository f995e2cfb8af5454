"""What a GPU makes of the closed model: one table, measured in one go of less than nine minutes.

    python -m benches gpu [--out FOLDER] [--device cpu --tiny] [--only step,loader]

Sections: the card's own ceilings; one GRU layer and the three as one call; the whole training step at each batch size in TF32
and bf16; the loader at that speed; evaluation; what telemetry costs; a timed run of `synthetic`, one epoch, through the harness,
and one of `mini`. Each figure is a median of repeats after warm-up, between device synchronisations, on random data. The table
and gpu_bench.json go to --out (default: $OUT, else results/published), the runs' records to runs.tar.gz there. A section that
fails is told and the others go on; exit status 2 then. With --device cpu --tiny everything runs at a small size: a rehearsal.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from datasets.errors import UserError, run_door
from datasets.usage import Filled

from .gpu_bench import ROOT, Bench, short


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and save; exit status 0 where everything could be done, 2 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benches gpu", description=__doc__, formatter_class=Filled)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a rehearsal without a GPU")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "results" / "published"))
    parser.add_argument("--only", help="these sections, separated by commas")
    parser.add_argument("--budget", type=float, default=500.0, help="seconds after which no section is begun")
    return run_door(lambda: _main(parser.parse_args(arguments)))


def _main(options: argparse.Namespace) -> int:
    from . import gpu_sections, gpu_step

    sections: dict[str, Callable[[Bench], None]] = {
        "ceilings": gpu_sections.ceilings,
        "gru": gpu_step.gru,
        "step": gpu_step.step,
        "loader": gpu_sections.loader,
        "evaluation": gpu_sections.evaluation,
        "telemetry": gpu_sections.telemetry,
        "synthetic": gpu_sections.synthetic,
        "mini": gpu_sections.mini,
    }
    chosen = options.only.split(",") if options.only else list(sections)
    unknown = [name for name in chosen if name not in sections]
    if unknown:
        raise UserError(f"no such section: {', '.join(unknown)}", remedy=f"there are {', '.join(sections)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch sees no GPU here", remedy="rehearse with `python -m benches gpu --device cpu --tiny`")
    options.out.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    bench = Bench(torch.device(options.device), options.tiny, options.out, started_s + options.budget)
    failed = []
    for name in chosen:
        if time.monotonic() > bench.deadline_s:
            bench.row(name, "left out", reason="the time is up")
            failed.append(name)
            continue
        began_s = time.monotonic()
        try:
            sections[name](bench)
        except (RuntimeError, OSError, ImportError, UserError, subprocess.SubprocessError) as error:
            bench.row(name, "could not be done", reason=str(error).splitlines()[0] if str(error) else repr(error))
            failed.append(name)
        print(f"-- {name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
        _save(bench, time.monotonic() - started_s)
    return 2 if failed else 0


def _save(bench: Bench, took_s: float) -> None:
    """Write what there is so far: a later section may take the machine with it."""
    on_gpu = bench.device.type == "cuda"
    tree = {
        "device": torch.cuda.get_device_name(bench.device) if on_gpu else f"CPU ({platform.machine()})",
        "rehearsal": bench.tiny or not on_gpu,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "seconds": round(took_s, 1),
        "rows": bench.rows,
    }
    (bench.out / "gpu_bench.json").write_text(json.dumps(tree, indent=1) + "\n")
    lines = [
        f"# {tree['device']}, torch {tree['torch']}" + (" (rehearsal, no measurement)" if tree["rehearsal"] else "")
    ]
    for section in dict.fromkeys(row["section"] for row in bench.rows):
        rows = [row for row in bench.rows if row["section"] == section]
        keys = list(dict.fromkeys(key for row in rows for key in row if key != "section"))
        lines += ["", f"## {section}", "", f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
        lines += [f"| {' | '.join(short(row.get(key)) for key in keys)} |" for row in rows]
    (bench.out / "gpu_bench.md").write_text("\n".join(lines) + "\n")
