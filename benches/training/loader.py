"""Reading and altering training audio beside the reference's way, one sox process per utterance; and packed beside FLAC.

    python -m benches.training.loader [--files 256]

A made-up split of LibriSpeech's lengths (datasets.synthesis.plans), sorted. `loader`: FLAC files with tempo and gain, by as many
loader processes as there are cores (two at most), beside the reference's way: one process that starts a shell with sox for each
utterance, which writes a temporary WAV file that is read again. `one process` is ours in one process. `packed`: the split as
evaluation reads it, from packed shards and from FLAC files, in one process; `packed, augmented` is with alterations.
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
from reference_model.training.step import received_from

GOAL_SOX, GOAL_PACKED = 10.0, 5.0
BATCH, LARGER_BATCH = 8, 32
OVER = 4
"""So many utterances share a file: neighbours in a sorted LibriSpeech are as long as each other. sox is given one of them."""
Reader = Callable[[], None]


def make_split(folder: Path, files: int, over: int = 1) -> Dataset:
    """`files` at evenly spaced places of LibriSpeech's length distribution, `over` utterances each: coloured noise, 16-bit FLAC."""
    (folder / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(files):
        samples = round(16_000 * plans.length_s("train", (number + 0.5) / files))
        noise = np.convolve(rng.normal(0, 1500, samples + 15), np.hanning(16) / 8, "valid")
        envelope = 0.2 + np.abs(np.sin(np.arange(samples) / 6_000))
        name = f"train/{number:04d}.flac"
        audio.write_flac(folder / name, (noise * envelope).astype(np.int16))
        rows += [Utterance(f"{number:04d}-{copy}", name, samples / 16_000, "A") for copy in range(over)]
    manifest = Manifest.of(folder, rows)
    write_jsonl(manifest, folder / "bench_train_manifest.jsonl")
    split = Split("bench_train_manifest.jsonl", "", len(rows), manifest.duration_s, None)
    return Dataset(folder, "bench", "flac", {"train": split}, TreeDigest("0" * 64, 0, 0, files), {})


def reader(recordings: Recordings, utterances: int, batch: int, workers: int = 0) -> Reader:
    """What reads the split once, in batches of consecutive utterances; its workers stay alive from call to call."""
    order = Order()
    order.set(1, [np.arange(start, min(start + batch, utterances)) for start in range(0, utterances, batch)])
    batches = loader(recordings, order, workers=workers, pin=False)

    def read_all() -> None:
        for _ in received_from(batches):
            pass

    return read_all


def sox_all(manifest: Manifest, augment: AugmentParams) -> None:
    """The same alterations of one in OVER by one sox process an utterance, and the batches padded together."""
    rows: list[np.ndarray] = []
    for number in range(0, len(manifest), OVER):
        utterance, drawn = manifest.utterances[number], draw(augment, 1, 1, number)
        with tempfile.NamedTemporaryFile(suffix=".wav") as altered:
            command = f'sox "{manifest.audio_path(utterance)}" -r 16000 -c 1 -b 16 {altered.name} '
            command += f"tempo {drawn.tempo:.3f} gain {drawn.gain_db:.3f}"
            subprocess.run(f"{command} >/dev/null 2>&1", shell=True, check=True)
            rows.append(soundfile.read(altered.name, dtype="float32")[0])
        if len(rows) == BATCH:
            padded = np.zeros((BATCH, max(map(len, rows))), np.float32)
            for row, waveform in zip(padded, rows, strict=True):
                row[: len(waveform)] = waveform
            rows.clear()


def main() -> int:
    """Measure and print; exit status 0 where the goals are met, 2 where sox is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not shutil.which("sox"):
        raise UserError("sox is not installed", remedy="Debian, Ubuntu: `apt-get install sox`")
    torch.set_num_threads(1)
    augment = load_variant("librispeech").augment
    with tempfile.TemporaryDirectory() as place:
        dataset = make_split(Path(place) / "bench", options.files, OVER)
        pack(dataset, processes=1)
        manifest = dataset.manifest("train")
        packed = open_packed(dataset, "train", manifest)
        count, hours = len(manifest), manifest.duration_s / 3600

        def read(
            augmentation: AugmentParams | None, shards: PackedAudio | None = None, workers: int = 0, batch: int = BATCH
        ) -> Reader:
            return reader(Recordings(manifest, augmentation, 1, shards), count, batch, workers)

        def beside_sox(ours: Reader) -> tuple[float, float, float]:
            ours_s, sox_s, ratio = alternating(ours, lambda: sox_all(manifest, augment), max(3, options.rounds // 2))
            return ours_s, sox_s * OVER, ratio * OVER

        workers = min(2, limits.cores())
        every = beside_sox(read(augment, None, workers))
        larger = beside_sox(read(augment, None, workers, LARGER_BATCH))
        alone = beside_sox(read(augment))
        decoded = alternating(read(None, packed), read(None), options.rounds)
        altered = alternating(read(augment, packed), read(augment), options.rounds)

    def speed(took_s: float) -> str:
        return f"{hours * 3600 / took_s:,.0f} x real time"

    return report(
        [
            Line(f"loader, FLAC, {workers} workers", speed(every[0]), f"sox {speed(every[1])}", every[2], GOAL_SOX),
            Line(
                f"loader, FLAC, {workers} workers, batch {LARGER_BATCH}",
                speed(larger[0]),
                f"sox {speed(larger[1])}",
                larger[2],
                GOAL_SOX,
            ),
            Line("loader, FLAC, one process", speed(alone[0]), f"sox {speed(alone[1])}", alone[2]),
            Line("packed shards", speed(decoded[0]), f"FLAC {speed(decoded[1])}", decoded[2], GOAL_PACKED),
            Line("packed shards, augmented", speed(altered[0]), f"FLAC {speed(altered[1])}", altered[2]),
        ]
    )


if __name__ == "__main__":
    sys.exit(run_cli(main))
