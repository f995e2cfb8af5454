"""Batches in shared slots: complete, slots reused, never blocking, and never required."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle

import numpy as np
import pytest
import torch

from common.errors import UserError
from reference_model.data import data_loader
from reference_model.data.data_loader import Order, Recordings, loader
from reference_model.data.shared_memory import Batch, SharedBatch, Slots
from tests.support.corpus import tiny_corpus, tiny_params


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    corpus = tiny_corpus(tmp_path_factory.mktemp("data") / "tiny", train=48)
    return Recordings(corpus.manifest("train"), tiny_params(augment__tempo_min=0.9).augment, seed=1)


def batches_of(recordings: Recordings, size: int) -> list[np.ndarray]:
    positions = np.arange(len(recordings.samples))
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def order_of(recordings: Recordings, size: int) -> Order:
    order = Order()
    order.set(1, batches_of(recordings, size))
    return order


def assert_same(one: Batch, other: Batch) -> None:
    for name, value in vars(one).items():
        if isinstance(value, torch.Tensor):
            assert value.equal(getattr(other, name)), name
            assert value.dtype == getattr(other, name).dtype, name
        else:
            assert value == getattr(other, name), name


def test_a_batch_arrives_and_its_slot_is_released():
    slots = Slots(2, 4 * 6)
    batch = Batch(
        torch.arange(6.0).reshape(2, 3),
        torch.tensor([3, 2]),
        torch.tensor([1, 2], dtype=torch.int32),
        torch.tensor([1, 1]),
        torch.zeros(2, 2, 0),
        [4, 7],
        2,
        0.5,
    )
    reading, writing = multiprocessing.get_context("fork").Pipe(duplex=False)

    def work() -> None:
        slot = slots.take()
        slots.matrix(slot, 2, 3)[:] = batch.waveforms.numpy()
        writing.send_bytes(pickle.dumps(SharedBatch.of(batch, slots, slot)))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    received = pickle.loads(reading.recv_bytes())
    process.join()
    free = slots.take()
    assert free is not None and slots.take() is None
    assert_same(received, batch)
    if os.fork() == 0:
        del received
        os._exit(0)
    os.wait()
    assert slots.take() is None, "another process that forgets the batch does not free the slot"
    kept = received.waveforms[1:]
    del received
    assert slots.take() is None, "a view of the waveforms is still in use"
    assert kept.equal(batch.waveforms[1:])
    del kept
    assert slots.take() == 1 - free


@pytest.mark.parametrize("size", [3, 8, 40])
def test_many_passes_through_few_slots_give_the_same_batches_as_one_process(recordings, size):
    order = order_of(recordings, size)
    there, here = loader(recordings, order, workers=2, pin=False), loader(recordings, order, workers=0, pin=False)
    for epoch in (1, 2, 3):
        order.set(epoch, batches_of(recordings, size))
        kept = list(there)
        assert len(kept) == len(order) == -(-48 // size)
        for one, other in zip(kept, here, strict=True):
            assert_same(one, other)


def free_slots(slots: Slots) -> int:
    numbers = list(iter(slots.take, None))
    for number in numbers:
        slots.release(number)
    return len(numbers)


@pytest.fixture
def made_slots(monkeypatch) -> list[Slots]:
    made = []
    monkeypatch.setattr(data_loader, "Slots", lambda *sizes: made.append(Slots(*sizes)) or made[-1])
    return made


def test_an_abandoned_pass_does_not_block_the_next(recordings, made_slots):
    order = order_of(recordings, 2)
    batches = loader(recordings, order, workers=1, pin=False)
    expected = list(loader(recordings, order, workers=0, pin=False))
    for _ in range(12):
        passing = iter(batches)
        next(passing)
        passing.close()
    for one, other in zip(batches, expected, strict=True):
        assert_same(one, other)
    (slots,) = made_slots
    count = free_slots(slots)
    del one
    assert free_slots(slots) == count + 1 == len(slots._free)


def test_slots_of_a_batch_that_cannot_be_read_are_released(tmp_path, made_slots):
    corpus = tiny_corpus(tmp_path / "tiny", train=48)
    manifest = corpus.manifest("train")
    manifest.audio_path(manifest.utterances[40]).write_bytes(b"no FLAC")
    recordings = Recordings(manifest, None, seed=1)
    found = list(loader(recordings, order_of(recordings, 4), workers=1, pin=False))
    assert [isinstance(each, UserError) for each in found] == [False] * 8 + [True]
    del found
    (slots,) = made_slots
    assert free_slots(slots) == len(slots._free)


def test_without_a_free_slot_batches_are_transferred_by_pytorch(recordings):
    order = order_of(recordings, 4)
    batches = loader(recordings, order, workers=1, pin=False)
    assert len(list(batches)) == 12
    order.set(1, [np.arange(48)])
    (larger,) = batches
    assert_same(larger, recordings[(1, np.arange(48), np.arange(48))])


def test_chunks_hold_whole_batches_in_order(recordings):
    for size, at_once in ((1, 32), (4, 8), (16, 2), (20, 1), (48, 1)):
        pieces = list(order_of(recordings, size).chunks(at_once))
        assert max(map(len, pieces)) == min(at_once, -(-48 // size))
        assert [item[1][0] for piece in pieces for item in piece] == list(range(0, 48, size))


def test_slots_are_freed_when_nothing_refers_to_them():
    slots = Slots(1, 4)
    number = slots.__reduce__()[1][0]
    assert number in Slots._by_number
    del slots
    gc.collect()
    assert number not in Slots._by_number
