"""Preparing an archive of 2,703 utterances, compared with the reference: unpack, then one sox and soxi process per file.

    python -m benches.data.prepare_speed [--utterances 2703]

The archive has LibriSpeech's layout and audio of typical size. Three methods: ours (FLAC kept, hashed, counted, listed),
ours with `--layout wav`, and the reference's: `tar -x`, then for each file `sox` to WAV and `soxi -D` for its length. Needs
sox. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from common import limits
from datasets.librispeech.archives import Archive
from datasets.librispeech.assemble import Options, prepare

GOAL_RATIO = 3.0
ROUNDS = 2


def make_archive(path: Path, utterances: int) -> Archive:
    """An archive like dev-clean: chapters of 28 utterances of about 7 s, FLAC of some 125 KB."""
    rng = np.random.default_rng(1)
    audio = []
    for _ in range(32):
        samples = (rng.normal(0, 500, 16_000 * int(rng.integers(3, 12)))).astype(np.int16)
        out = io.BytesIO()
        soundfile.write(out, samples, 16_000, format="FLAC")
        audio.append(out.getvalue())
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(f"LibriSpeech/dev-clean/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

        for first in range(0, utterances, 28):
            chapter = f"{first // 56 + 1}-{first // 28 + 1}"
            ids = [f"{chapter}-{n:04d}" for n in range(min(28, utterances - first))]
            for number, name in enumerate(ids):
                add(f"{chapter.replace('-', '/')}/{name}.flac", audio[(first + number) % len(audio)])
            words = "".join(f"{name} SO MUCH WAS SAID AND NO MORE\n" for name in ids)
            add(f"{chapter.replace('-', '/')}/{chapter}.trans.txt", words.encode())
    data = path.read_bytes()
    return Archive("dev-clean", "val", len(data), utterances, 5.4, 40, hashlib.sha256(data).hexdigest())


def ours(archive: Archive, place: Path, layout: str) -> float:
    """Seconds to prepare the archive."""
    target = place / "ours"
    target.mkdir()
    start = time.perf_counter()
    prepare([archive], [archive], target, Options(from_dir=place, layout=layout))
    took_s = time.perf_counter() - start
    shutil.rmtree(target)
    return took_s


def reference(place: Path) -> float:
    """Seconds to unpack it and run sox and soxi on each file, as the reference and its manifest do."""
    target = place / "theirs"
    target.mkdir()
    start = time.perf_counter()
    subprocess.run(["tar", "-xzf", place / "dev-clean.tar.gz", "-C", target], check=True)
    for path in target.rglob("*.flac"):
        wav = path.with_suffix(".wav")
        subprocess.run(["sox", path, "-r", "16000", "-b", "16", "-c", "1", wav], check=True)
        subprocess.run(["soxi", "-D", wav], check=True, capture_output=True)
    took_s = time.perf_counter() - start
    shutil.rmtree(target)
    return took_s


def main() -> int:
    """Measure and print; exit status 0 if the goal is met, 2 if sox is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=2703)
    utterances = parser.parse_args().utterances
    if not shutil.which("soxi"):
        print("error: sox is not installed - Debian, Ubuntu: `apt-get install sox`", file=sys.stderr)
        return 2
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        archive = make_archive(place / "dev-clean.tar.gz", utterances)
        best = {
            "sox per file": min(reference(place) for _ in range(ROUNDS)),
            "ours, wav": min(ours(archive, place, "wav") for _ in range(ROUNDS)),
            "ours, flac": min(ours(archive, place, "flac") for _ in range(ROUNDS)),
        }
    finally:
        shutil.rmtree(place)
    for name, took_s in best.items():
        print(
            f"{name:13} {took_s:7.2f} s  {utterances / took_s:8.0f} utterances/s  {best['sox per file'] / took_s:6.1f} x"
        )
    ratio = best["sox per file"] / best["ours, flac"]
    wav_ratio = best["sox per file"] / best["ours, wav"]
    print(
        json.dumps(
            {"ratio": round(ratio, 1), "wav_ratio": round(wav_ratio, 1), "goal": GOAL_RATIO, "cores": limits.cores()}
        )
    )
    return 0 if ratio >= GOAL_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
