"""The roofline of a training step: measured ceilings of GPUs, and the throughput that they allow.

A roofline (Williams, Waterman and Patterson 2009): the time is at least the operations over the matrix units' rate,
and at least the stated memory traffic over the memory's bandwidth. The traffic counted here is that of the recurrent
weights alone, read from memory for each output frame, forward and backward. A kernel that keeps no weights on the
chip has that traffic. It is not a physical limit: a kernel that keeps them in registers and shared memory, or finds
part of a layer's 39 MB in the L2 cache (50 MB on an H100, 60 MB on an H200), may be faster, with a roofline fraction
above 1. Activations, the other weights and the optimizer state are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ceilings:
    """A GPU's measured ceilings.

    Dense matrix products in FLOP/s by precision, memory bandwidth (read and write) in bytes/s.
    """

    flops_per_s: dict[str, float]
    bytes_per_s: float


MEASURED = {
    "NVIDIA H100 80GB HBM3": Ceilings({"bf16": 798e12}, 3.0e12),
    "NVIDIA H200": Ceilings({"bf16": 790e12, "tf32": 412e12, "fp32": 51e12}, 4.3e12),
}
"""By the GPU's name in CUDA. Measured with products of 8192 x 8192 matrices of random numbers, large copies in memory.

For any other GPU the log has null; `benches gpu` measures its ceilings.
"""


@dataclass(frozen=True)
class Work:
    """Training work per second of audio. A multiplication and an addition count as two FLOP.

    `recurrent_weights` is the number of values read at each output frame, `frames` the number of output frames.
    """

    flops: float
    recurrent_weights: int
    frames: float


def roofline_audio_s_per_s(work: Work, batch: int, precision: str, ceilings: Ceilings) -> float | None:
    """Seconds of audio per second at the roofline of one GPU, in batches of `batch`; None if the ceiling is unknown."""
    rate = ceilings.flops_per_s.get(precision)
    if rate is None:
        return None
    value_bytes = 2 if precision == "bf16" else 4
    # Forward and backward pass each read the weights once per frame of the whole batch.
    traffic_bytes = 2 * work.frames / batch * work.recurrent_weights * value_bytes
    return 1 / max(work.flops / rate, traffic_bytes / ceilings.bytes_per_s)
