"""Section `gru` of `python -m benches gpu`: the model's GRU layers alone, forward and backward."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benches.gpu.full_step import graphs_up_to
from benches.gpu.shared import Bench
from benches.gpu.table import first_line
from reference_model.model.gru import Gru
from reference_model.runtime import set_precision

BYTES = {torch.bfloat16: 2, torch.float16: 2, torch.float32: 4}


@graphs_up_to(0)
def gru(bench: Bench) -> None:
    """One layer of the closed model's width in each precision and batch size; then the three in one call, at batch 8 and 32.

    All without CUDA graphs.

    bf16 is compared with the same layer under autocast alone, which is fp16 on a GPU; and with bf16 without TF32, for which
    PyTorch tells cuDNN not to use tensor cores (reference_model/runtime.py). `dtype` is the dtype of the layer's result.
    """
    hidden, frames = (32, 20) if bench.tiny else (2560, 600)
    for batch in bench.batches:
        for precision in bench.precisions:
            layers = _layers(bench, [hidden, hidden])
            x = torch.randn(frames, batch, hidden, device=bench.device, requires_grad=True)
            ours = functools.partial(Gru(layers), training=True)
            _one_layer(bench, f"one layer, {precision}, batch {batch}", ours, x, precision, layers[0])
            if precision == "bf16":
                alone = f"one layer, autocast alone, batch {batch}"
                _one_layer(bench, alone, lambda x, layer=layers[0]: layer(x)[0], x, precision, layers[0])
                _one_layer(bench, f"one layer, bf16, no TF32, batch {batch}", ours, x, precision, layers[0], False)
            bench.free()
    for batch in bench.batches[:2]:
        for precision in bench.precisions:
            _three(bench, precision, batch, hidden, frames)
            bench.free()


def _layers(bench: Bench, widths: list[int]) -> list[nn.GRU]:
    """A layer from each width to the next, with weights initialised on the device and contiguous as cuDNN requires."""
    torch.manual_seed(0)
    with bench.device:
        layers = [nn.GRU(inputs, hidden).train() for inputs, hidden in itertools.pairwise(widths)]
    Gru(layers).flatten_weights()
    return layers


def _one_layer(
    bench: Bench,
    name: str,
    layer_call: Callable[[Tensor], Tensor],
    x: Tensor,
    precision: str,
    layer: nn.GRU,
    allow_tf32: bool | None = None,
) -> None:
    try:
        taken_s, dtype = _train_s(bench, layer_call, x, precision, allow_tf32)
    except RuntimeError as error:
        bench.row("gru", name, reason=first_line(error))
        return
    frames, batch, _ = x.shape
    # Two products of (3 hidden, hidden) per frame and utterance forward, and twice as many backward.
    flops = 3 * 2 * 2 * layer.weight_hh_l0.numel() * frames * batch
    # If the recurrent weights are read from memory at each frame, forward and backward.
    streamed_bytes = 2 * frames * layer.weight_hh_l0.numel() * BYTES[dtype]
    bench.row(
        "gru",
        name,
        ms=taken_s * 1e3,
        tflops=flops / taken_s / 1e12,
        weights_tb_per_s=streamed_bytes / taken_s / 1e12,
        dtype=str(dtype).removeprefix("torch."),
    )


def _three(bench: Bench, precision: str, batch: int, hidden: int, frames: int) -> None:
    inputs = 672
    x = torch.randn(frames, batch, inputs, device=bench.device, requires_grad=True)
    name = f"three in one call, {precision}, batch {batch}"
    try:
        # Separate layers first: the single call changes the weights' memory layout.
        layers = [Gru([layer]) for layer in _layers(bench, [inputs, hidden, hidden, hidden])]
        for layer in layers:
            layer.flatten_weights()
        separate_s, _ = _train_s(
            bench,
            lambda x: functools.reduce(lambda values, layer: layer(values, training=True), layers, x),
            x,
            precision,
        )
        whole = Gru(_layers(bench, [inputs, hidden, hidden, hidden]))
        single_call_s, dtype = _train_s(bench, functools.partial(whole, training=True), x, precision)
    except RuntimeError as error:
        bench.row("gru", name, reason=first_line(error))
        return
    bench.row(
        "gru",
        name,
        ms=single_call_s * 1e3,
        dtype=str(dtype).removeprefix("torch."),
        layer_by_layer_ms=separate_s * 1e3,
        gain=separate_s / single_call_s,
    )


def _train_s(
    bench: Bench, layer_call: Callable[[Tensor], Tensor], x: Tensor, precision: str, allow_tf32: bool | None = None
) -> tuple[float, torch.dtype]:
    """Seconds of a forward and backward pass, and the dtype of the result; `allow_tf32` overrides the precision's setting."""
    set_precision(precision)
    if allow_tf32 is not None:
        torch.backends.cudnn.allow_tf32 = allow_tf32
    dtypes = []

    def train() -> None:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=precision == "bf16"):
            y = layer_call(x)
        dtypes.append(y.dtype)
        y.sum().backward()

    return bench.seconds(train), dtypes[-1]
