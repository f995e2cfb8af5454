"""Section `step` of `python -m benches gpu`: the whole training step of the closed model, by batch size and precision."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benches.gpu.ceilings import ceilings_of
from benches.gpu.shared import Bench
from benches.gpu.table import first_line
from benches.training.train_step import make_batch, make_step
from benchmark.machine.roofline import roofline_audio_s_per_s
from benchmark.params import Params, load_variant
from reference_model.data.data_loader import Batch
from reference_model.model import gru_graphs
from reference_model.model.features import Features
from reference_model.model.flops import work_per_audio_s
from reference_model.runtime import set_precision
from reference_model.training.step import Readback, TrainStep

CLIP_S = 13.5
"""LibriSpeech's median training utterance."""


def narrowed(bench: Bench, params: Params) -> Params:
    """`params`; in a rehearsal with few channels and narrow GRUs."""
    if not bench.tiny:
        return params
    return dataclasses.replace(params, model=dataclasses.replace(params.model, conv_channels=4, rnn_hidden=32))


def closed(bench: Bench, batch: int, precision: str) -> Params:
    """The closed model at a batch size and precision; narrow in a rehearsal."""
    params = narrowed(bench, load_variant("librispeech"))
    train = dataclasses.replace(params.train, batch_size=batch, eval_batch_size=batch, precision=precision)
    return dataclasses.replace(params, train=train)


def data_of(bench: Bench, batch: int, longest_s: float | None = None, seed: int = 0) -> Batch:
    """A batch of noise as the data loader returns it, utterances of about equal length (default: CLIP_S)."""
    data, _, _ = make_batch(batch, 1.0 if bench.tiny else longest_s or CLIP_S, seed)
    return data.pin_memory() if bench.on_gpu else data


@contextmanager
def graphs_up_to(batch: int = gru_graphs.LARGEST_BATCH) -> Iterator[None]:
    """GRUs recorded as CUDA graphs up to this batch size from the first step on, as in the middle of a long training.

    Also a decorator. The default is the trainer's own limit.
    """
    ours = gru_graphs.LARGEST_BATCH, gru_graphs.RECORDED_AT
    gru_graphs.LARGEST_BATCH, gru_graphs.RECORDED_AT = batch, 1
    try:
        yield
    finally:
        gru_graphs.LARGEST_BATCH, gru_graphs.RECORDED_AT = ours


def steps(trainer: TrainStep, data: Batch, count: int) -> None:
    """Run `count` training steps on the same batch."""
    for _ in range(count):
        trainer(data, 1e-4)


@graphs_up_to()
def step(bench: Bench) -> None:
    """Features, forward, loss, backward and update of the closed model, on waveforms in host memory.

    RuntimeError if no size could be measured.
    """
    measured = 0
    # If they have to be measured first, that must not happen between the measurements of a step.
    ceilings_of(bench)
    for batch, precision in _sizes(bench):
        name = f"closed model, {precision}, batch {batch}"
        try:
            bench.row("step", name, **_step(bench, precision, batch))
            measured += 1
        except RuntimeError as error:
            # Out of memory, or a loss that is not finite, at one size does not affect the others.
            bench.row("step", name, reason=first_line(error))
        bench.free()
    if not measured:
        raise RuntimeError("no size could be measured")


def _sizes(bench: Bench) -> Iterator[tuple[int, str]]:
    """Every batch size in the precisions used on a modern GPU; fp32, the closed variant's precision, at the variant's size."""
    own = bench.batches[0]
    for batch in bench.batches:
        yield from ((batch, precision) for precision in bench.precisions if precision != "fp32" or batch == own)


def _step(bench: Bench, precision: str, batch: int) -> dict[str, float | None]:
    params = closed(bench, batch, precision)
    set_precision(precision)
    data = data_of(bench, batch)
    trainer = make_step(params, bench.device)
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
    taken_s = bench.seconds(functools.partial(steps, trainer, data, bench.in_a_row), warm_up=1) / bench.in_a_row
    loss, finite = Readback(*trainer(data, 1e-4)).read()
    if not finite:
        raise RuntimeError(f"the loss is {loss}, or its gradient is not finite")
    rate = data.audio_s / taken_s
    work = work_per_audio_s(params, Features(params.features).bins)
    return {
        "ms": taken_s * 1e3,
        "audio_s_per_s": rate,
        "tflops": rate * work.flops / 1e12,
        **fractions(bench, params, rate),
        "waits": _waits(bench, trainer, data),
        "memory_gb": torch.cuda.max_memory_allocated(bench.device) / 1e9 if bench.on_gpu else None,
    }


def fractions(bench: Bench, params: Params, audio_s_per_s: float | None) -> dict[str, float | None]:
    """MFU and roofline fraction of a training throughput on this card."""
    ceilings = ceilings_of(bench) if audio_s_per_s is not None else None
    if ceilings is None or audio_s_per_s is None:
        return {"mfu": None, "roofline_fraction": None}
    batch, precision = params.train.batch_size, params.train.precision
    work = work_per_audio_s(params, Features(params.features).bins)
    peak = ceilings.flops_per_s.get(precision)
    roofline = roofline_audio_s_per_s(work, batch, precision, ceilings)
    return {
        "mfu": audio_s_per_s * work.flops / peak if peak else None,
        "roofline_fraction": audio_s_per_s / roofline if roofline else None,
    }


def _waits(bench: Bench, trainer: TrainStep, data: Batch) -> int | None:
    """Number of host-device synchronisations in one step, as detected by PyTorch; None without a GPU."""
    if not bench.on_gpu:
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer(data, 1e-4)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # The first warning only states that PyTorch does not detect every such call.
    return sum("called a synchronizing" in str(each.message) for each in caught)
