"""FLOPs and memory reads of a training step, from the model's shapes; MFU and roofline fraction."""

from __future__ import annotations

from benchmark.machine.roofline import MEASURED, Work, roofline_audio_s_per_s
from benchmark.params import Params
from datasets.geometry import FRAMES_APART, KERNELS, SMALLEST_BINS, bins_between, output_bins
from reference_model.model.alphabet import LABELS

FORWARD_PASSES_PER_STEP = 3
"""The backward pass needs two matrix products for each one of the forward pass."""


def work_per_audio_s(params: Params, bins: int) -> Work:
    """The work per second of audio on features of `bins` bins, without biases, norms and pointwise operations."""
    model = params.model
    frames = 1 / params.features.hop_s / FRAMES_APART
    channels, hidden, directions = model.conv_channels, model.rnn_hidden, 1 + model.bidirectional
    (height_1, width_1), (height_2, width_2) = KERNELS
    bins = max(bins, SMALLEST_BINS)
    bins_1, bins_2 = bins_between(bins), output_bins(bins)
    products = channels * height_1 * width_1 * bins_1 + channels**2 * height_2 * width_2 * bins_2
    inputs = channels * bins_2 + (model.rnn_layers - 1) * hidden
    recurrent = model.rnn_layers * directions * 3 * hidden * hidden
    products += directions * 3 * hidden * inputs + recurrent + hidden * len(LABELS)
    return Work(
        flops=FORWARD_PASSES_PER_STEP * 2 * products * frames,
        recurrent_weights=recurrent,
        frames=frames,
    )


def shares(params: Params, bins: int, audio_s_per_s: float, size: int, card: str | None) -> dict[str, float | None]:
    """Model FLOP/s, MFU and roofline fraction of a throughput of `audio_s_per_s` over `size` processes.

    `mfu` (model FLOPs utilization) is FLOP/s divided by the card's measured rate of dense matrix products in the
    variant's precision. `card` is the GPU's name, None on a CPU; a figure is None where the card's ceilings are
    unknown.
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
