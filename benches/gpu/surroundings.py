"""Sections of `python -m benches gpu` about what surrounds the model: loader, evaluation, telemetry."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benches.gpu.full_step import closed, data_of
from benches.gpu.shared import Bench
from benches.training.loader import make_split
from benches.training.train_step import make_step
from benchmark.telemetry.sampler import Telemetry
from datasets.dataset import Dataset, is_prepared, read_dataset, write_description
from datasets.pack import open_packed, pack
from reference_model.data.data_loader import Order, Recordings, default_workers, evaluation_order
from reference_model.data.data_loader import loader as make_loader
from reference_model.precision import set_precision
from reference_model.training.distributed import World
from reference_model.training.evaluate import evaluate
from reference_model.training.step import TrainState, received_from, train_epoch


def loader(bench: Bench) -> None:
    """The loader alone, then an epoch of the closed model fed by it: how much of the time training waits."""
    workers = default_workers(bench.device)
    batch = 4 if bench.tiny else 32
    dataset = _split(bench)
    manifest = dataset.manifest("train")
    params = closed(bench, batch, "bf16")
    batches = [np.arange(start, min(start + batch, len(manifest))) for start in range(0, len(manifest), batch)]
    # Read several times over, so that starting the workers does not count: the files lie in the page cache.
    passes = 1 if bench.tiny else 3
    pack(dataset)
    for name, packed in (("FLAC", None), ("packed", open_packed(dataset, "train", manifest))):
        order = Order()
        order.set(1, batches * passes)
        fed = make_loader(Recordings(manifest, params.augment, 1, packed), order, workers, bench.on_gpu)
        alone_s = bench.seconds(lambda fed=fed: [None for _ in received_from(fed)], repeats=1, warm_up=1)
        set_precision("bf16")
        trainer, state = make_step(params, bench.device), TrainState()
        for epoch in (1, 2):
            stats = train_epoch(trainer, fed, epoch, len(order), state, lambda done, note: None)
        bench.row(
            "loader",
            f"{name}, augmented, {workers} workers",
            audio_s_per_s=passes * manifest.duration_s / alone_s,
            training_audio_s_per_s=stats["audio_s_per_s"],
            data_wait_share=stats["data_wait_s"] / stats["train_s"],
        )


def evaluation(bench: Bench) -> None:
    """Greedy decoding and scoring of a split, loader and all."""
    batch = 4 if bench.tiny else 32
    manifest = _split(bench).manifest("train")
    set_precision("bf16")
    trainer = make_step(closed(bench, batch, "bf16"), bench.device)
    order = Order()
    order.set(0, evaluation_order(len(manifest), batch, 0, 1))
    fed = make_loader(Recordings(manifest, None, 1), order, default_workers(bench.device), bench.on_gpu)
    texts = [utterance.text for utterance in manifest]
    world = World(0, 0, 1)

    def once() -> None:
        network = trainer.network
        evaluate(network, trainer.features, received_from(fed), texts, bench.device, world, trainer.autocast)

    taken_s = bench.seconds(once, repeats=3, warm_up=1)
    bench.row(
        "evaluation",
        f"bf16, batch {batch}",
        utterances_per_s=len(manifest) / taken_s,
        audio_s_per_s=manifest.duration_s / taken_s,
    )


def telemetry(bench: Bench) -> None:
    """The training step with and without a thread that samples the GPU once a second, in turns."""
    batch = 2 if bench.tiny else 32
    set_precision("bf16")
    trainer, data = make_step(closed(bench, batch, "bf16"), bench.device), data_of(bench, batch)

    def some_steps() -> None:
        for _ in range(2 if bench.tiny else 8):
            trainer(data, 1e-4)

    plain, sampled = [], []
    for _ in range(1 if bench.tiny else 3):
        plain.append(bench.seconds(some_steps, repeats=1, warm_up=1))
        with tempfile.TemporaryDirectory() as place:
            watching = Telemetry(Path(place) / "telemetry.csv")
            watching.start()
            watching.watch(os.getpid())
            sampled.append(bench.seconds(some_steps, repeats=1, warm_up=1))
            watching.stop()
    without_s, with_s = sorted(plain)[len(plain) // 2], sorted(sampled)[len(sampled) // 2]
    bench.row("telemetry", "closed model, bf16, at 1 Hz", cost=with_s / without_s - 1)


def _split(bench: Bench) -> Dataset:
    """A split of LibriSpeech's lengths, made by the first section that asks for it."""
    folder = bench.kept / "split"
    if not is_prepared(folder):
        # What a section left half-made that was ended over it is in the way.
        shutil.rmtree(folder, ignore_errors=True)
        write_description(make_split(folder, 8 if bench.tiny else 512))
    return read_dataset(folder)
