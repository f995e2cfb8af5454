"""The reference's labels in the reference's order, and text to label numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from datasets.errors import UserError

LABELS = "_'ABCDEFGHIJKLMNOPQRSTUVWXYZ "
"""Label numbers are positions in this string; `_` is the CTC blank (labels.json of the MLPerf speech reference)."""

BLANK = 0
_NUMBER = {character: number for number, character in enumerate(LABELS) if number != BLANK}


def encode(text: str) -> list[int]:
    """Label numbers of `text`; a character outside the alphabet is an error, never dropped in silence."""
    try:
        return [_NUMBER[character] for character in text]
    except KeyError as error:
        raise UserError(f"the character {error.args[0]!r} is outside the alphabet", where=repr(text)) from None


def decode(numbers: Sequence[int]) -> str:
    """The text of label numbers; none of them may be the blank."""
    return "".join(LABELS[number] for number in numbers)


def ctc_frames_needed(numbers: Sequence[int]) -> int:
    """The fewest output frames that can spell `numbers`: one a label, and a blank between two equal ones (Graves 2006)."""
    return len(numbers) + sum(a == b for a, b in itertools.pairwise(numbers))
