"""What a training step must compute and read, from the model's shapes, and what a GPU could do in the same time.

A roofline (Williams, Waterman and Patterson 2009): the time is at least the operations over the matrix units' rate, and at least
the stated memory traffic over the memory's bandwidth. The traffic that is stated here is that of the recurrent weights
alone, read from memory anew for each output frame, forward and backward. It is what a kernel streams that keeps no weights on
the chip, and no law of nature: one that holds them in registers and shared memory, or finds some of a layer's 39 MB in the cache
(50 MB on an H100, 60 MB on an H200), may go faster, and its fraction of this roofline exceed 1. Activations, the other
weights and the optimiser's state are left out.
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


MEASURED = {
    "NVIDIA H100 80GB HBM3": Ceilings({"bf16": 798e12}, 3.0e12),
    "NVIDIA H200": Ceilings({"bf16": 790e12}, 4.3e12),
}
"""By the name that CUDA gives the card. Measured: products of 8192 x 8192 matrices of random numbers, large copies in memory.

For a card that is not here the log has null; `benches gpu` measures its ceilings.
"""


@dataclass(frozen=True)
class Work:
    """Training work for one second of audio. FLOP count a multiplication and an addition as two.

    `recurrent_weights` counts the values read anew at each output frame, `frames` the output frames.
    """

    flops: float
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
    return Work(
        flops=BACKWARD_TOO * 2 * products * frames,
        recurrent_weights=recurrent,
        frames=frames,
    )


def roofline_audio_s_per_s(work: Work, batch: int, precision: str, ceilings: Ceilings) -> float | None:
    """Seconds of audio a second at the roofline of one card, in batches of `batch`; None where the ceiling is not known."""
    rate = ceilings.flops_per_s.get(precision)
    if rate is None:
        return None
    value_bytes = 2 if precision == "bf16" else 4
    # Forward and backward each read the weights once for a frame of the whole batch.
    traffic_bytes = 2 * work.frames / batch * work.recurrent_weights * value_bytes
    return 1 / max(work.flops / rate, traffic_bytes / ceilings.bytes_per_s)


def shares(params: Params, bins: int, audio_s_per_s: float, size: int, card: str | None) -> dict[str, float | None]:
    """What `audio_s_per_s` over `size` processes means: model FLOP/s, MFU, and the fraction of the roofline.

    `mfu`, the model FLOPs utilisation, is FLOP/s over the card's measured rate of dense matrix products in the variant's
    precision. `card` is the GPU's name, None on a CPU; a figure is None where the card's ceilings are not known.
    """
    work = work_per_audio_s(params, bins)
    flops_per_s = work.flops * audio_s_per_s
    ceilings, batch, precision = MEASURED.get(card or ""), params.train.batch_size, params.train.precision
    peak = ceilings.flops_per_s.get(precision) if ceilings else None
    roofline = roofline_audio_s_per_s(work, max(1, batch // size), precision, ceilings) if ceilings else None
    return {
        "model_tflops_per_s": round(flops_per_s / 1e12, 4),
        "mfu": round(flops_per_s / size / peak, 4) if peak else None,
        "roofline_fraction": round(audio_s_per_s / size / roofline, 4) if roofline else None,
    }
