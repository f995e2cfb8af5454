"""Features compared with librosa, which the reference uses: single utterances and padded batches."""

from __future__ import annotations

import dataclasses

import librosa
import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from benchmark.params import load_variant
from reference_model.model.features import Features, normalise
from tests.conftest import DATA

PARAMS = load_variant("librispeech").features


def oracle(waveform: np.ndarray) -> np.ndarray:
    """The reference's features by librosa: (161, frames)."""
    spectrum = librosa.stft(
        waveform, n_fft=320, hop_length=160, win_length=320, window=scipy.signal.windows.hamming, pad_mode="reflect"
    )
    values = np.log1p(np.abs(spectrum))
    return (values - values.mean()) / values.std(ddof=1)


def batch_of(waveforms: list[np.ndarray], filler: float) -> tuple[torch.Tensor, torch.Tensor]:
    samples = torch.tensor([len(waveform) for waveform in waveforms])
    padded = torch.full((len(waveforms), int(samples.max())), filler)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform)
    return padded, samples


@pytest.fixture(scope="module")
def noises() -> list[np.ndarray]:
    """Lengths around all edge cases: multiples of the hop, one more, one less, short and long."""
    rng = np.random.default_rng(1)
    lengths = [480, 481, 639, 640, 641, 5_000, 16_000, 16_001, 16_159, 16_160, 40_000]
    return [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in lengths]


def test_each_utterance_alone_equals_librosa(noises):
    features = Features(PARAMS)
    for waveform in noises:
        values, frames = features(*batch_of([waveform], 0.0))
        assert values.shape == (1, 161, 1 + len(waveform) // 160)
        assert frames.tolist() == [1 + len(waveform) // 160]
        np.testing.assert_allclose(values[0].numpy(), oracle(waveform), atol=1e-4)


@pytest.mark.parametrize("filler", [0.0, 5.0, float("nan")])
def test_padding_never_leaks_into_an_utterance(noises, filler):
    values, frames = Features(PARAMS)(*batch_of(noises, filler))
    for row, count, waveform in zip(values, frames, noises, strict=True):
        np.testing.assert_allclose(row[:, :count].numpy(), oracle(waveform), atol=1e-4)
        assert not row[:, count:].any()


def test_real_recordings_equal_librosa():
    files = sorted((DATA / "fsdd" / "recordings").glob("*.wav"))[::2]
    waveforms = [
        librosa.resample(soundfile.read(file, dtype="float32")[0], orig_sr=8000, target_sr=16000) for file in files
    ]
    values, frames = Features(PARAMS)(*batch_of(waveforms, 0.0))
    assert len(waveforms) == 30
    for row, count, waveform in zip(values, frames, waveforms, strict=True):
        np.testing.assert_allclose(row[:, :count].numpy(), oracle(waveform), atol=1e-4)


def test_normalised_features_have_mean_zero_and_unbiased_std_one(noises):
    values, frames = Features(PARAMS)(*batch_of(noises, 0.0))
    for row, count in zip(values, frames, strict=True):
        own = row[:, :count].double()
        assert abs(own.mean()) < 1e-5
        assert abs(own.std() - 1) < 1e-5


def test_digital_silence_gives_zeros_not_nan():
    values, _ = Features(PARAMS)(torch.zeros(1, 8000), torch.tensor([8000]))
    assert torch.equal(values, torch.zeros_like(values))


def test_normalise_counts_valid_frames_only():
    values = torch.tensor([[[1.0, 3.0, 100.0]]])
    result = normalise(values, torch.tensor([2]))
    np.testing.assert_allclose(result[0, 0].numpy(), [-(0.5**0.5), 0.5**0.5, 0], atol=1e-6)


def test_mfcc_has_its_own_bins_and_the_same_frames(noises):
    features = Features(dataclasses.replace(PARAMS, kind="mfcc"))
    alone, _ = features(*batch_of(noises[6:7], 0.0))
    together, frames = features(*batch_of(noises, 0.0))
    assert alone.shape == (1, 13, 101)
    assert frames[6] == 101
    np.testing.assert_allclose(together[6, :, :101].numpy(), alone[0].numpy(), atol=1e-4)
