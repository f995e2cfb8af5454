"""Audio in and out: any FLAC or WAV to 16 kHz mono, and 16 kHz mono to FLAC."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
import soxr

from .errors import UserError
from .manifest import SAMPLE_RATE_HZ

_FULL_SCALE = 32768


def read(path: Path) -> tuple[np.ndarray, int]:
    """The whole of an audio file as float64 (samples, channels) in [-1, 1], and its sample rate in Hz.

    A missing, unreadable, empty or truncated file, or one with values that are no numbers, is a UserError.
    """
    remedy = "give a whole FLAC or WAV file, or leave it out"
    try:
        with soundfile.SoundFile(path) as file:
            samples = file.read(dtype="float64", always_2d=True)
            announced, rate_hz = file.frames, file.samplerate
    except (soundfile.SoundFileError, RuntimeError) as error:
        if not Path(path).is_file():
            raise UserError("no such audio file", where=path) from None
        raise UserError(f"the audio cannot be read ({_reason(error)})", where=path, remedy=remedy) from None
    if len(samples) != announced:
        raise UserError(f"the audio is truncated: {len(samples)} of {announced} samples", where=path, remedy=remedy)
    if not len(samples):
        raise UserError("the audio is empty", where=path, remedy=remedy)
    if not np.isfinite(samples).all():
        raise UserError("the audio holds values that are not numbers", where=path, remedy=remedy)
    return samples, rate_hz


def to_16k(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Mono float samples (samples,) in [-1, 1] at `rate_hz` as int16 at 16 kHz; what resampling drives over is clipped.

    The double-precision quality is asked for, so that rounding to 16 bits gives the same samples on all machines.
    """
    if rate_hz != SAMPLE_RATE_HZ:
        samples = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, quality="VHQ")
    scaled = np.rint(samples * _FULL_SCALE)
    return np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def write_flac(path: Path, samples: np.ndarray) -> None:
    """Write int16 samples (samples,) at 16 kHz as a FLAC file; OSError where the disk refuses.

    Encoded in memory, since libsndfile does not report a full disk; at the level whose predictors need no floating
    point, so that the bytes do not depend on the machine.
    """
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16", compression_level=0.0)
    Path(path).write_bytes(encoded.getvalue())


def _reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", error)).rstrip(".")
    return text.removeprefix("Error : ").strip() or type(error).__name__
