"""Overhead of telemetry: the processor time of sampling at 1 Hz, as a share of the elapsed time.

Run by `python -m benches.telemetry_overhead`. Counted is all processor time of this process while it samples, as if the run had
to wait for all of it. (On most machines sampling has a free core; the difference between two runs with and without it is
only run-to-run variation, ten times the cost being measured.) The sampled process has a busy child and idle threads, like a
trainer with its data loader workers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benches.line import Line, report
from benchmark.telemetry.sampler import Telemetry
from common.errors import run_cli

GOAL_SHARE = 0.01

WORK = """
import hashlib, subprocess, sys, threading, time
for _ in range(20):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
if len(sys.argv) > 1:
    block, end_s = bytes(1 << 20), time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end_s:
        hashlib.sha256(block).digest()
else:
    sys.exit(subprocess.run([sys.executable, "-c", sys.stdin.read(), "20"]).returncode)
"""
"""The outer process waits for an inner one, which hashes for twenty seconds."""


def main() -> int:
    """Print one line: processor seconds of sampling, seconds of the run, their ratio, the goal; exit status 0 if it is met."""
    argparse.ArgumentParser(prog="python -m benches.telemetry_overhead", description=__doc__).parse_args()
    process = subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE)
    with tempfile.TemporaryDirectory() as folder:
        telemetry = Telemetry(Path(folder) / "telemetry.csv", notify=lambda text: None)
        telemetry.start()
        telemetry.watch(process.pid)
        start_s, used_before_s = time.monotonic(), time.process_time()
        process.communicate(WORK.encode())
        used_s, run_s = time.process_time() - used_before_s, time.monotonic() - start_s
        telemetry.stop()
        samples = len((Path(folder) / "telemetry.csv").read_text().splitlines()) - 1
    if process.returncode != 0:
        raise RuntimeError(f"the sampled process ended with exit status {process.returncode}")
    if samples < run_s / 2:
        raise RuntimeError(f"{samples} samples in {run_s:.0f} s: that is not sampling at 1 Hz")
    line = Line("telemetry", f"{used_s:.3f} s", f"run {run_s:.1f} s", used_s / run_s, GOAL_SHARE, at_most=True)
    return report([line])


if __name__ == "__main__":
    sys.exit(run_cli(main))
