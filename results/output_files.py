"""Keeps commands from overwriting their inputs: whether two paths are one file, also by links."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise UserError if one of the files to write is among the inputs, of which not all need exist."""
    written = {known: file for file in outputs if (known := identity(file))}
    if not written:
        return
    for path in inputs:
        if (known := identity(path)) in written and known:
            what = "this is one of the inputs, which are never overwritten"
            raise UserError(what, where=written[known])


def identity(path: Path) -> tuple[int, int] | None:
    """The device and inode of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead, or would lead, to one file."""
    known = identity(one)
    return known == identity(other) if known else one.resolve() == other.resolve()
