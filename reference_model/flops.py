"""What a training step must compute and read, from the model's shapes, and what a GPU could do in the same time.

Two bounds (METHOD: operations over the matrix units' rate, bytes over memory bandwidth). A GRU runs frame by frame, and each
frame reads the whole recurrent matrix anew, forward and backward: the streaming floor. What remains (input products, weight
gradients, convolutions, the linear layer) is done for all frames at once, at the matrix rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.params import Params

from .alphabet import LABELS
from .model import KERNELS, SMALLEST_BINS

BACKWARD_TOO = 3
"""Training costs three forward passes: the backward pass takes two products for each one of the forward pass."""


@dataclass(frozen=True)
class Ceilings:
    """What a card was seen to reach: dense matrix products in FLOP/s by precision, and memory in bytes/s, read and written."""

    flops_per_s: dict[str, float]
    bytes_per_s: float


MEASURED = {"NVIDIA H200": Ceilings({"bf16": 790e12}, 4.3e12)}
"""Measured with products of 8192 x 8192 matrices of random numbers, and copies of 4 GB."""


@dataclass(frozen=True)
class Work:
    """Training work for one second of audio. FLOP count a multiplication and an addition as two.

    `recurrent_flops` is the part of `flops` that runs frame by frame, forward and backward; `recurrent_weights` counts the
    values read anew at each output frame, `frames` the output frames.
    """

    flops: float
    recurrent_flops: float
    recurrent_weights: int
    frames: float


def work_per_audio_s(params: Params, bins: int) -> Work:
    """The work of `params` on features of `bins` bins; biases, norms and everything point by point are left out."""
    model = params.model
    frames = 1 / params.features.hop_s / 2
    channels, hidden, directions = model.conv_channels, model.rnn_hidden, 1 + model.bidirectional
    (height_1, width_1), (height_2, width_2) = KERNELS
    bins_1 = (max(bins, SMALLEST_BINS) - height_1) // 2 + 1
    bins_2 = (bins_1 - height_2) // 2 + 1
    products = channels * height_1 * width_1 * bins_1 + channels**2 * height_2 * width_2 * bins_2
    inputs = channels * bins_2 + (model.rnn_layers - 1) * hidden
    recurrent = model.rnn_layers * directions * 3 * hidden * hidden
    products += directions * 3 * hidden * inputs + recurrent + hidden * len(LABELS)
    # Of a recurrent product's three passes, the weight's gradient is one product over all frames.
    return Work(
        flops=BACKWARD_TOO * 2 * products * frames,
        recurrent_flops=2 * 2 * recurrent * frames,
        recurrent_weights=recurrent,
        frames=frames,
    )


def floor_audio_s_per_s(work: Work, batch: int, precision: str, ceilings: Ceilings) -> float | None:
    """The most seconds of audio that one card can train on in a second, in batches of `batch`; None where not known."""
    rate = ceilings.flops_per_s.get(precision)
    if rate is None:
        return None
    value_bytes = 2 if precision == "bf16" else 4
    streamed_s = 2 * work.frames / batch * work.recurrent_weights * value_bytes / ceilings.bytes_per_s
    return 1 / (max(streamed_s, work.recurrent_flops / rate) + (work.flops - work.recurrent_flops) / rate)


def shares(params: Params, bins: int, audio_s_per_s: float, size: int, card: str | None) -> dict[str, float | None]:
    """What `audio_s_per_s` over `size` processes means: model FLOP/s, and the shares of the card's peak and of the floor.

    `card` is the GPU's name, None on a CPU; a share is None where the card's ceilings are not known.
    """
    work = work_per_audio_s(params, bins)
    flops_per_s = work.flops * audio_s_per_s
    ceilings = MEASURED.get(card or "")
    peak = ceilings.flops_per_s.get(params.train.precision) if ceilings else None
    floor = (
        floor_audio_s_per_s(work, max(1, params.train.batch_size // size), params.train.precision, ceilings)
        if ceilings
        else None
    )
    return {
        "model_tflops_per_s": round(flops_per_s / 1e12, 4),
        "share_of_peak": round(flops_per_s / size / peak, 4) if peak else None,
        "share_of_floor": round(audio_s_per_s / size / floor, 4) if floor else None,
    }
