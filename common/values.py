"""Type checks for values read from a file: finite number, integer, text, SHA-256. Booleans are not numbers."""

from __future__ import annotations

import re
import sys
from typing import TypeGuard

_NUMBERS = (float, int)  # faster than `int | float`: a round of results has a million numbers
_LARGEST = sys.float_info.max


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number (true and false are not numbers)."""
    # Python's integers are unbounded; one that does not fit into a float is rejected.
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        return False
    return -_LARGEST <= value <= _LARGEST


def number(value: object) -> float | None:
    """A finite number as a float; None for anything else."""
    return float(value) if is_number(value) else None


def parse_number(value: object) -> float | None:
    """A finite number, also from text that spells one (as in system descriptions); None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value.strip())
        except ValueError:
            return None
    return value if is_number(value) else None


def is_integer(value: object, low: int = 0) -> TypeGuard[int]:
    """Whether a value is an integer of at least `low`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is text that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def is_digest(value: object) -> TypeGuard[str]:
    """Whether a value is a SHA-256 in lower-case hexadecimal."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
