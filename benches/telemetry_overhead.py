"""What telemetry costs a run: the processor time that sampling at 1 Hz takes, as a share of the time that passes.

Run by `python -m benches.telemetry_overhead`. Counted is all that this process does while it samples, as if the run had to wait
for every bit of it. (It has a processor of its own on most machines; comparing the run's time with and without it shows
nothing but the noise of two runs, ten times what is to be measured.) What is watched is a process with a busy child and idle
threads, as a trainer with its loaders is.
"""

from __future__ import annotations

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
    """Print one line: processor seconds of sampling, seconds of the run, their ratio, the goal; exit status 0 where it is met."""
    process = subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE)
    with tempfile.TemporaryDirectory() as folder:
        telemetry = Telemetry(Path(folder) / "telemetry.csv", say=lambda text: None)
        telemetry.start()
        telemetry.watch(process.pid)
        began_s, used_before_s = time.monotonic(), time.process_time()
        process.communicate(WORK.encode())
        used_s, run_s = time.process_time() - used_before_s, time.monotonic() - began_s
        telemetry.stop()
        samples = len((Path(folder) / "telemetry.csv").read_text().splitlines()) - 1
    if process.returncode != 0:
        raise RuntimeError(f"the work ended with exit status {process.returncode}")
    if samples < run_s / 2:
        raise RuntimeError(f"{samples} samples in {run_s:.0f} s: this is not what sampling at 1 Hz costs")
    line = Line("telemetry", f"{used_s:.3f} s", f"run {run_s:.1f} s", used_s / run_s, GOAL_SHARE, at_most=True)
    return report([line])


if __name__ == "__main__":
    sys.exit(run_cli(main))
