"""Estimates of the time and GPU memory of a run of `synthetic`, for a line on stderr and the doctor."""

from __future__ import annotations

from benchmark.machine.roofline import MEASURED, Work, roofline_audio_s_per_s
from benchmark.params import Params
from datasets.synthesis.plans import SYNTHETIC_HOURS

REFERENCE_WORK = Work(flops=32.8e9, recurrent_weights=3 * 3 * 2560 * 2560, frames=50.0)
"""The reference network's, as `reference_model.model.flops` computes it from its shapes (a test compares the two)."""

FRACTION = 0.26
"""Roofline fraction of a run's steps: 0.245 to 0.278 in the epochs of two runs on an H200."""

FIXED_GPU_BYTES = 3.1e9
"""Per process: 2.1 GB for weights, gradients and AdamW's state, and 1 GB for CUDA."""
BYTES_PER_AUDIO_S = 7.2e6
"""Activations kept from the forward pass per second of audio in a batch (`python -m benches.memory` counts them on a
CPU). With FIXED_GPU_BYTES that is 18.8 GB for the longest batch; an H200 used 15.0 GB at most."""
LONGEST_S = 34
SYNTHESIS_CORE_MIN = 18
"""Minutes to synthesise the corpus on one core."""

EPOCHS = (2, 3)
"""Epochs to the target: two in both runs on an H200 (docs/synthetic.md), and one to spare."""


def expected_minutes(params: Params, card: str | None, processes: int) -> tuple[float, float] | None:
    """The range of minutes that a run of `params` (the variant `synthetic`) should take; None for an unknown GPU.

    `card` is the GPU's name in CUDA, `processes` the number of such GPUs that split the batch. Only training is
    counted.
    """
    ceilings = MEASURED.get(card or "")
    if ceilings is None:
        return None
    share = max(1, params.train.batch_size // processes)
    roofline = roofline_audio_s_per_s(REFERENCE_WORK, share, params.train.precision, ceilings)
    if roofline is None:
        return None
    epoch_min = SYNTHETIC_HOURS * 3600 / (roofline * processes * FRACTION) / 60
    return EPOCHS[0] * epoch_min, EPOCHS[1] * epoch_min


def gpu_bytes(batch_size: int, processes: int) -> float:
    """GPU memory in bytes that each of `processes` needs for the longest batch of `synthetic`."""
    return FIXED_GPU_BYTES + -(-batch_size // processes) * LONGEST_S * BYTES_PER_AUDIO_S
