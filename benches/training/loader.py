"""Reading and augmenting training audio, compared with the reference's one sox process per utterance; packed compared with FLAC.

    python -m benches.training.loader [--files 256]

A generated split with LibriSpeech's lengths (datasets.synthesis.plans), sorted. `loader`: FLAC files with tempo and gain, read by
one data loader worker per core (at most two), compared with the reference's method: one process that starts a shell with sox for
each utterance, which writes a temporary WAV file that is read again. `one process` is ours in one process. `packed`: the split
as evaluation reads it, from packed shards and from FLAC files, in one process; `packed, augmented` adds the augmentation.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from benches.line import Line, alternating, report
from benchmark.params import AugmentParams, load_variant
from common import limits
from common.errors import UserError, run_cli
from datasets import audio
from datasets.dataset import Dataset, Split, TreeDigest
from datasets.manifest import Manifest, Utterance, write_jsonl
from datasets.pack import PackedAudio, open_packed, pack
from datasets.synthesis import plans
from reference_model.data.augment import draw
from reference_model.data.data_loader import Order, Recordings, loader
from reference_model.training.step import received_batches

GOAL_SOX, GOAL_PACKED = 10.0, 5.0
BATCH, LARGER_BATCH = 8, 32
COPIES = 4
"""Utterances per file: neighbours in a sorted LibriSpeech have equal lengths. sox processes one of them."""
Reader = Callable[[], None]


def make_split(folder: Path, files: int, copies: int = 1) -> Dataset:
    """`files` at evenly spaced quantiles of LibriSpeech's lengths, `copies` utterances each: coloured noise, 16-bit FLAC."""
    (folder / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(files):
        samples = round(16_000 * plans.length_s("train", (number + 0.5) / files))
        noise = np.convolve(rng.normal(0, 1500, samples + 15), np.hanning(16) / 8, "valid")
        envelope = 0.2 + np.abs(np.sin(np.arange(samples) / 6_000))
        name = f"train/{number:04d}.flac"
        audio.write_flac(folder / name, (noise * envelope).astype(np.int16))
        rows += [Utterance(f"{number:04d}-{copy}", name, samples / 16_000, "A") for copy in range(copies)]
    manifest = Manifest.of(folder, rows)
    write_jsonl(manifest, folder / "bench_train_manifest.jsonl")
    split = Split("bench_train_manifest.jsonl", "", len(rows), manifest.duration_s, None)
    return Dataset(folder, "bench", "flac", {"train": split}, TreeDigest("0" * 64, 0, 0, files), {})


def reader(recordings: Recordings, utterances: int, batch: int, workers: int = 0) -> Reader:
    """A function that reads the split once, in batches of consecutive utterances; its workers persist between calls."""
    order = Order()
    order.set(1, [np.arange(start, min(start + batch, utterances)) for start in range(0, utterances, batch)])
    batches = loader(recordings, order, workers=workers, pin=False)

    def read_all() -> None:
        for _ in received_batches(batches):
            pass

    return read_all


def sox_all(manifest: Manifest, augment: AugmentParams) -> None:
    """The same augmentation of one in COPIES utterances with one sox process each, and the batches padded."""
    rows: list[np.ndarray] = []
    for number in range(0, len(manifest), COPIES):
        utterance, drawn = manifest.utterances[number], draw(augment, 1, 1, number)
        with tempfile.NamedTemporaryFile(suffix=".wav") as augmented:
            command = f'sox "{manifest.audio_path(utterance)}" -r 16000 -c 1 -b 16 {augmented.name} '
            command += f"tempo {drawn.tempo:.3f} gain {drawn.gain_db:.3f}"
            subprocess.run(f"{command} >/dev/null 2>&1", shell=True, check=True)
            rows.append(soundfile.read(augmented.name, dtype="float32")[0])
        if len(rows) == BATCH:
            padded = np.zeros((BATCH, max(map(len, rows))), np.float32)
            for row, waveform in zip(padded, rows, strict=True):
                row[: len(waveform)] = waveform
            rows.clear()


def main() -> int:
    """Measure and print; exit status 0 if the goals are met, 2 if sox is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not shutil.which("sox"):
        raise UserError("sox is not installed", remedy="Debian, Ubuntu: `apt-get install sox`")
    torch.set_num_threads(1)
    augment = load_variant("librispeech").augment
    with tempfile.TemporaryDirectory() as place:
        dataset = make_split(Path(place) / "bench", options.files, COPIES)
        pack(dataset, processes=1)
        manifest = dataset.manifest("train")
        packed = open_packed(dataset, "train", manifest)
        count, hours = len(manifest), manifest.duration_s / 3600

        def read(
            augmentation: AugmentParams | None, shards: PackedAudio | None = None, workers: int = 0, batch: int = BATCH
        ) -> Reader:
            return reader(Recordings(manifest, augmentation, 1, shards), count, batch, workers)

        def compare_with_sox(ours: Reader) -> tuple[float, float, float]:
            ours_s, sox_s, ratio = alternating(ours, lambda: sox_all(manifest, augment), max(3, options.rounds // 2))
            return ours_s, sox_s * COPIES, ratio * COPIES

        workers = min(2, limits.cores())
        small = compare_with_sox(read(augment, None, workers))
        larger = compare_with_sox(read(augment, None, workers, LARGER_BATCH))
        alone = compare_with_sox(read(augment))
        decoded = alternating(read(None, packed), read(None), options.rounds)
        augmented = alternating(read(augment, packed), read(augment), options.rounds)

    def speed(took_s: float) -> str:
        return f"{hours * 3600 / took_s:,.0f} x real time"

    return report(
        [
            Line(f"loader, FLAC, {workers} workers", speed(small[0]), f"sox {speed(small[1])}", small[2], GOAL_SOX),
            Line(
                f"loader, FLAC, {workers} workers, batch {LARGER_BATCH}",
                speed(larger[0]),
                f"sox {speed(larger[1])}",
                larger[2],
                GOAL_SOX,
            ),
            Line("loader, FLAC, one process", speed(alone[0]), f"sox {speed(alone[1])}", alone[2]),
            Line("packed shards", speed(decoded[0]), f"FLAC {speed(decoded[1])}", decoded[2], GOAL_PACKED),
            Line("packed shards, augmented", speed(augmented[0]), f"FLAC {speed(augmented[1])}", augmented[2]),
        ]
    )


if __name__ == "__main__":
    sys.exit(run_cli(main))
