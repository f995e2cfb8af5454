"""Real speech end to end: connected digits are imported from a CSV file, and a timed run learns them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT, whole_data
from tests.support.corpus import changed_params

WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
FIRST_TRAINING_INDEX = 5
"""The Free Spoken Digit Dataset's official split: recordings 0-4 of each speaker and digit test, the others train."""


def connect_digits(recordings: Path, folder: Path, split: str, rounds: int, rng: np.random.Generator) -> Path:
    """Write utterances of 2-5 digits of one speaker, each recording used once per round; returns the two-column CSV."""
    of_speaker: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(recordings.glob("*.wav")):
        digit, speaker, index = path.stem.split("_")
        if (int(index) >= FIRST_TRAINING_INDEX) == (split == "train"):
            of_speaker.setdefault(speaker, []).append((int(digit), path))
    rows = []
    for speaker, items in of_speaker.items():
        for number in range(rounds):
            order = [items[i] for i in rng.permutation(len(items))]
            while len(order) >= 2:
                chosen = [order.pop() for _ in range(min(int(rng.integers(2, 6)), len(order)))]
                pieces = []
                for _, path in chosen:
                    audio, rate_hz = soundfile.read(path, dtype="float32")
                    pieces += [audio, np.zeros(int(rate_hz * rng.uniform(0.02, 0.1)), np.float32)]
                name = f"{split}-{speaker}-{number}-{len(rows):04d}"
                soundfile.write(folder / f"{name}.wav", np.concatenate(pieces), rate_hz)
                (folder / f"{name}.txt").write_text(" ".join(WORDS[digit] for digit, _ in chosen) + "\n")
                rows.append(f"{name}.wav,{name}.txt")
    csv = folder / f"{split}.csv"
    csv.write_text("\n".join(rows) + "\n")
    return csv


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_timed_run_learns_connected_digits_of_real_speakers(tmp_path):
    recordings = whole_data("fsdd/recordings")
    rng = np.random.default_rng(0)
    raw = tmp_path / "raw"
    raw.mkdir()
    train = connect_digits(recordings, raw, "train", rounds=3, rng=rng)
    val = connect_digits(recordings, raw, "val", rounds=3, rng=rng)
    data = tmp_path / "data"
    data.mkdir()
    importing = [sys.executable, "-m", "datasets", "import", "--train", train, "--val", val, "--out", data / "digits"]
    subprocess.run(importing, cwd=ROOT, check=True)
    changed_params(
        tmp_path / "digits.yaml", variant="digits", division="open", data__folder="digits", train__target_wer=8.0
    )

    environment = os.environ | {
        "PYTHON": sys.executable,
        "SEED": "1",
        "DEVICE": "cpu",
        "DATA_DIR": str(data),
        "RESULTS_DIR": str(tmp_path / "runs"),
    }
    line = ["sh", str(ROOT / "run_and_time.sh"), "--params", str(tmp_path / "digits.yaml")]
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, cwd=tmp_path)
    assert done.returncode == 0
    assert all(log_line.startswith(b":::MLLOG ") for log_line in done.stdout.splitlines())
    (record_file,) = (tmp_path / "runs").glob("digits/*/record.json")
    record = json.loads(record_file.read_text())
    assert record["status"] == "success"
    assert record["run"]["final_wer"] <= 8.0
    assert record["run"]["epochs"] <= 10
    assert record["dataset"]["eval_utterances"] > 200
