"""Tempo change: exact lengths, the same pitch, smooth joints, and independence from the rest of the batch."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import soundfile
import soxr

from reference_model.data.tempo import change_tempo, change_tempos, samples_after
from tests.conftest import DATA

RATE_HZ = 16_000


def tone(frequency_hz: float, seconds: float) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * frequency_hz * np.arange(int(RATE_HZ * seconds)) / RATE_HZ)).astype(np.float32)


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """A glottal buzz of varying pitch in syllables, with a little noise: as periodic and as irregular as speech."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(RATE_HZ * seconds)) / RATE_HZ
    phase = 2 * np.pi * np.cumsum(110 + 30 * np.sin(2 * np.pi * 0.7 * time_s + rng.uniform(0, 6))) / RATE_HZ
    buzz = sum(np.sin(number * phase) / number for number in range(1, 20))
    syllables = np.abs(np.sin(2 * np.pi * 2 * time_s + rng.uniform(0, 6)))
    return (0.2 * buzz * syllables + 0.01 * rng.standard_normal(len(time_s))).astype(np.float32)


def loudest_hz(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * RATE_HZ / len(waveform))


def decibels(waveform: np.ndarray) -> np.ndarray:
    """(windows, bins): the spectrum of each 20 ms, every 10 ms."""
    windows = np.lib.stride_tricks.sliding_window_view(waveform, 320)[::160]
    return 20 * np.log10(np.abs(np.fft.rfft(windows * np.hamming(320), axis=1)) + 1e-2)


@pytest.mark.parametrize("tempo", [0.85, 0.97, 1.08, 1.15])
@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.4, 3.0])
def test_tempo_changes_the_length_exactly_and_the_pitch_not(tempo, seconds):
    waveform = tone(440, seconds)
    changed = change_tempo(waveform, tempo)
    assert len(changed) == samples_after(len(waveform), tempo) == round(len(waveform) / tempo)
    assert changed.dtype == np.float32
    if seconds > 0.2:
        assert loudest_hz(changed) == pytest.approx(440, abs=4)
        inner = changed[1000:-3000]
        assert np.sqrt(np.mean(inner**2)) == pytest.approx(0.4 / 2**0.5, rel=0.05)


@pytest.mark.parametrize("frequency_hz", [300, 3000, 6500])
def test_segments_are_joined_without_clicks_or_gaps(frequency_hz):
    waveform = tone(frequency_hz, 2.0)
    changed = change_tempo(waveform, 1.13)[:-3000]
    assert np.abs(np.diff(changed)).max() < 1.3 * np.abs(np.diff(waveform)).max()
    loudness = np.sqrt(np.mean(changed[: len(changed) // 160 * 160].reshape(-1, 160) ** 2, axis=1))
    assert loudness.min() > 0.8 * 0.4 / 2**0.5


def test_segments_come_from_the_expected_positions():
    waveform = voice(4.0)
    for tempo in (0.86, 1.14):
        changed = change_tempo(waveform, tempo)
        for at_s in (0.5, 1.5, 2.5):
            # A part from the middle of a segment is a part of the input, within the search range.
            segment = round(at_s * RATE_HZ / 1120)
            piece = changed[segment * 1120 + 300 : segment * 1120 + 1000]
            due = round(segment * 1120 * tempo) + 300
            found = np.lib.stride_tricks.sliding_window_view(waveform[due - 118 : due + 118 + 700], 700)
            assert np.abs(found - piece).max(1).min() == 0


def test_tempo_keeps_speech_like_sweeps_in_order():
    time_s = np.arange(32_000) / RATE_HZ
    sweep = np.sin(2 * np.pi * (200 * time_s + 200 * time_s**2)).astype(np.float32)
    slow = change_tempo(sweep, 0.85)
    third = len(slow) // 3
    assert loudest_hz(slow[:third]) < loudest_hz(slow[third : 2 * third]) < loudest_hz(slow[2 * third :])


def test_an_utterance_is_the_same_alone_and_in_any_batch():
    rng = np.random.default_rng(1)
    waveforms = [voice(seconds, number) for number, seconds in enumerate(rng.uniform(0.3, 4.0, 24))]
    waveforms[5][:] = 0
    waveforms[7] = np.round(waveforms[7] * 20).astype(np.float32) / 2**15
    tempos = rng.uniform(0.85, 1.15, len(waveforms)).tolist()
    tempos[3] = 1.0
    alone = [change_tempo(waveform, tempo) for waveform, tempo in zip(waveforms, tempos, strict=True)]
    for order in (range(24), reversed(range(24)), [7], [4, 3], rng.permutation(24)[:9]):
        chosen = list(order)
        samples = [len(waveforms[i]) for i in chosen]
        together = change_tempos((waveforms[i] for i in chosen), samples, [tempos[i] for i in chosen])
        for index, changed in zip(chosen, together, strict=True):
            np.testing.assert_array_equal(changed, alone[index])


def test_a_tempo_of_one_and_silence_change_nothing():
    waveform = voice(1.0)
    np.testing.assert_array_equal(change_tempo(waveform, 1.0), waveform)
    assert not change_tempo(np.zeros(20_000, np.float32), 0.9).any()


def test_real_speech_agrees_with_sox(tmp_path):
    if not shutil.which("sox"):
        pytest.skip("sox is not installed")
    recordings = sorted((DATA / "fsdd" / "recordings").glob("*.wav"))
    assert len(recordings) == 60
    distances = []
    for number, tempo in enumerate((0.85, 0.93, 1.07, 1.15)):
        chosen = recordings[number * 15 : number * 15 + 15]
        speech = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in chosen])
        soundfile.write(tmp_path / "speech.wav", soxr.resample(speech, 8000, RATE_HZ), RATE_HZ, subtype="PCM_16")
        sox = ["sox", tmp_path / "speech.wav", "-e", "float", "-b", "32", tmp_path / "sox.wav", "tempo", str(tempo)]
        subprocess.run(sox, check=True)
        theirs = soundfile.read(tmp_path / "sox.wav", dtype="float32")[0]
        ours = change_tempo(soundfile.read(tmp_path / "speech.wav", dtype="float32")[0], tempo)
        assert len(ours) == len(theirs)
        distances.append(np.sqrt(((decibels(ours) - decibels(theirs)) ** 2).mean(1)).mean())
    # sox's own quick search (`tempo -q`) differs by 2.7 dB from its full one, two different utterances by about 10 dB.
    assert np.mean(distances) < 2.5
