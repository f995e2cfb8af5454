"""The CRC of POSIX `cksum` (IEEE Std 1003.1) at memory speed, and the combination of the CRCs of consecutive pieces."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from fastcrc import crc32

READ_BYTES = 1 << 17

POLYNOMIAL = 0x104C11DB7
"""The generator of POSIX cksum's CRC (IEEE Std 1003.1, `cksum`), highest power first."""


def crc_of(data: bytes | bytearray | memoryview, crc: int = 0xFFFFFFFF) -> int:
    """CRC-32/CKSUM of `data` appended to the data whose CRC is `crc`; the CRC of no data is 0xFFFFFFFF."""
    return crc32.cksum(data, crc)


def combine(crc_a: int, crc_b: int, length_b: int) -> int:
    """The CRC of A followed by B, from both CRCs and B's length in bytes: A x^(8 length) + B modulo the generator."""
    return multiply(crc_a ^ 0xFFFFFFFF, power_of_x(8 * length_b)) ^ crc_b


def posix_cksum(crc: int, length: int) -> int:
    """The number that `cksum` prints: the CRC extended by the length, little-endian without leading zeros."""
    return crc_of(length.to_bytes((length.bit_length() + 7) // 8, "little"), crc)


def multiply(a: int, b: int) -> int:
    """The product of two polynomials over GF(2), modulo the generator; bit i is the coefficient of x^i."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a >> 32:
            a ^= POLYNOMIAL
        b >>= 1
    return product


@lru_cache(maxsize=4096)
def power_of_x(exponent: int) -> int:
    """x^exponent modulo the generator."""
    result = 1
    for bit in range(exponent.bit_length()):
        if bit == len(_SQUARES):
            _SQUARES.append(multiply(_SQUARES[-1], _SQUARES[-1]))
        if exponent >> bit & 1:
            result = multiply(result, _SQUARES[bit])
    return result


_SQUARES = [2]
"""x^(2^i) modulo the generator, extended on demand."""


def file_cksum(path: Path | str, progress: Callable[[int], object] | None = None) -> tuple[int, int]:
    """POSIX cksum and size in bytes of one file."""
    crc, length = 0xFFFFFFFF, 0
    buffer = bytearray(READ_BYTES)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc = crc_of(memoryview(buffer)[:count], crc)
            length += count
            if progress:
                progress(length)
    return posix_cksum(crc, length), length
