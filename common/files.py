"""Files as the benchmark writes and identifies them: atomic writing, and the SHA-256 of a file."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path


def sha256_of(path: str | bytes | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes as 64 hexadecimal digits; OSError if the file cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, sees the old file or the new one, never a partial one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def natural_key(text: object) -> list[tuple[int, int, str]]:
    """Sort key that puts `result_10` after `result_9`."""
    parts = re.split(r"([0-9]+)", str(text))
    # Numbers by their length and digits: Python refuses to convert thousands of digits.
    return [(1, len(digits := part.lstrip("0")), digits) if part.isdecimal() else (0, 0, part) for part in parts]
