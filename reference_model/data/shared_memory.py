"""A batch, and its way from a loader process to the trainer: through memory that both have had from the start.

PyTorch's own way makes new shared memory for every tensor of every batch. The system clears it page by page, which costs as
much as a third of decoding the audio in it. Here the waveforms lie in slots that are used again and again: a batch's is given
back when the batch is forgotten, or has been copied into page-locked memory where there is a GPU. Where no slot is free,
PyTorch's own way is taken.
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

from reference_model import process


@dataclass(frozen=True)
class Batch:
    """One process's share of a global batch, longest utterance first.

    `waveforms` (share, longest) float32 in [-1, 1], zero past an utterance's end; `samples` (share,) their lengths;
    `labels` all label numbers in a row and `label_lengths` (share,) how many are whose; `mask_uniforms` (share, 2, masks) what
    decides SpecAugment's stripes; `indices` positions in the manifest; `global_utterances` the size of the global batch;
    `audio_s` this share's seconds of audio. A process without a share holds another's utterance in its place, of `weight` 0,
    and no `indices`, so that it takes part in the step and adds nothing to it.
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
        """The same in page-locked memory (called by the loader), from which copies to a GPU need not wait."""
        return dataclasses.replace(self, **{name: value.pin_memory() for name, value in _tensors(self).items()})


def _tensors(batch: Batch) -> dict[str, Any]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}


class Slots:
    """Pieces of `slot_bytes` of memory, shared with the processes that are forked later, and which of them are free.

    Memory is taken from the system when it is first written to; it is no file, so that the size of /dev/shm does not limit it.
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
        # Whoever receives a batch had the same slots before the fork.
        return _slots, (self._number,)

    def take(self) -> int | None:
        """A free slot's number, which is then no longer free; None where all are in use."""
        return next((number for number, free in enumerate(self._free) if free.acquire(block=False)), None)

    def give_back(self, number: int) -> None:
        """Slot `number` is free again; any process may say so."""
        self._free[number].release()

    def matrix(self, number: int, rows: int, columns: int) -> np.ndarray:
        """The beginning of slot `number` as (rows, columns) float32, with whatever was left in it."""
        return self._values[number][: rows * columns].reshape(rows, columns)


def _slots(number: int) -> Slots:
    return Slots._by_number[number]


@dataclass(frozen=True)
class SharedBatch:
    """A batch that is sent to the process that made the slots: its waveforms (rows, columns) stay in one, all else travels.

    Unpickled there, it is a Batch; the slot is given back when nothing refers to its waveforms any more.
    """

    slots: Slots
    slot: int
    shape: tuple[int, int]
    arrays: dict[str, np.ndarray]
    rest: dict[str, Any]

    @classmethod
    def of(cls, batch: Batch, slots: Slots, slot: int) -> SharedBatch:
        """`batch`, whose waveforms were written to `slot`."""
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
    weakref.finalize(waveforms, _give_back, slots, slot, os.getpid())
    small = {name: torch.from_numpy(value) for name, value in arrays.items()}
    fields: dict[str, Any] = {"waveforms": torch.from_numpy(waveforms), **small, **rest}
    return Batch(**fields)


def _give_back(slots: Slots, slot: int, receiver: int) -> None:
    # A process that was forked while the batch was in use forgets its own copy, not the batch.
    if os.getpid() == receiver:
        slots.give_back(slot)


def keep_freed_memory(worker: int) -> None:
    """Let a loader process keep what it frees for the next batch."""
    process.keep_freed_memory()
