"""Output sizes of the network's two convolutions, in frames (time) and bins (frequency).

The network is in `reference_model`; its geometry is here because a corpus may only hold utterances that are long enough
for their text. There is no padding in time or frequency.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

KERNELS = ((41, 11), (21, 11))
"""(frequency, time) extent of the two convolutions."""
STRIDES = ((2, 2), (2, 1))
"""(frequency, time) strides of the two convolutions."""
FRAMES_APART = STRIDES[0][1] * STRIDES[1][1]
"""Feature frames from one output frame to the next: the total stride in time."""
SMALLEST_BINS = KERNELS[0][0] + STRIDES[0][0] * (KERNELS[1][0] - 1)
"""Fewest feature bins that both convolutions accept; fewer (MFCC) are zero-padded to this many."""
FEWEST_FRAMES = KERNELS[0][1] + STRIDES[0][1] * (KERNELS[1][1] - 1)
"""Fewest feature frames that give an output frame."""

_Size = TypeVar("_Size")


def output_frames(frames: _Size) -> _Size:
    """Output frames for `frames` feature frames (a number, an array or a tensor); 0 or less means no output."""
    return _after_both(frames, 1)


def ctc_frames_needed(labels: Sequence[object]) -> int:
    """The output frames that CTC needs for `labels` (or a text): one each, and a blank between repeats (Graves 2006)."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))


def output_bins(bins: int) -> int:
    """Output bins of each channel for `bins` feature bins."""
    return _after_both(bins, 0)


def bins_between(bins: int) -> int:
    """Bins after the first convolution."""
    return _after(bins, KERNELS[0][0], STRIDES[0][0])


def _after_both(size: Any, axis: int) -> Any:
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        size = _after(size, kernel[axis], stride[axis])
    return size


def _after(size: Any, kernel: int, stride: int) -> Any:
    return (size - kernel) // stride + 1
