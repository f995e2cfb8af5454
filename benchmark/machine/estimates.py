"""What a run of `synthetic` will take of a card, time and memory: estimates, for a line on stderr and the doctor."""

from __future__ import annotations

from benchmark.machine.roofline import MEASURED, Work, roofline_audio_s_per_s
from benchmark.params import Params
from datasets.synthesis.plans import SYNTHETIC_HOURS

REFERENCE_WORK = Work(flops=32.8e9, recurrent_weights=3 * 3 * 2560 * 2560, frames=50.0)
"""The reference network's, as `reference_model.model.flops` works it out from its shapes (a test holds the two together)."""

FRACTION = 0.3
"""Of the roofline that a step is taken to reach: the rough figure of first trials of cuDNN's GRUs at this width and batch, in fp16,
on an H100. No run of this variant has confirmed it.
"""

FIXED_GPU_BYTES = 3.1e9
"""Of each process: weights, gradients and AdamW's state 2.1 GB, and one for CUDA."""
BYTES_PER_AUDIO_S = 7.2e6
"""Kept of the forward pass for each second of a batch (`python -m benches.memory` counts it on a CPU; no GPU has shown it yet)."""
LONGEST_S = 34
SYNTHESIS_CORE_MIN = 18
"""Minutes of one core that the corpus takes to synthesise."""

EPOCHS = (2, 4)
"""To the target, extrapolated from narrower networks (docs/synthetic.md)."""


def expected_minutes(params: Params, card: str | None, processes: int) -> tuple[float, float] | None:
    """From how many to how many minutes a run of `params` (the variant `synthetic`) should take; None for an unknown card.

    `card` is the name that CUDA gives it, `processes` the number of such cards that share the batch. Training alone is counted.
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
    """GPU memory that each of `processes` needs for the longest batch of `synthetic`, in bytes."""
    return FIXED_GPU_BYTES + -(-batch_size // processes) * LONGEST_S * BYTES_PER_AUDIO_S
