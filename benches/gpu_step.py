"""Sections of `python -m benches gpu` about the model: one GRU layer, and the whole training step of the closed model."""

from __future__ import annotations

import dataclasses
import functools
import warnings

import torch

from benchmark.params import Params, load_variant
from reference_model.data import Batch
from reference_model.features import Features
from reference_model.flops import floor_audio_s_per_s, work_per_audio_s
from reference_model.model import DeepSpeech2, RecurrentLayer, gru_dtype, run_stack
from reference_model.step import TrainStep
from reference_model.train import set_precision

from .gpu_bench import Bench, first_line
from .train_step import make_batch, make_step

CLIP_S = 13.5
"""LibriSpeech's median training utterance."""


def closed(bench: Bench, batch: int, precision: str) -> Params:
    """The closed model at a batch size and precision; narrow in a rehearsal."""
    params = load_variant("librispeech")
    width = 64 if bench.tiny else params.model.rnn_hidden
    return dataclasses.replace(
        params,
        model=dataclasses.replace(params.model, rnn_hidden=width),
        train=dataclasses.replace(params.train, batch_size=batch, eval_batch_size=batch, precision=precision),
    )


def gru(bench: Bench) -> None:
    """One layer, forward and backward; then the three as one call beside layer by layer, at batch 32."""
    hidden, frames = (64, 40) if bench.tiny else (2560, 600)
    for precision in bench.precisions:
        set_precision(precision)
        bf16 = precision == "bf16"
        for batch in bench.batches:
            layer = RecurrentLayer(hidden, hidden, False, None).to(bench.device)
            x = torch.randn(frames, batch, hidden, device=bench.device, requires_grad=True)
            taken_s = bench.seconds(functools.partial(_train, bench, [layer], x, bf16, False))
            flops = 3 * 2 * 6 * hidden * hidden * frames * batch
            streamed = 2 * frames * 3 * hidden * hidden * (2 if bf16 else 4)
            bench.row(
                "gru",
                f"one layer, {precision}, batch {batch}",
                ms=taken_s * 1e3,
                tflops=flops / taken_s / 1e12,
                weights_tb_per_s=streamed / taken_s / 1e12,
                dtype=_dtype(bench, bf16),
            )
            if bf16:
                # What autocast does not choose: cuDNN's GRU gets fp16 from it.
                pure, x = layer.rnn.bfloat16(), x.detach().bfloat16().requires_grad_()
                pure_s = bench.seconds(lambda pure=pure, x=x: pure(x)[0].sum().backward())
                bench.row(
                    "gru",
                    f"one layer, bf16 throughout, batch {batch}",
                    ms=pure_s * 1e3,
                    tflops=flops / pure_s / 1e12,
                    weights_tb_per_s=streamed / pure_s / 1e12,
                    dtype="bfloat16",
                )
        batch = 32 if not bench.tiny else 4
        model = DeepSpeech2(closed(bench, batch, precision).model, 161).to(bench.device)
        layers = [layer for layer in model.rnns if isinstance(layer, RecurrentLayer)]
        x = torch.randn(frames, batch, 672, device=bench.device, requires_grad=True)
        together_s = bench.seconds(functools.partial(_train, bench, layers, x, bf16, True))
        apart_s = bench.seconds(functools.partial(_train, bench, layers, x, bf16, False))
        bench.row(
            "gru",
            f"three in one call, {precision}, batch {batch}",
            ms=together_s * 1e3,
            layer_by_layer_ms=apart_s * 1e3,
            gain=apart_s / together_s,
        )


def _dtype(bench: Bench, bf16: bool) -> str:
    with torch.autocast(bench.device.type, torch.bfloat16, enabled=bf16):
        return str(gru_dtype(bench.device)).removeprefix("torch.")


def _train(bench: Bench, layers: list[RecurrentLayer], x: torch.Tensor, bf16: bool, together: bool) -> None:
    with torch.autocast(bench.device.type, torch.bfloat16, enabled=bf16):
        y = run_stack(layers, x) if together else functools.reduce(lambda values, layer: layer(values), layers, x)
    y.sum().backward()


def step(bench: Bench) -> None:
    """Features, forward, loss, backward and update of the closed model, on waveforms that wait in host memory."""
    for precision in bench.precisions:
        for batch in bench.batches:
            name = f"closed model, {precision}, batch {batch}"
            try:
                bench.row("step", name, **_step(bench, precision, batch))
            except RuntimeError as error:
                # Out of memory, or a loss that is not finite, at one size says nothing of the others.
                bench.row("step", name, reason=first_line(error))


def _step(bench: Bench, precision: str, batch: int) -> dict[str, float | None]:
    params = closed(bench, batch, precision)
    set_precision(precision)
    data, _, _ = make_batch(batch, 2.0 if bench.tiny else CLIP_S)
    trainer = make_step(params, bench.device)
    if bench.on_gpu:
        data = data.pin_memory()
        torch.cuda.reset_peak_memory_stats(bench.device)
    # Several steps in a row, as in training: the host runs ahead of the device.
    in_a_row = 1 if bench.tiny else 4
    taken_s = bench.seconds(functools.partial(steps, trainer, data, in_a_row)) / in_a_row
    loss, finite = trainer(data, 1e-4)
    if not bool(finite):
        raise RuntimeError(f"the loss is {loss.item()}")
    work = work_per_audio_s(params, Features(params.features).bins)
    floor = floor_audio_s_per_s(work, batch, precision, bench.ceilings) if bench.ceilings else None
    peak = bench.ceilings.flops_per_s.get(precision) if bench.ceilings else None
    rate = data.audio_s / taken_s
    return {
        "ms": taken_s * 1e3,
        "audio_s_per_s": rate,
        "tflops": rate * work.flops / 1e12,
        "share_of_peak": rate * work.flops / peak if peak else None,
        "share_of_floor": rate / floor if floor else None,
        "waits": _waits(bench, trainer, data),
        "memory_gb": torch.cuda.max_memory_allocated(bench.device) / 1e9 if bench.on_gpu else None,
    }


def steps(trainer: TrainStep, data: Batch, count: int) -> None:
    """That many training steps on the same batch."""
    for _ in range(count):
        trainer(data, 1e-4)


def _waits(bench: Bench, trainer: TrainStep, data: Batch) -> int | None:
    """How often the host waits for the device in one step, by PyTorch's own account; None without a GPU."""
    if not bench.on_gpu:
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer(data, 1e-4)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # The first warning of all says only that not every such call is found.
    return sum("called a synchronizing" in str(each.message) for each in caught)
