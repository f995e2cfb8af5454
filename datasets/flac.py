"""The header of a FLAC file, read without decoding, and two checks that the file is complete.

Source: RFC 9639. The CRC-16 of the last frame reveals a truncated file in microseconds. The MD5 of the decoded samples
reveals any damage, but requires decoding.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastcrc import crc8, crc16

from common.errors import UserError

if TYPE_CHECKING:
    import numpy as np

HEADER_BYTES = 42
"""Size of the marker and the STREAMINFO block, which is always the first block of a file."""

_REMEDY = "get the file, or the archive that it came from, again"


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The STREAMINFO block: block size in samples, `largest_frame` in bytes (0: unknown), `md5` of the decoded audio."""

    block_size: int
    largest_frame: int
    sample_rate_hz: int
    channels: int
    bits: int
    samples: int
    md5: bytes

    @property
    def duration_s(self) -> float:
        """Length of the audio in seconds."""
        return self.samples / self.sample_rate_hz


def read_info(data: bytes, where: object) -> StreamInfo:
    """STREAMINFO from a file's first 42 bytes or more; UserError if it is not FLAC or has no length."""
    if len(data) < HEADER_BYTES or data[:4] != b"fLaC" or data[4] & 0x7F != 0:
        raise UserError("not a FLAC file, or cut short in its header", where=where, remedy=_REMEDY)
    packed = int.from_bytes(data[18:26], "big")
    info = StreamInfo(
        block_size=int.from_bytes(data[8:10], "big"),
        largest_frame=int.from_bytes(data[15:18], "big"),
        sample_rate_hz=packed >> 44,
        channels=(packed >> 41 & 7) + 1,
        bits=(packed >> 36 & 31) + 1,
        samples=packed & (1 << 36) - 1,
        md5=data[26:42],
    )
    if not info.sample_rate_hz or not info.samples:
        raise UserError("the FLAC header does not state the length of the audio", where=where, remedy=_REMEDY)
    return info


def check_complete(data: bytes, info: StreamInfo, where: object) -> None:
    """UserError if the file is truncated: its last frame must be complete and end the audio.

    A file whose end cannot be parsed is decoded instead.
    """
    if not _ends_with_last_frame(data, info):
        decode(data, info, where)


def decode(data: bytes, info: StreamInfo, where: object) -> np.ndarray:
    """Decode 16-bit audio to an int16 array (samples,) or (samples, channels), checked against length and MD5.

    UserError if it cannot be decoded, is truncated or has another MD5.
    """
    import soundfile

    try:
        samples, _ = soundfile.read(io.BytesIO(data), dtype="int16")
    except soundfile.LibsndfileError as error:
        raise UserError(f"the FLAC file cannot be decoded ({error})", where=where, remedy=_REMEDY) from None
    if len(samples) != info.samples:
        raise UserError(
            f"the FLAC file is cut short: {len(samples)} of {info.samples} samples", where=where, remedy=_REMEDY
        )
    # An MD5 of zeros means that the encoder did not store one.
    if info.bits == 16 and any(info.md5) and hashlib.md5(samples.tobytes()).digest() != info.md5:
        raise UserError(
            "the decoded audio does not have the MD5 that its FLAC header gives", where=where, remedy=_REMEDY
        )
    return samples


def _ends_with_last_frame(data: bytes, info: StreamInfo) -> bool:
    tail = data[HEADER_BYTES:][-(info.largest_frame or 1 << 16) - 64 :]
    end = len(tail)
    while (start := max(tail.rfind(b"\xff\xf8", 0, end), tail.rfind(b"\xff\xf9", 0, end))) >= 0:
        frame = tail[start:]
        if _last_sample(frame, info.block_size) == info.samples and crc16.umts(frame) == 0:
            return True
        end = start + 1
    return False


def _last_sample(frame: bytes, fixed_block_size: int) -> int | None:
    """The number of samples up to the end of this frame, or None if it does not start with a frame header."""
    if len(frame) < 10:
        return None
    size_code, rate_code = frame[2] >> 4, frame[2] & 15
    number, position = _coded_number(frame, 4)
    if size_code == 0 or number is None:
        return None
    if size_code in (6, 7):
        width = size_code - 5
        block = int.from_bytes(frame[position : position + width], "big") + 1
        position += width
    else:
        block = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    position += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if position >= len(frame) or crc8.smbus(frame[:position]) != frame[position]:
        return None
    variable = frame[1] & 1
    return (number if variable else number * fixed_block_size) + block


def _coded_number(data: bytes, position: int) -> tuple[int | None, int]:
    """A number in the UTF-8-like code of frame headers (up to 7 bytes), and the position after it."""
    first = data[position]
    if first < 0x80:
        return first, position + 1
    extra = 7 - (first ^ 0xFF).bit_length()
    rest = data[position + 1 : position + 1 + extra]
    if not 1 <= extra <= 6 or len(rest) < extra or any(byte & 0xC0 != 0x80 for byte in rest):
        return None, position
    number = first & (0x3F >> extra)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, position + 1 + extra
