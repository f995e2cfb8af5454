"""Verifying a dataset, compared with `tar | cksum` in a shell, on a 1 GB tree of 150 KB files in memory.

    python -m benches.data.verify_speed [--folder DIR] [--megabytes 1000]

Ours is the whole command, including Python's start. `--quick` does what the peer does: the tar's checksum. Without it, each
file's SHA-256 is computed too, which is limited by how fast the cores can hash: the third line is the time for that alone,
from this machine's rate (one thread, a buffer in cache) and its number of cores. The last line's peer also computes both
sums, one after the other. The bench also checks that both print the same sums and that nothing is written.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benches.line import Line, alternating, report, seconds
from common import limits
from datasets.checksums.digest import digest_tree
from datasets.checksums.tarball import tar_bytes
from datasets.dataset import Dataset, write_description

ROUNDS = 7
GOAL_RATIO = 2.0
FILE_BYTES = 150_000
ROOT = Path(__file__).resolve().parents[2]
TAR = "tar --sort=name --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rw,go=r,a+X -cf - {} | cksum"
SHA256SUM = "cd {} && find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0r sha256sum -- | sha256sum"


def make_tree(folder: Path, megabytes: int) -> None:
    """A tree like LibriSpeech's: about 40 files of 90 to 210 KB in each of many folders."""
    rng = random.Random(1)
    noise = rng.randbytes(1 << 20)
    for number in range(megabytes * 1_000_000 // FILE_BYTES):
        path = folder / f"train/{number // 400}/{number // 40}/{number // 400}-{number // 40}-{number % 40:04d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        start, size = rng.randrange(1 << 19), FILE_BYTES + rng.randrange(-60_000, 60_000)
        path.write_bytes(noise[start : start + size])


def command(line: list[str] | str, cwd: Path, *expected: str) -> Callable[[], None]:
    """A function that runs a command, which must print each of `expected`."""

    def run() -> None:
        done = subprocess.run(
            line, cwd=cwd, shell=isinstance(line, str), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        for text in expected:
            assert text in done.stdout, f"differs from the sums of tar, cksum and sha256sum: {done.stdout}"

    return run


def sha256_bytes_per_s() -> float:
    """SHA-256 rate of one thread on buffers of this size in its cache."""
    data = bytes(FILE_BYTES)
    times = [seconds(lambda: [hashlib.sha256(data).digest() for _ in range(400)]) for _ in range(ROUNDS)]
    return 400 * FILE_BYTES / statistics.median(times)


def measure(place: Path, megabytes: int) -> list[Line]:
    """Make the tree in `place`, and time everything on it."""
    folder = place / "tree"
    make_tree(folder, megabytes)
    write_description(Dataset(folder, "tree", "flac", {}, digest_tree(folder), {}))
    tar, sha256sum = TAR.format("tree"), SHA256SUM.format("tree")
    cksum, sha256 = (
        " ".join(subprocess.run(line, shell=True, cwd=place, check=True, capture_output=True, text=True).stdout.split())
        for line in (tar, sha256sum)
    )
    sha256 = sha256.removesuffix(" -")
    before = set(place.rglob("*"))
    verify = [sys.executable, "-m", "results", "verify-dataset", str(folder)]
    peer, both = command(tar, place, cksum), command(f"{tar}; {sha256sum}", place, cksum, sha256)
    quick, full = command([*verify, "--quick"], place, cksum), command(verify, place, cksum, sha256)
    lines = []
    for name, ours in (("verify --quick", quick), ("verify", full)):
        ours_s, peer_s, ratio = alternating(ours, peer, ROUNDS)
        lines.append(Line(name, f"{ours_s:.3f} s", f"tar | cksum {peer_s:.3f} s", ratio, GOAL_RATIO))
    written = {path.name for path in set(place.rglob("*")) - before}
    assert written == {"tree.verified.json"}, f"written in addition to the verification's result: {written}"
    rate = sha256_bytes_per_s()
    least_s = tar_bytes(folder) / rate / limits.cores()
    bound = f"verify, SHA-256 alone at {rate / 1e9:.2f} GB/s on each of {limits.cores()} cores"
    lines.append(Line(bound, f"{least_s:.3f} s", f"tar | cksum {peer_s:.3f} s", peer_s / least_s))
    ours_s, peer_s, ratio = alternating(full, both, ROUNDS)
    lines.append(
        Line("verify, both sums", f"{ours_s:.3f} s", f"tar | cksum; sha256sum {peer_s:.3f} s", ratio, GOAL_RATIO)
    )
    return lines


def main() -> int:
    """Make the tree, measure, print; exit status 0 if the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="where the temporary tree is created (default: /dev/shm, else /tmp)"
    )
    parser.add_argument("--megabytes", type=int, default=1000)
    options = parser.parse_args()
    base = options.folder or (Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None)
    place = Path(tempfile.mkdtemp(dir=base))
    try:
        lines = measure(place, options.megabytes)
    finally:
        shutil.rmtree(place)
    return report(lines)


if __name__ == "__main__":
    sys.exit(main())
