"""Verifying a data set beside `tar | cksum` in a shell, on a 1 GB tree of 150 KB files in memory.

    python -m benches.verify_dataset [--folder DIR] [--megabytes 1000]

Ours is the whole command, Python's start included; it does more (a SHA-256 of each file, names of what differs), and
`--quick` is the part that does the same. SHA-256 takes about 0.6 s of one core for each GB, so the goal takes
several cores. They take turns, and the best of several rounds counts. That no byte is written
is checked too. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from datasets.dataset import Dataset, write_description
from datasets.digest import available_cores, digest_tree
from datasets.tarball import tar_bytes

ROUNDS = 7
GOAL_RATIO = 2.0
FILE_BYTES = 150_000
ROOT = Path(__file__).resolve().parents[1]
TAR = "tar --sort=name --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rw,go=r,a+X -cf - {} | cksum"


def make_tree(folder: Path, megabytes: int) -> None:
    """A tree like LibriSpeech's: about 40 files of 90 to 210 KB in each of many folders."""
    rng = random.Random(1)
    noise = rng.randbytes(1 << 20)
    for number in range(megabytes * 1_000_000 // FILE_BYTES):
        path = folder / f"train/{number // 400}/{number // 40}/{number // 400}-{number // 40}-{number % 40:04d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        start, size = rng.randrange(1 << 19), FILE_BYTES + rng.randrange(-60_000, 60_000)
        path.write_bytes(noise[start : start + size])


def seconds(command: list[str] | str, cwd: Path) -> tuple[float, str]:
    """Wall time of a command, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=cwd, shell=isinstance(command, str), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return time.perf_counter() - start, done.stdout


def main() -> int:
    """Make the tree, measure, print; exit status 0 where the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="where the tree is made for the while (default: /dev/shm, else /tmp)"
    )
    parser.add_argument("--megabytes", type=int, default=1000)
    options = parser.parse_args()
    base = options.folder or (Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None)
    place = Path(tempfile.mkdtemp(dir=base))
    try:
        folder = place / "tree"
        make_tree(folder, options.megabytes)
        write_description(Dataset(folder, "tree", "flac", {}, digest_tree(folder), {}))
        ours = [sys.executable, "-m", "results", "verify-dataset", str(folder)]
        peer_cksum = subprocess.run(
            TAR.format("tree"), shell=True, cwd=place, capture_output=True, text=True
        ).stdout.strip()
        best = {"tar | cksum": float("inf"), "verify": float("inf"), "verify --quick": float("inf")}
        before = {path for path in place.rglob("*")}
        for _ in range(ROUNDS):
            for name, command in (
                ("tar | cksum", TAR.format("tree")),
                ("verify", ours),
                ("verify --quick", [*ours, "--quick"]),
            ):
                took_s, out = seconds(command, place)
                best[name] = min(best[name], took_s)
                assert peer_cksum in out, "both must print the same sum"
        written = {path.name for path in place.rglob("*")} - {path.name for path in before}
        assert written == {"tree.verified.json"}, f"written beside the note of the verification: {written}"
        gigabytes = tar_bytes(folder) / 1e9
    finally:
        shutil.rmtree(place)
    for name, took_s in best.items():
        print(f"{name:15} {took_s:6.3f} s  {gigabytes / took_s:5.2f} GB/s  {best['tar | cksum'] / took_s:5.2f} x")
    ratio = best["tar | cksum"] / best["verify"]
    quick_ratio = best["tar | cksum"] / best["verify --quick"]
    print(
        json.dumps(
            {
                "ratio": round(ratio, 2),
                "quick_ratio": round(quick_ratio, 2),
                "goal": GOAL_RATIO,
                "cores": available_cores(),
            }
        )
    )
    return 0 if ratio >= GOAL_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
