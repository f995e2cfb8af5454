"""What a GPU makes of the closed model: one table, measured in one go of less than nine minutes.

    python -m benches gpu [--out FOLDER] [--device cpu --tiny] [--only step,loader]

Sections, the most telling first: the card's own ceilings; the whole training step at each batch size in TF32 and bf16; a timed
run of `synthetic`, two epochs, through the harness; the loader at that speed; the precision of gradients; one GRU layer and the
three as one call; `mini` to its target; CUDA graphs and torch.compile, each beside the step without; evaluation; what telemetry
costs. Figures are medians of repeats after warm-up, between device synchronisations, on random data.

Each section is a process of its own with a time limit, so that none takes the others with it, whatever it does to the device.
The table (gpu_bench.md, gpu_bench.json) is written anew after each section, with the rows that a broken one got to, and the
timed runs (run_*.tar.gz) beside it: all to --out (default: $OUT, else results/published). Exit status 2 where a section
could not be done. With --device cpu --tiny everything runs at a small size: a rehearsal.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from datasets.errors import UserError, run_door
from datasets.usage import Filled

from .gpu_bench import ROOT, Bench, ceilings_of, first_line, short


@dataclass(frozen=True)
class Section:
    """Where a section's function is, and the seconds after which it is ended."""

    module: str
    limit_s: float


SECTIONS = {
    "ceilings": Section("gpu_sections", 60),
    "step": Section("gpu_step", 150),
    "synthetic": Section("gpu_runs", 150),
    "loader": Section("gpu_sections", 90),
    "precision": Section("gpu_runs", 60),
    "gru": Section("gpu_step", 90),
    "mini": Section("gpu_runs", 120),
    "graphs": Section("gpu_options", 60),
    "compiled": Section("gpu_options", 120),
    "evaluation": Section("gpu_sections", 60),
    "telemetry": Section("gpu_sections", 45),
}
LEAST_S = 10.0
"""A section is not begun with less time than this."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and save; exit status 0 where everything could be done, 2 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benches gpu", description=__doc__, formatter_class=Filled)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a rehearsal without a GPU")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "results" / "published"))
    parser.add_argument("--only", help="these sections, separated by commas")
    parser.add_argument("--budget", type=float, default=520.0, help="seconds after which everything has ended")
    parser.add_argument("--in-this-process", metavar="ROWS", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    return run_door(lambda: _one(options) if options.in_this_process else _all(options))


def _all(options: argparse.Namespace) -> int:
    """Every chosen section in a process of its own."""
    chosen = options.only.split(",") if options.only else list(SECTIONS)
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        raise UserError(f"no such section: {', '.join(unknown)}", remedy=f"there are {', '.join(SECTIONS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch sees no GPU here", remedy="rehearse with `python -m benches gpu --device cpu --tiny`")
    options.out.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    rows: list[dict] = []
    failed = False
    for name in chosen:
        began_s = time.monotonic()
        left_s = started_s + options.budget - began_s
        if left_s < LEAST_S:
            rows.append({"section": name, "name": "left out", "reason": "the time is up"})
            failed = True
        else:
            found, well = _in_a_process(options, name, rows, min(left_s, SECTIONS[name].limit_s))
            rows += found
            failed |= not well
        _save(options, rows, time.monotonic() - started_s)
        print(f"-- {name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
    return 2 if failed else 0


def _in_a_process(
    options: argparse.Namespace, name: str, before: list[dict], limit_s: float
) -> tuple[list[dict], bool]:
    """The rows of one section, and whether it ended well; `before` are the rows so far."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in before))
        command = [sys.executable, "-m", "benches", "gpu", "--device", options.device, "--out", str(options.out)]
        command += ["--only", name, "--budget", str(limit_s), "--in-this-process", str(file)]
        command += ["--tiny"] if options.tiny else []
        # Whatever a section that is ended leaves behind goes with this folder.
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, env=os.environ | {"TMPDIR": place})
        reason = None
        try:
            if process.wait(limit_s):
                reason = f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            reason = f"not done within {limit_s:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        lines = file.read_text().splitlines()[len(before) :]
    # The last line may have been cut off with its writer.
    found = [json.loads(line) for line in lines if line.endswith("}")]
    if reason and not any("reason" in row for row in found):
        found.append({"section": name, "name": "could not be done", "reason": reason})
        print(f"{name:11} could not be done: {reason}", flush=True)
    return found, reason is None


def _one(options: argparse.Namespace) -> int:
    """One section, here; exit status 2 where it failed, with the reason in its rows."""
    rows = [json.loads(line) for line in options.in_this_process.read_text().splitlines()]
    deadline_s = time.monotonic() + options.budget
    bench = Bench(
        torch.device(options.device), options.tiny, options.out, deadline_s, options.in_this_process, ceilings_of(rows)
    )
    section = importlib.import_module(f".{SECTIONS[options.only].module}", __package__)
    try:
        getattr(section, options.only)(bench)
    except Exception as error:
        # Whatever went wrong is a row of the table, and the other sections go on.
        traceback.print_exc()
        bench.row(options.only, "could not be done", reason=first_line(error))
        return 2
    return 0


def _save(options: argparse.Namespace, rows: list[dict], took_s: float) -> None:
    """Write what there is so far: a later section may take the machine with it."""
    on_gpu = options.device == "cuda"
    tree = {
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU ({platform.machine()})",
        "rehearsal": options.tiny or not on_gpu,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "seconds": round(took_s, 1),
        "rows": rows,
    }
    (options.out / "gpu_bench.json").write_text(json.dumps(tree, indent=1) + "\n")
    lines = [
        f"# {tree['device']}, torch {tree['torch']}" + (" (rehearsal, no measurement)" if tree["rehearsal"] else "")
    ]
    for section in dict.fromkeys(row["section"] for row in rows):
        shown = [row for row in rows if row["section"] == section]
        keys = list(dict.fromkeys(key for row in shown for key in row if key != "section"))
        lines += ["", f"## {section}", "", f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
        lines += [f"| {' | '.join(short(row.get(key)) for key in keys)} |" for row in shown]
    (options.out / "gpu_bench.md").write_text("\n".join(lines) + "\n")
