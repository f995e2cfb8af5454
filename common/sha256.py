"""SHA-256 of a file, as records, seals and references name it."""

from __future__ import annotations

import hashlib
import os


def sha256_of(path: str | bytes | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes in 64 hexadecimal digits; OSError where it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
