"""What telemetry costs: the processor time of a piece of work and its sampling at 1 Hz, beside the same work alone.

Run by `python -m benches.telemetry_overhead`. Processor time is compared and not the clock's, so other programs on the
machine hardly matter. The work is a process with a busy child and idle threads, as a trainer with its loaders is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmark.telemetry import Telemetry

from .line import Line, report

ROUNDS = 3
GOAL_RATIO = 1.01

WORK = """
import hashlib, subprocess, sys, threading, time
for _ in range(20):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
if len(sys.argv) > 1:
    block = bytes(1 << 20)
    for _ in range(int(sys.argv[1])):
        hashlib.sha256(block).digest()
else:
    sys.exit(subprocess.run([sys.executable, "-c", sys.stdin.read(), "12000"]).returncode)
"""
"""The outer process waits for an inner one, which hashes 12,000 MiB: several seconds of one core."""


def run() -> int:
    """Print one line: name, seconds with telemetry, seconds without, their ratio, the goal; exit status 0 where it is met."""
    ours_s, peer_s = [], []
    for _ in range(ROUNDS):
        peer_s.append(_work_s(sampled=False))
        ours_s.append(_work_s(sampled=True))
    # The least of each: whatever else runs on the machine can only add.
    ours, peer = min(ours_s), min(peer_s)
    return report([Line("telemetry", f"{ours:.3f} s", f"without {peer:.3f} s", ours / peer, GOAL_RATIO, at_most=True)])


def _work_s(*, sampled: bool) -> float:
    """Processor seconds of the work and of this process while it lasts."""
    before = os.times()
    process = subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE)
    with tempfile.TemporaryDirectory() as folder:
        telemetry = Telemetry(Path(folder) / "telemetry.csv", say=lambda text: None)
        if sampled:
            telemetry.start()
            telemetry.watch(process.pid)
        process.communicate(WORK.encode())
        telemetry.stop()
    if process.returncode != 0:
        raise RuntimeError(f"the work ended with exit status {process.returncode}")
    return sum(os.times()[:4]) - sum(before[:4])


if __name__ == "__main__":
    sys.exit(run())
