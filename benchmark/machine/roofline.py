"""What a GPU could do at most: measured ceilings of cards, and the roofline of a step of training.

A roofline (Williams, Waterman and Patterson 2009): the time is at least the operations over the matrix units' rate, and at least
the stated memory traffic over the memory's bandwidth. The traffic that is stated here is that of the recurrent weights
alone, read from memory anew for each output frame, forward and backward. It is what a kernel streams that keeps no weights on
the chip, and no law of nature: one that holds them in registers and shared memory, or finds some of a layer's 39 MB in the cache
(50 MB on an H100, 60 MB on an H200), may go faster, and its fraction of this roofline exceed 1. Activations, the other
weights and the optimiser's state are left out.
"""

from __future__ import annotations

from dataclasses import dataclass


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


def roofline_audio_s_per_s(work: Work, batch: int, precision: str, ceilings: Ceilings) -> float | None:
    """Seconds of audio a second at the roofline of one card, in batches of `batch`; None where the ceiling is not known."""
    rate = ceilings.flops_per_s.get(precision)
    if rate is None:
        return None
    value_bytes = 2 if precision == "bf16" else 4
    # Forward and backward each read the weights once for a frame of the whole batch.
    traffic_bytes = 2 * work.frames / batch * work.recurrent_weights * value_bytes
    return 1 / max(work.flops / rate, traffic_bytes / ceilings.bytes_per_s)
