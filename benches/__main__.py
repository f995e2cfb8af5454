"""All benches, one line each: name, ours, peer, ratio, goal.

    python -m benches            all CPU benches, under ten minutes on two cores
    python -m benches gpu        the GPU benches (see `python -m benches gpu --help`)
    python -m benches publish    publish their output in results/published (`python -m benches publish --help`)
    python -m benches curves     error rates of the scaling runs of `synthetic` (`python -m benches curves --help`)
    python -m benches loader gru only these

Each bench runs in its own process, one after the other, so that none inherits another's memory or threads. Exit status: 1 if a
goal was missed, 2 if a bench could not be run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benches.line import Line
from common.cli import HelpFormatter

ROOT = Path(__file__).resolve().parents[1]
BENCHES = {
    "train_step": ("training.train_step", ["--rounds", "5"]),
    "loader": ("training.loader", []),
    "gru": ("training.gru", []),
    "padding": ("training.padding", []),
    "harness_overhead": ("harness_overhead", []),
    "telemetry_overhead": ("telemetry_overhead", []),
    "parse_logs": ("parse_logs", []),
    "verify_dataset": ("data.verify_speed", []),
    "cksum": ("data.cksum_speed", ["--megabytes", "256"]),
    "prepare": ("data.prepare_speed", ["--utterances", "300"]),
    "greedy": ("greedy", []),
    "wer_counting": ("wer_counting", []),
    "offline_inference": ("offline_inference", []),
    "onnx_inference": ("onnx_inference", []),
}
"""For each bench its module in `benches` and its options."""
PEERS = {
    "parse_logs": "mlperf-logging's parser",
    "cksum": "coreutils",
    "prepare": "tar, sox and soxi per file",
}
GOALS = {"parse_logs": 10.0}


def lines_of(name: str, output: str) -> list[str]:
    """A bench's result lines: as printed, or built from the JSON object in its last line."""
    last = output.strip().splitlines()[-1]
    if not last.startswith("{"):
        return [line for line in output.splitlines() if line.count(",") >= 4]
    found = json.loads(last)
    return [str(Line(name, "ours", PEERS[name], found["ratio"], found.get("goal", GOALS.get(name))))]


def main(arguments: list[str]) -> int:
    """Run the named benches, or all; returns the exit status."""
    if arguments[:1] == ["gpu"]:
        from benches.gpu import command

        return command.main(arguments[1:])
    if arguments[:1] == ["publish"]:
        from benches import publish

        return publish.main(arguments[1:])
    if arguments[:1] == ["curves"]:
        from benches import curves

        return curves.main(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benches",
        description=__doc__,
        epilog=f"Benches: {', '.join(BENCHES)}, gpu.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="BENCH", help="only these (default: all but gpu)")
    arguments = parser.parse_args(arguments).names
    unknown = [name for name in arguments if name not in BENCHES]
    if unknown:
        print(f"error: no such bench: {', '.join(unknown)} - choose from {', '.join(BENCHES)} and gpu", file=sys.stderr)
        return 2
    worst, started_s = 0, time.monotonic()
    print("name, ours, peer, ratio, goal", flush=True)
    for name in arguments or BENCHES:
        module, options = BENCHES[name]
        command = [sys.executable, "-m", f"benches.{module}", *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode not in (0, 1) or not done.stdout.strip():
            reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            print(f"{name}, could not be run: {reason[0]}", flush=True)
            worst = 2
            continue
        for line in lines_of(name, done.stdout):
            print(line, flush=True)
        worst = max(worst, done.returncode)
    print(f"{time.monotonic() - started_s:.0f} s in total", file=sys.stderr)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
