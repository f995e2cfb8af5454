"""The length of a FLAC file is read without decoding, and damage is detected."""

import io

import numpy as np
import pytest
import soundfile

from common.errors import UserError
from datasets import flac


def make(samples: int, seed: int = 0, rate: int = 16_000) -> bytes:
    rng = np.random.default_rng(seed)
    wave = (np.sin(np.arange(samples) / 9) * 8000 + rng.normal(0, 300, samples)).astype(np.int16)
    out = io.BytesIO()
    soundfile.write(out, wave, rate, format="FLAC")
    return out.getvalue()


@pytest.mark.parametrize("samples", [1, 100, 255, 256, 4095, 4096, 4097, 8192, 70_000, 16_000 * 36, 700_001])
def test_header_and_end_are_read_without_decoding(samples: int, monkeypatch: pytest.MonkeyPatch):
    data = make(samples, samples)
    info = flac.read_info(data, "file")
    assert (info.samples, info.sample_rate_hz, info.channels, info.bits) == (samples, 16_000, 1, 16)
    assert info.duration_s == samples / 16_000
    monkeypatch.setattr(flac, "decode", lambda *a: pytest.fail("the end of the file was not understood"))
    flac.check_complete(data, info, "file")


def test_every_truncation_is_detected():
    data = make(20_000)
    info = flac.read_info(data, "file")
    for length in [*range(flac.HEADER_BYTES, len(data), 997), len(data) - 2, len(data) - 1]:
        with pytest.raises(UserError, match=r"a\.flac"):
            flac.check_complete(data[:length], info, "a.flac")


@pytest.mark.parametrize("data", [b"", b"fLaC", b"RIFF" + bytes(100), make(100)[:41]])
def test_a_file_that_is_not_flac_is_rejected(data: bytes):
    with pytest.raises(UserError, match="not a FLAC file, or cut short"):
        flac.read_info(data, "a.flac")


def test_a_header_without_a_length_is_rejected():
    data = bytearray(make(100))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    with pytest.raises(UserError, match="does not state the length"):
        flac.read_info(bytes(data), "a.flac")


def test_decoding_detects_a_flipped_bit_anywhere():
    data = make(9_000)
    info = flac.read_info(data, "file")
    assert len(flac.decode(data, info, "file")) == 9_000
    start = data.index(b"\xff\xf8")
    for position in range(start, len(data), 499):
        broken = bytearray(data)
        broken[position] ^= 4
        with pytest.raises(UserError, match=r"a\.flac"):
            flac.decode(bytes(broken), info, "a.flac")


def test_trailing_bytes_are_accepted():
    data = make(9_000) + b"TAG" + bytes(125)
    flac.check_complete(data, flac.read_info(data, "file"), "file")
