"""Background noise of the synthesised corpora: its level, its spectrum, and the same samples on every machine."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from datasets.synthesis.noise import add_background, background


def power_db(samples):
    return 10 * np.log10(np.mean(np.square(samples.astype(np.float64))))


@pytest.mark.parametrize("snr_db", [0.0, 5.0, 25.0])
def test_the_noise_has_the_requested_signal_to_noise_ratio(snr_db):
    speech = np.rint(2000 * np.sin(np.arange(48_000) / 7)).astype(np.int16)
    noise = add_background(speech, snr_db, seed=3).astype(np.int32) - speech
    assert power_db(speech) - power_db(noise) == pytest.approx(snr_db, abs=0.05)


def test_the_spectrum_falls_by_about_six_decibels_per_octave():
    spectrum = np.abs(np.fft.rfft(background(1 << 18, 5).astype(np.float64))) ** 2
    hz = np.fft.rfftfreq(1 << 18, 1 / 16_000)
    bands = [spectrum[(hz >= low) & (hz < 2 * low)].mean() for low in (250, 500, 1000, 2000)]
    falls = -10 * np.diff(np.log10(bands))
    assert all(3 < fall < 8 for fall in falls), falls


def test_the_noise_depends_only_on_the_seed():
    assert not np.array_equal(background(1000, 1), background(1000, 2))
    assert np.array_equal(background(1000, 1), background(2000, 1)[:1000])
    # Integers from PCG64's raw output: another value here means that all corpora made from now on differ.
    known = "d01e73031e2a224761e6003dc6edee4bd2461da369eeb95deb84644fc51834ea"
    assert hashlib.sha256(background(1000, 1).tobytes()).hexdigest() == known


def test_samples_beyond_full_scale_are_clipped():
    speech = np.full(1000, 32_000, np.int16)
    mixed = add_background(speech, 6.0, seed=1)
    unclipped = speech + add_background(speech // 2, 6.0, seed=1).astype(np.int32) * 2 - speech // 2 * 2
    assert mixed.dtype == np.int16 and mixed.max() == 32_767
    # Overflowing samples are clipped to the maximum instead of wrapping around.
    assert np.all(mixed[unclipped > 32_800] == 32_767) and (unclipped > 32_800).sum() > 100
