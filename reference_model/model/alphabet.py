"""The labels in the order of the MLPerf reference, and conversion between text and label numbers."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import UserError
from datasets.manifest import CHARACTERS

LABELS = "_" + CHARACTERS
"""Label numbers are positions in this string; `_` is the CTC blank (labels.json of the MLPerf speech reference)."""

BLANK = 0
_NUMBER = {character: number for number, character in enumerate(LABELS) if number != BLANK}


def encode(text: str) -> list[int]:
    """Label numbers of `text`; a character outside the alphabet is a UserError, never dropped silently."""
    try:
        return [_NUMBER[character] for character in text]
    except KeyError as error:
        raise UserError(f"the character {error.args[0]!r} is outside the alphabet", where=repr(text)) from None


def decode(numbers: Sequence[int]) -> str:
    """The text of label numbers; none of them may be the blank."""
    return "".join(LABELS[number] for number in numbers)
