"""The data loader: order of batches, each rank's share, padding, and audio that differs from the manifest."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile

from benchmark.params import load_variant
from common.errors import UserError
from datasets.manifest import read_jsonl
from reference_model.data.data_loader import Order, Recordings, evaluation_order, loader, training_order
from tests.support.corpus import tiny_corpus, tiny_params


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("data") / "tiny")


def lengths(count: int = 500) -> np.ndarray:
    return np.sort(np.random.default_rng(0).uniform(1, 16, count))


def test_sorted_order_is_by_length_and_the_same_each_epoch():
    params = load_variant("librispeech")
    first, second = (training_order(params, lengths(), seed=1, epoch=epoch) for epoch in (1, 2))
    assert np.array_equal(np.concatenate(first), np.arange(500))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_buckets_visit_every_utterance_once_in_batches_of_similar_length():
    params = load_variant("librispeech_open")
    durations = lengths(5_000)
    first, second, third = (training_order(params, durations, seed=1, epoch=epoch) for epoch in (1, 2, 3))
    assert np.array_equal(np.concatenate(first), np.arange(5_000))
    assert sorted(np.concatenate(second)) == list(range(5_000))
    assert [b.tolist() for b in second] != [b.tolist() for b in third]
    padded = sum(durations[batch].max() * len(batch) for batch in second)
    assert padded / durations.sum() < 1.05
    assert [b.tolist() for b in second] == [b.tolist() for b in training_order(params, durations, seed=1, epoch=2)]
    assert [b.tolist() for b in second] != [b.tolist() for b in training_order(params, durations, seed=2, epoch=2)]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_evaluation_covers_every_utterance_exactly_once(size):
    dealt = [index for rank in range(size) for batch in evaluation_order(103, 8, rank, size) for index in batch]
    assert sorted(dealt) == list(range(103))


def test_shares_of_a_batch_are_disjoint_complete_and_equally_padded(corpus):
    manifest = corpus.manifest("train")
    recordings = Recordings(manifest, tiny_params(augment__tempo_min=0.85, augment__tempo_max=1.15).augment, seed=1)
    batch = np.arange(8, 16)
    shares = [recordings[(1, batch, batch[rank::2])] for rank in range(2)]
    whole = recordings[(1, batch, batch)]
    assert sorted(shares[0].indices + shares[1].indices) == list(range(8, 16))
    assert shares[0].waveforms.shape[1] == shares[1].waveforms.shape[1] == whole.waveforms.shape[1]
    by_index = dict(zip(whole.indices, whole.waveforms, strict=True))
    for share in shares:
        assert share.global_utterances == 8
        for index, waveform in zip(share.indices, share.waveforms, strict=True):
            assert waveform.equal(by_index[index])


def test_batches_are_the_same_from_any_number_of_workers(corpus):
    recordings = Recordings(corpus.manifest("train"), tiny_params().augment, seed=1)
    order = Order()
    order.set(2, [np.arange(0, 8), np.arange(8, 24)])
    here = list(loader(recordings, order, workers=0, pin=False))
    there = list(loader(recordings, order, workers=2, pin=False))
    assert len(here) == len(there) == 2
    for a, b in zip(here, there, strict=True):
        assert a.waveforms.equal(b.waveforms)
        assert a.labels.equal(b.labels)
        assert a.indices == b.indices


def test_a_rank_without_a_share_of_a_small_batch_contributes_nothing(corpus):
    recordings = Recordings(corpus.manifest("train"), tiny_params().augment, seed=1)
    order = Order()
    shares = []
    for rank in range(3):
        order.set(1, [np.arange(4), np.arange(4, 6)], rank=rank, size=3)
        shares.append(list(loader(recordings, order, workers=0, pin=False)))
    assert [len(share) for share in shares] == [2, 2, 2], "every process takes every step"
    assert [(share[1].indices, share[1].weight) for share in shares] == [([4], 1.0), ([5], 1.0), ([], 0.0)]
    assert (shares[2][1].audio_s, shares[2][1].global_utterances, len(shares[2][1].waveforms)) == (0.0, 2, 1)


def test_epochs_augment_audio_differently_and_evaluation_does_not(corpus):
    manifest = corpus.manifest("train")
    altered = Recordings(manifest, load_variant("librispeech").augment, seed=1)
    batch = np.arange(4)
    first, again, second = altered[(1, batch, batch)], altered[(1, batch, batch)], altered[(2, batch, batch)]
    assert first.waveforms.equal(again.waveforms)
    assert first.samples.tolist() != second.samples.tolist()
    plain = Recordings(manifest, None, seed=1)[(1, batch, batch)]
    longest = manifest.utterances[plain.indices[0]]
    expected, _ = soundfile.read(manifest.audio_path(longest), dtype="float32")
    np.testing.assert_array_equal(plain.waveforms[0, : len(expected)].numpy(), expected)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated", "longer", "stereo", "rate"])
def test_wrong_audio_is_named_whichever_process_reads_it(tmp_path, damage, workers):
    corpus = tiny_corpus(tmp_path / "tiny", train=4, val=1)
    manifest = corpus.manifest("train")
    path = manifest.audio_path(manifest.utterances[2])
    audio, rate_hz = soundfile.read(path)
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"fLaC and then nothing of the kind" * 50)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "longer":
        soundfile.write(path, np.concatenate([audio, audio]), rate_hz)
    elif damage == "stereo":
        soundfile.write(path, np.stack([audio, audio], 1), rate_hz)
    elif damage == "rate":
        soundfile.write(path, audio, 8000)
    order = Order()
    order.set(1, [np.arange(4)])
    (result,) = loader(Recordings(manifest, None, seed=1), order, workers=workers, pin=False)
    assert isinstance(result, UserError)
    assert str(path) in str(result)
    assert "verify" in str(result)


def test_a_folder_whose_name_is_not_utf8_is_read(tmp_path):
    corpus = tiny_corpus(tmp_path / "tiny", train=2, val=1)
    folder = corpus.folder.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    manifest = read_jsonl(folder / "tiny_train_manifest.jsonl")
    read = Recordings(manifest, None, seed=1)[(1, np.arange(2), np.arange(2))]
    assert read.samples.tolist() == [round(manifest.utterances[i].duration_s * 16_000) for i in read.indices]


def test_buckets_use_the_lengths_after_augmentation(corpus):
    params = tiny_params(augment__tempo_min=0.85, augment__tempo_max=1.15, train__order="sorted_then_buckets")
    recordings = Recordings(corpus.manifest("train"), params.augment, seed=3)
    lengths = recordings.augmented_samples(2)
    for batch in training_order(params, lengths, seed=3, epoch=2):
        read = recordings[(2, batch, batch)]
        assert dict(zip(read.indices, read.samples.tolist(), strict=True)) == {int(i): lengths[i] for i in batch}
    untouched = Recordings(corpus.manifest("train"), tiny_params().augment, seed=3)
    assert np.array_equal(untouched.augmented_samples(2), untouched.samples)
