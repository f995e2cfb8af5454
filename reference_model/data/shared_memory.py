"""A batch, and its transfer from a data loader worker to the trainer through preallocated shared memory.

PyTorch allocates new shared memory for every tensor of every batch. The kernel zeroes it page by page, which costs as
much as a third of decoding the audio in it. Here the waveforms are written to slots that are reused: a batch's slot is
released when the batch is garbage-collected or, with a GPU, has been copied into page-locked memory. If no slot is
free, PyTorch's own transfer is used.
"""

from __future__ import annotations

import dataclasses
import itertools
import mmap
import multiprocessing
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from reference_model import runtime


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch, longest utterance first.

    `waveforms` (share, longest) float32 in [-1, 1], zero past an utterance's end; `samples` (share,) their lengths;
    `labels` the concatenated label numbers, of which each utterance has `label_lengths` (share,); `mask_uniforms`
    (share, 2, masks) the random numbers for SpecAugment; `indices` positions in the manifest; `global_utterances` the
    size of the global batch; `audio_s` this share's seconds of audio. A rank without a share holds an utterance of
    another rank with `weight` 0 and no `indices`, so that it takes part in the step without contributing to it.
    """

    waveforms: Tensor
    samples: Tensor
    labels: Tensor
    label_lengths: Tensor
    mask_uniforms: Tensor
    indices: list[int]
    global_utterances: int
    audio_s: float
    weight: float = 1.0

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory (called by the DataLoader), from which copies to a GPU are asynchronous."""
        return dataclasses.replace(self, **{name: value.pin_memory() for name, value in _tensors(self).items()})


def _tensors(batch: Batch) -> dict[str, Any]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}


class Slots:
    """Slots of `slot_bytes` of memory, shared with the processes that are forked later, and which of them are free.

    The kernel allocates the memory when it is first written. It is not a file, so the size of /dev/shm does not limit
    it.
    """

    _by_number: ClassVar[weakref.WeakValueDictionary[int, Slots]] = weakref.WeakValueDictionary()
    _numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, count: int, slot_bytes: int) -> None:
        context = multiprocessing.get_context("fork")
        self.slot_bytes = slot_bytes
        self._values = [np.frombuffer(mmap.mmap(-1, slot_bytes), np.float32) for _ in range(count)]
        self._free = [context.Semaphore(1) for _ in range(count)]
        self._number = next(Slots._numbers)
        Slots._by_number[self._number] = self

    def __reduce__(self) -> tuple:
        # The receiver of a batch created the same slots before the fork.
        return _slots, (self._number,)

    def take(self) -> int | None:
        """Reserve a free slot and return its number; None where all are in use."""
        return next((number for number, free in enumerate(self._free) if free.acquire(block=False)), None)

    def release(self, number: int) -> None:
        """Mark slot `number` as free; any process may do so."""
        self._free[number].release()

    def matrix(self, number: int, rows: int, columns: int) -> np.ndarray:
        """The start of slot `number` as (rows, columns) float32, uninitialized."""
        return self._values[number][: rows * columns].reshape(rows, columns)


def _slots(number: int) -> Slots:
    return Slots._by_number[number]


@dataclass(frozen=True)
class SharedBatch:
    """A batch on its way to the process that created the slots: waveforms stay in a slot, the rest is pickled.

    Unpickling gives a Batch; the slot is released when its waveforms are garbage-collected.
    """

    slots: Slots
    slot: int
    shape: tuple[int, int]
    arrays: dict[str, np.ndarray]
    rest: dict[str, Any]

    @classmethod
    def of(cls, batch: Batch, slots: Slots, slot: int) -> SharedBatch:
        """`batch`, whose waveforms are in `slot`."""
        small = {name: value.numpy() for name, value in _tensors(batch).items() if name != "waveforms"}
        rest = {name: value for name, value in vars(batch).items() if not isinstance(value, Tensor)}
        rows, columns = batch.waveforms.shape
        return cls(slots, slot, (rows, columns), small, rest)

    def __reduce__(self) -> tuple:
        return _received, (self.slots, self.slot, self.shape, self.arrays, self.rest)


def _received(
    slots: Slots, slot: int, shape: tuple[int, int], arrays: dict[str, np.ndarray], rest: dict[str, Any]
) -> Batch:
    waveforms = slots.matrix(slot, *shape)
    weakref.finalize(waveforms, _release, slots, slot, os.getpid())
    small = {name: torch.from_numpy(value) for name, value in arrays.items()}
    fields: dict[str, Any] = {"waveforms": torch.from_numpy(waveforms), **small, **rest}
    return Batch(**fields)


def _release(slots: Slots, slot: int, receiver: int) -> None:
    # A process that was forked while the batch was in use frees its own copy only.
    if os.getpid() == receiver:
        slots.release(slot)


def keep_freed_memory(worker: int) -> None:
    """Make a data loader worker reuse freed memory for the next batch."""
    runtime.keep_freed_memory()
