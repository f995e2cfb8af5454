"""What the doctor finds about one thing of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "warning", "problem"]

GIB = 1024**3


@dataclass(frozen=True)
class Finding:
    """One line: how it stands, what was looked at, what was found, and what to do about it (None when all is well)."""

    level: Level
    subject: str
    text: str
    remedy: str | None = None
