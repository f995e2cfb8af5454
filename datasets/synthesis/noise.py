"""Background noise for synthesised speech, the same samples on every machine: integer arithmetic and one rounding."""

from __future__ import annotations

import numpy as np

from datasets.audio import to_int16

WIDTHS = (1, 4, 16, 64)
"""Moving-sum widths of the noise's components, in samples. Each has a quarter of the previous one's bandwidth and four
times its amplitude, so that the spectrum falls by about 6 dB per octave above 125 Hz, like that of background speech.
"""


def background(samples: int, seed: int) -> np.ndarray:
    """Noise as int64 (samples,) with a mean near zero and arbitrary level; the same `seed` gives the same noise.

    Uses only PCG64's raw output, the one random stream that numpy guarantees not to change (NEP 19).
    """
    longest = WIDTHS[-1]
    raw = np.random.PCG64(seed).random_raw(-(-(samples + longest) // 4))
    white = raw.view(np.uint16)[: samples + longest].astype(np.int64) - (1 << 15)
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(white)])
    return sum((sums[width : width + samples] - sums[:samples] for width in WIDTHS), np.zeros(samples, np.int64))


def add_background(speech: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    """int16 `speech` (samples,) with noise at a signal-to-noise ratio of `snr_db` decibels, clipped at full scale."""
    noise = background(len(speech), seed)
    gain = (_power(speech) / _power(noise) / 10 ** (snr_db / 10)) ** 0.5
    return to_int16(speech.astype(np.float64) + noise.astype(np.float64) * gain)


def _power(samples: np.ndarray) -> float:
    """The mean square, summed in integers because the summation order of floats depends on the machine."""
    whole = samples.astype(np.int64)
    return int(np.sum(whole * whole)) / len(whole)
