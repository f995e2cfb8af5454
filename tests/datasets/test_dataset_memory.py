"""A corpus of 300,000 utterances is verified and listed with a bounded amount of memory."""

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from datasets.checksums.digest import digest_and_write_sums
from datasets.dataset import Dataset, Split, write_description

ROOT = Path(__file__).resolve().parents[2]
UTTERANCES = 300_000
LIMIT_MB = 500


def peak_memory_mb(*command: str) -> float:
    """Peak resident memory of the largest process of `python -m COMMAND`, in MB."""
    program = (
        "import resource, subprocess, sys; done = subprocess.run([sys.executable, '-m', *sys.argv[1:]]); "
        "assert done.returncode == 0; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000)"
    )
    line = [sys.executable, "-c", program, *command]
    done = subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with LibriSpeech's structure and more utterances, of 100 bytes each."""
    folder = tmp_path_factory.mktemp("large") / "large"
    lines = []
    for number in range(UTTERANCES):
        speaker, chapter = number // 250, number // 50
        name = f"{speaker}-{chapter}-{number % 50:04d}"
        audio = f"train/{speaker}/{chapter}/{name}.flac"
        if number % 50 == 0:
            (folder / audio).parent.mkdir(parents=True)
        (folder / audio).write_bytes(number.to_bytes(100, "big"))
        text = "SOME WORDS OF THE USUAL LENGTH " * 6
        row = {"id": name, "audio": audio, "duration_s": 1.0 + number % 34_000 / 1000, "text": text.strip()}
        lines.append(orjson.dumps(row))
    (folder / "large_train_manifest.jsonl").write_bytes(b"\n".join(lines))
    split = Split("large_train_manifest.jsonl", "large_train_manifest.csv", UTTERANCES, 1.0, UTTERANCES // 250)
    write_description(Dataset(folder, "large", "flac", {"train": split}, digest_and_write_sums(folder), {}))
    return folder


@pytest.mark.long
def test_verification_stays_small(folder: Path, capsys):
    for arguments in (["--processes", "1"], ["--processes", "2", "--cache"]):
        peak_mb = peak_memory_mb("results", "verify-dataset", str(folder), *arguments)
        with capsys.disabled():
            print(f"\nverify-dataset {' '.join(arguments)}: {peak_mb:.0f} MB at most")
        assert peak_mb < LIMIT_MB


@pytest.mark.long
def test_listing_stays_small(folder: Path, capsys):
    peak_mb = peak_memory_mb("datasets", "stats", str(folder))
    with capsys.disabled():
        print(f"\nstats: {peak_mb:.0f} MB at most")
    assert peak_mb < LIMIT_MB


@pytest.mark.long
def test_difference_of_everything_stays_small(folder: Path):
    os.rename(folder / "train", folder / "moved")
    try:
        line = [sys.executable, "-m", "results", "verify-dataset", str(folder)]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1
        assert "missing: 299,980 more" in done.stdout
        assert "extra: 299,980 more" in done.stdout
    finally:
        os.rename(folder / "moved", folder / "train")
