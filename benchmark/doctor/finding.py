"""One finding of the doctor about the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "warning", "problem"]

GIB = 1024**3


@dataclass(frozen=True)
class Finding:
    """One line: its level, what was checked, what was found, and what to do about it (None if nothing is wrong)."""

    level: Level
    subject: str
    text: str
    remedy: str | None = None
