"""Reading and writing audio: FLAC or WAV at any sample rate to 16 kHz mono, and 16 kHz mono to FLAC."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import soundfile
import soxr

from common.errors import UserError
from datasets.manifest import SAMPLE_RATE_HZ

MAX_DURATION_S = 120.0
"""More than three times LibriSpeech's longest utterance: a longer file has probably not been cut into utterances."""

_REMEDY = "give a complete FLAC or WAV file, or leave it out"
_FULL_SCALE = 32768
_UNKNOWN_LENGTH = (0, 0xFFFFFFFF)


def read(path: Path) -> tuple[np.ndarray, int]:
    """An audio file as float64 (samples, channels) in [-1, 1], and its sample rate in Hz.

    UserError if the file is missing, unreadable, neither FLAC nor WAV, empty, truncated, longer than MAX_DURATION_S, or
    holds values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("no such audio file", where=path)
    try:
        _check_container(path)
        with soundfile.SoundFile(os.fsencode(path)) as file:
            samples = _read_all(file, path)
            rate_hz = file.samplerate
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise UserError(f"the audio cannot be read ({reason(error)})", where=path, remedy=_REMEDY) from None
    except OSError as error:
        raise UserError(f"the audio cannot be read ({error.strerror})", where=path, remedy=_REMEDY) from None
    if not len(samples):
        raise UserError("the audio is empty", where=path, remedy=_REMEDY)
    if not np.isfinite(samples).all():
        raise UserError("the audio holds values that are not finite numbers", where=path, remedy=_REMEDY)
    return samples, rate_hz


def to_16k(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Mono float samples (samples,) in [-1, 1] at `rate_hz` as int16 at 16 kHz; resampling overshoot is clipped.

    Resamples at soxr's double-precision quality, so that rounding to 16 bits gives the same samples on all machines.
    """
    if rate_hz != SAMPLE_RATE_HZ:
        samples = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, quality="VHQ")
    return to_int16(samples * _FULL_SCALE)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Float samples (samples,) at 16-bit scale, rounded and clipped to int16."""
    return np.clip(np.rint(samples), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def write_flac(path: Path, samples: np.ndarray) -> None:
    """Write int16 samples (samples,) at 16 kHz as a FLAC file; OSError if the write fails.

    Encodes in memory because libsndfile does not report a full disk, and at the compression level whose predictors need
    no floating point, so that the bytes do not depend on the machine.
    """
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16", compression_level=0.0)
    Path(path).write_bytes(encoded.getvalue())


def _read_all(file: soundfile.SoundFile, path: Path) -> np.ndarray:
    # Read at most the longest duration allowed: a damaged header can announce terabytes.
    longest = int(MAX_DURATION_S * file.samplerate)
    samples = file.read(longest + 1, dtype="float64", always_2d=True)
    if len(samples) > longest:
        raise UserError(f"the audio is longer than {MAX_DURATION_S:.0f} s", where=path, remedy="cut it into utterances")
    if len(samples) < file.frames < 1 << 40:  # a FLAC stream of unknown length announces 2^63 - 1
        raise UserError(f"the audio is truncated: {len(samples)} of {file.frames} samples", where=path, remedy=_REMEDY)
    return samples


def _check_container(path: Path) -> None:
    """UserError if the file is neither FLAC nor WAV, or a WAV truncated in its data.

    libsndfile accepts almost anything as MP3, and does not report the missing end of a WAV.
    """
    with open(path, "rb") as stream:
        head = stream.read(12)
        if head[:4] == b"fLaC" or (head[:4] == b"RF64" and head[8:] == b"WAVE"):
            return
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            raise UserError("the audio is neither FLAC nor WAV", where=path, remedy=_REMEDY)
        size = os.fstat(stream.fileno()).st_size
        while len(chunk := stream.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            present = size - stream.tell()
            if name == b"data":
                if length > present and length not in _UNKNOWN_LENGTH:
                    raise UserError(f"the audio is truncated: {present} of {length} bytes", where=path, remedy=_REMEDY)
                return
            stream.seek(length + length % 2, os.SEEK_CUR)


def reason(error: Exception) -> str:
    """libsndfile's error message without the file name."""
    text = str(getattr(error, "error_string", error)).rstrip(".")
    return text.removeprefix("Error : ").strip() or type(error).__name__
