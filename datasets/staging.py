"""Where a data set grows until it is whole: a folder beside its place, held by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from common.locks import FileLock


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """The folder `.NAME.part` beside `folder`, made where it is missing, held until the block (or the process) ends.

    What an earlier start left in it is still there; whoever finishes removes it. UserError where another process holds it.
    """
    part = folder.with_name(f".{folder.name}.part")
    # What is unfinished may be emptied: never behind a link, where other things may lie.
    for path in (folder, part, *(part.iterdir() if part.is_dir() else ())):
        if path.is_symlink():
            raise UserError("a link is in the data set's way", where=path, remedy="remove it, or choose another folder")
    try:
        part.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError("a file is in the folder's way", where=part.parent, remedy="choose another folder") from None
    busy = UserError("another process is preparing this data set", where=folder, remedy="wait until it has finished")
    with FileLock(part / "lock", busy):
        yield part
