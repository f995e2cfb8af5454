"""Background noise for synthesised speech, the same samples on every machine: integers throughout, and one rounding."""

from __future__ import annotations

import numpy as np

from datasets.audio import to_int16

WIDTHS = (1, 4, 16, 64)
"""Samples that each part of the noise is summed over. Each reaches up a fourth as far as the one before, with four times its
amplitude, so that the noise falls by some 6 dB an octave above 125 Hz, as the speech of people in the background does.
"""


def background(samples: int, seed: int) -> np.ndarray:
    """Noise as int64 (samples,), of mean near zero; its level is arbitrary. The same `seed` gives the same noise.

    Uses PCG64's raw output alone, the one stream of numpy's that never changes (NEP 19).
    """
    longest = WIDTHS[-1]
    raw = np.random.PCG64(seed).random_raw(-(-(samples + longest) // 4))
    white = raw.view(np.uint16)[: samples + longest].astype(np.int64) - (1 << 15)
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(white)])
    return sum((sums[width : width + samples] - sums[:samples] for width in WIDTHS), np.zeros(samples, np.int64))


def add_background(speech: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    """int16 `speech` (samples,) with noise whose power lies `snr_db` decibels below the speech's; clipped at full scale."""
    noise = background(len(speech), seed)
    gain = (_power(speech) / _power(noise) / 10 ** (snr_db / 10)) ** 0.5
    return to_int16(speech.astype(np.float64) + noise.astype(np.float64) * gain)


def _power(samples: np.ndarray) -> float:
    """The mean square, summed in whole numbers: the order of a sum of floats depends on the machine."""
    whole = samples.astype(np.int64)
    return int(np.sum(whole * whole)) / len(whole)
