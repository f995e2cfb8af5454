"""What a value that came out of a file is: a finite number, a whole one, text, a SHA-256. JSON's true and false are no numbers."""

from __future__ import annotations

import re
import sys
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number (true and false are none)."""
    # Python's whole numbers have no end; what no float can hold is no figure.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def number(value: object) -> float | None:
    """A finite number as a float; None for anything else."""
    return float(value) if is_number(value) else None


def number_or_text(value: object) -> float | None:
    """`value` where it is a finite number, or a text that spells one (system descriptions do); else None."""
    if isinstance(value, str):
        try:
            value = float(value.strip())
        except ValueError:
            return None
    return value if is_number(value) else None


def is_whole(value: object, low: int = 0) -> TypeGuard[int]:
    """Whether a value is a whole number of at least `low`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is text that says something."""
    return isinstance(value, str) and bool(value.strip())


def is_digest(value: object) -> TypeGuard[str]:
    """Whether a value is a SHA-256 in lower-case hexadecimal."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
