"""Staging folders: a dataset is made in a folder next to its final place, locked by one process at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from common.locks import FileLock


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """The folder `.NAME.part` next to `folder`, created if missing and locked until the block (or the process) ends.

    Files that an interrupted run left in it are kept; the caller removes the folder when finished. UserError if another
    process holds the lock.
    """
    part = folder.with_name(f".{folder.name}.part")
    # The caller may empty the staging folder, so it must not be a link to files elsewhere.
    for path in (folder, part, *(part.iterdir() if part.is_dir() else ())):
        if path.is_symlink():
            raise UserError(
                "a symbolic link is in the dataset's place", where=path, remedy="remove it, or choose another folder"
            )
    try:
        part.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError("a file is in the folder's place", where=part.parent, remedy="choose another folder") from None
    with preparation_lock(part, folder):
        yield part


def preparation_lock(work: Path, dataset_folder: Path) -> FileLock:
    """The lock on the staging folder `work`; UserError about `dataset_folder` if another process holds it."""
    busy = UserError(
        "another process is preparing this dataset", where=dataset_folder, remedy="wait until it has finished"
    )
    return FileLock(work / "lock", busy)


def check_disk_space(work: Path, needed_bytes: float, alternative: str) -> None:
    """UserError if the disk of the staging folder `work` has less than `needed_bytes` free; `alternative`: a remedy."""
    free_bytes = shutil.disk_usage(work).free
    if free_bytes < needed_bytes:
        raise UserError(
            f"too little disk space: {free_bytes / 1e9:.1f} GB free, {needed_bytes / 1e9:.1f} GB needed",
            where=work.parent,
            remedy=f"free some disk space, or {alternative}",
        )
