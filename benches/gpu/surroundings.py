"""Sections of `python -m benches gpu` outside the model: data loader, evaluation, telemetry."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from benches.gpu.full_step import closed, data_of
from benches.gpu.shared import Bench
from benches.training.loader import make_split
from benches.training.train_step import make_step
from benchmark.telemetry.sampler import Telemetry
from datasets.dataset import Dataset, is_prepared, read_dataset, write_description
from datasets.pack import open_packed, pack
from reference_model.data.data_loader import Order, Recordings, default_workers, evaluation_order
from reference_model.data.data_loader import loader as make_loader
from reference_model.runtime import set_precision
from reference_model.training.distributed import World
from reference_model.training.evaluate import evaluate
from reference_model.training.step import TrainState, received_batches, train_epoch


def loader(bench: Bench) -> None:
    """The data loader alone, then training epochs of the closed model with it: the share of time that training waits."""
    workers = default_workers(bench.device)
    batch = 4 if bench.tiny else 32
    dataset = _split(bench)
    manifest = dataset.manifest("train")
    params = closed(bench, batch, "bf16")
    batches = [np.arange(start, min(start + batch, len(manifest))) for start in range(0, len(manifest), batch)]
    # Read several times, so that starting the workers does not matter: the files are in the page cache.
    passes = 1 if bench.tiny else 3
    pack(dataset)
    for name, packed in (("FLAC", None), ("packed", open_packed(dataset, "train", manifest))):
        order = Order()
        order.set(1, batches * passes)
        batch_loader = make_loader(Recordings(manifest, params.augment, 1, packed), order, workers, bench.on_gpu)
        alone_s = bench.seconds(functools.partial(_read_all, batch_loader), repeats=1, warm_up=1)
        set_precision("bf16")
        trainer, state = make_step(params, bench.device), TrainState()
        for epoch in (1, 2):
            stats = train_epoch(trainer, batch_loader, epoch, len(order), state, lambda done, note: None)
        bench.row(
            "loader",
            f"{name}, augmented, {workers} workers",
            audio_s_per_s=passes * manifest.duration_s / alone_s,
            training_audio_s_per_s=stats["audio_s_per_s"],
            data_wait_share=stats["data_wait_s"] / stats["train_s"],
        )


def evaluation(bench: Bench) -> None:
    """Greedy decoding and scoring of a split, including the data loader."""
    batch = 4 if bench.tiny else 32
    manifest = _split(bench).manifest("train")
    set_precision("bf16")
    trainer = make_step(closed(bench, batch, "bf16"), bench.device)
    order = Order()
    order.set(0, evaluation_order(len(manifest), batch, 0, 1))
    batch_loader = make_loader(Recordings(manifest, None, 1), order, default_workers(bench.device), bench.on_gpu)
    texts = [utterance.text for utterance in manifest]
    world = World(0, 0, 1)

    def evaluate_once() -> None:
        network = trainer.network
        evaluate(
            network, trainer.features, received_batches(batch_loader), texts, bench.device, world, trainer.autocast
        )

    taken_s = bench.seconds(evaluate_once, repeats=3, warm_up=1)
    bench.row(
        "evaluation",
        f"bf16, batch {batch}",
        utterances_per_s=len(manifest) / taken_s,
        audio_s_per_s=manifest.duration_s / taken_s,
    )


def telemetry(bench: Bench) -> None:
    """The training step with and without a thread that samples the GPU once a second, alternating."""
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
            sampler = Telemetry(Path(place) / "telemetry.csv")
            sampler.start()
            sampler.watch(os.getpid())
            sampled.append(bench.seconds(some_steps, repeats=1, warm_up=1))
            sampler.stop()
    without_s, with_s = sorted(plain)[len(plain) // 2], sorted(sampled)[len(sampled) // 2]
    bench.row("telemetry", "closed model, bf16, at 1 Hz", cost=with_s / without_s - 1)


def _read_all(batch_loader: DataLoader) -> None:
    for _ in received_batches(batch_loader):
        pass


def _split(bench: Bench) -> Dataset:
    """A split with LibriSpeech's lengths, created by the first section that needs it."""
    folder = bench.kept / "split"
    if not is_prepared(folder):
        # Delete the incomplete split of a section that was killed.
        shutil.rmtree(folder, ignore_errors=True)
        write_description(make_split(folder, 8 if bench.tiny else 512))
    return read_dataset(folder)
