"""Sections of `python -m benches gpu` on tensor shapes: the convolutional front's memory layout, and new utterance lengths."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benches.gpu.full_step import closed, data_of, graphs_up_to
from benches.gpu.shared import Bench
from benches.gpu.table import first_line
from benches.training.train_step import make_step
from reference_model.data.data_loader import Batch
from reference_model.model.network import DeepSpeech2
from reference_model.runtime import set_precision


def layout(bench: Bench) -> None:
    """The convolutional front of the closed model, forward and backward, with channels first and with channels last."""
    for precision in ("bf16", "fp32"):
        for batch in (2,) if bench.tiny else (8, 32):
            name = f"front, {precision}, batch {batch}"
            try:
                first_s, last_s = (_front_s(bench, precision, batch, last) for last in (False, True))
            except RuntimeError as error:
                bench.row("layout", name, reason=first_line(error))
                continue
            bench.row(
                "layout",
                name,
                channels_first_ms=first_s * 1e3,
                channels_last_ms=last_s * 1e3,
                gain_of_channels_last=first_s / last_s,
            )
            bench.free()


def _front_s(bench: Bench, precision: str, batch: int, channels_last: bool) -> float:
    params = closed(bench, batch, precision)
    set_precision(precision)
    trainer, data = make_step(params, bench.device, channels_last), data_of(bench, batch)
    network = trainer.network
    assert isinstance(network, DeepSpeech2)
    values, _ = trainer.features(data.waveforms.to(bench.device), data.samples.to(bench.device))

    def front() -> Tensor:
        # As in DeepSpeech2.forward, up to the input of the first GRU.
        x = values.unsqueeze(3).permute(0, 3, 1, 2) if channels_last else values.unsqueeze(1)
        return network.conv(x).permute(3, 0, 1, 2).flatten(2).contiguous()

    with trainer.autocast():
        gradient = torch.randn_like(front())

    def train() -> None:
        with trainer.autocast():
            out = front()
        out.backward(gradient)

    return bench.seconds(train)


@graphs_up_to(0)
def new_lengths(bench: Bench) -> None:
    """Steps on batches of new lengths, and on the same batches again: the cost of plans for a new shape, without CUDA graphs.

    cuFFT and cuDNN create a plan for each shape and cache it. The features are measured first, alone, because only they use
    cuFFT; then whole steps, whose networks use cuDNN. All lengths are below one already seen, so that no memory is allocated
    for them.
    """
    sizes = (("bf16", 2),) if bench.tiny else (("bf16", 8), ("bf16", 32), ("fp32", 8))
    for place, (precision, batch) in enumerate(sizes):
        set_precision(precision)
        trainer = make_step(closed(bench, batch, precision), bench.device)
        # Different lengths for each row, because plans of another row would be cached.
        others = [
            data_of(bench, batch, 10.0 + 0.07 * number, seed=1 + place * 100 + number)
            for number in range(2 if bench.tiny else 12)
        ]
        warm = data_of(bench, batch)
        for _ in range(3):
            trainer(warm, 1e-4)

        def features(data: Batch, of: Callable = trainer.features) -> None:
            of(data.waveforms.to(bench.device), data.samples.to(bench.device))

        def step(data: Batch, train: Callable = trainer) -> None:
            train(data, 1e-4)

        features_new_s, features_again_s = (_each_s(bench, features, others) for _ in range(2))
        step_new_s, step_again_s = (_each_s(bench, step, others) for _ in range(2))
        bench.row(
            "new_lengths",
            f"closed model, {precision}, batch {batch}",
            features_new_ms=features_new_s * 1e3,
            features_again_ms=features_again_s * 1e3,
            step_new_ms=step_new_s * 1e3,
            step_again_ms=step_again_s * 1e3,
            plans_ms=(features_new_s - features_again_s + step_new_s - step_again_s) * 1e3,
        )
        bench.free()


def _each_s(bench: Bench, work: Callable[[Batch], object], batches: Sequence[Batch]) -> float:
    """Mean seconds per batch, without pauses between batches."""
    bench.wait()
    start_s = time.perf_counter()
    for batch in batches:
        work(batch)
    bench.wait()
    return (time.perf_counter() - start_s) / len(batches)
