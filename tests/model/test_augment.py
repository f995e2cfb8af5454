"""Augmentation: reproducible draws, gain, noise at its level, masks within their bounds."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmark.params import load_variant
from common.errors import UserError
from reference_model.data.augment import (
    Draw,
    add_noise,
    augment_waveforms,
    draw,
    find_noise,
    mask_uniforms,
    spec_augment,
)
from reference_model.data.tempo import change_tempo, samples_after

CLOSED = load_variant("librispeech").augment
OPEN = load_variant("librispeech_open").augment


def tone(frequency_hz: float, seconds: float) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * frequency_hz * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


def test_draws_depend_on_seed_epoch_and_utterance_and_stay_in_range():
    drawn = [draw(CLOSED, seed, epoch, index) for seed in (1, 2) for epoch in (1, 2) for index in range(200)]
    assert len({d.tempo for d in drawn}) == len(drawn)
    assert draw(CLOSED, 1, 2, 3) == draw(CLOSED, 1, 2, 3)
    tempos, gains = [d.tempo for d in drawn], [d.gain_db for d in drawn]
    assert 0.85 <= min(tempos) < 0.87 < 1.13 < max(tempos) <= 1.15
    assert -6 <= min(gains) < -5.5 < 7.5 < max(gains) <= 8
    assert all(d.noise_level is None for d in drawn)


def altered(waveform: np.ndarray, drawn: Draw, noise_files: tuple[Path, ...] = ()) -> np.ndarray:
    row = np.full(samples_after(len(waveform), drawn.tempo), np.nan, np.float32)
    augment_waveforms([waveform], [len(waveform)], [drawn], [row], noise_files)
    return row


def test_gain_is_in_decibels_and_clips():
    waveform = tone(440, 0.1)
    louder = altered(waveform, Draw(1.0, 6.0, None, 0))
    np.testing.assert_allclose(louder, waveform * 10 ** (6 / 20), rtol=1e-5)
    assert np.abs(altered(waveform, Draw(1.0, 20.0, None, 0))).max() == 1.0


def test_noise_is_added_after_the_tempo_change(tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "hiss.wav", 0.02 * rng.standard_normal(64_000), 16_000)
    files = find_noise(dataclasses.replace(CLOSED, noise_dir=str(tmp_path)))
    speech = tone(440, 1.0)
    gain = np.float32(10 ** (-6 / 20))
    expected = add_noise(change_tempo(speech, 1.1) * gain, 0.5, files, seed=3)
    np.testing.assert_array_equal(altered(speech, Draw(1.1, -6.0, 0.5, 3), files), expected)


def test_noise_is_added_at_its_level(tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "hiss.wav", 0.02 * rng.standard_normal(64_000), 16_000)
    speech = tone(440, 1.0)
    noisy = add_noise(speech, 0.5, find_noise(dataclasses.replace(CLOSED, noise_dir=str(tmp_path))), seed=3)
    added = noisy - speech
    assert np.sqrt(np.mean(added**2)) == pytest.approx(0.5 * np.sqrt(np.mean(speech**2)), rel=0.03)


def test_noise_is_drawn_with_its_probability():
    noisy = dataclasses.replace(CLOSED, noise_dir="somewhere")
    levels = [draw(noisy, 0, 1, index).noise_level for index in range(2000)]
    drawn = [level for level in levels if level is not None]
    assert 0.36 < len(drawn) / 2000 < 0.44
    assert min(drawn) >= 0
    assert max(drawn) <= 0.5


def test_unusable_noise_recordings_are_named(tmp_path):
    with pytest.raises(UserError, match="no noise recordings"):
        find_noise(dataclasses.replace(CLOSED, noise_dir=str(tmp_path)))
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    with pytest.raises(UserError, match=r"short\.wav"):
        add_noise(tone(440, 1.0), 0.5, (tmp_path / "short.wav",), seed=0)
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    with pytest.raises(UserError, match=r"broken\.wav"):
        add_noise(tone(440, 1.0), 0.5, (tmp_path / "broken.wav",), seed=0)


def test_a_noise_recording_may_have_any_name(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    soundfile.write(os.fsencode(path), tone(440, 2.0), 16_000)
    speech = tone(440, 1.0)
    assert not np.array_equal(add_noise(speech, 0.5, (path,), seed=0), speech)


def test_masks_are_stripes_of_zeros_within_their_bounds():
    frames = torch.tensor([400, 60, 5])
    values = torch.ones(3, 161, 400)
    uniforms = torch.stack([torch.from_numpy(mask_uniforms(OPEN, 1, 1, index)) for index in range(3)])
    masked = spec_augment(values, frames, OPEN, 0.01, uniforms)
    assert set(masked.unique().tolist()) <= {0.0, 1.0}
    for row, count in zip(masked, frames, strict=True):
        whole_bins = (row == 0).all(1).sum()
        whole_frames = (row == 0).all(0).sum()
        assert whole_bins <= 2 * 27
        assert whole_frames <= 2 * min(50, int(count) // 5)
        assert torch.equal(row == 0, (row == 0).all(1)[:, None] | (row == 0).all(0)[None, :])
    assert (masked[0] == 0).any()
