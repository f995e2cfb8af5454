"""The `sha256sum` lines recorded next to a dataset: which files belong to it, and which files in its folder do not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError, one_line
from common.progress import Progress
from datasets.checksums.digest import path_of_line, sum_tree, sums_path
from datasets.checksums.tarball import members
from datasets.dataset import Dataset, looks_complete

MEGABYTE = 1_000_000
SHOWN = 5
"""How many paths a message lists; the rest are counted."""


def recorded_lines(folder: Path, tree_sha256: str | None) -> list[bytes] | None:
    """The lines recorded when the dataset was prepared, or None if they are missing or do not match `tree_sha256`."""
    try:
        data = sums_path(folder).read_bytes()
    except FileNotFoundError:
        return None
    if tree_sha256 is not None and hashlib.sha256(data).hexdigest() != tree_sha256:
        return None
    return data.splitlines(keepends=True)


def extra_members(folder: Path, lines: Iterable[bytes]) -> list[bytes]:
    """Paths in `folder` that are in none of `lines`, relative to it; a folder ends in `/` and includes its contents."""
    files = {path_of_line(line) for line in lines}
    folders = {b""}
    for path in files:
        while (path := path.rpartition(b"/")[0]) not in folders:
            folders.add(path)
    extra: list[bytes] = []
    for member in members(folder):
        inside = extra and extra[-1].endswith(b"/") and member.path.startswith(extra[-1])
        if not inside and member.path not in (folders if member.is_folder else files):
            extra.append(member.path + (b"/" if member.is_folder else b""))
    return extra


def reject_extra_files(folder: Path, lines: Iterable[bytes]) -> None:
    """UserError that lists the files in `folder` that are in none of `lines`: preparing again would not remove them."""
    extra = extra_members(folder, lines)
    if extra:
        named = ", ".join(one_line(os.fsdecode(path)) for path in extra[:SHOWN])
        more = f" and {len(extra) - SHOWN:,} more" if len(extra) > SHOWN else ""
        raise UserError(
            f"files that do not belong to the dataset are in its folder: {named}{more}",
            where=folder,
            remedy="remove them, then start again",
        )


def contents_match(dataset: Dataset) -> bool:
    """Whether the folder's files, read completely, have the checksums in its description."""
    with Progress(f"checking {dataset.folder.name}", -(-dataset.digest.tar_bytes // MEGABYTE), "MB") as bar:
        found = sum_tree(dataset.folder, progress=lambda done: bar.update(min(-(-done // MEGABYTE), bar.total))).digest
    return (found.tree_sha256, found.tar_bytes) == (dataset.digest.tree_sha256, dataset.digest.tar_bytes)


def check_complete(dataset: Dataset, lines: Iterable[bytes]) -> None:
    """UserError if a dataset that was just made does not match its `lines`; extra files are listed."""
    if not looks_complete(dataset):
        reject_extra_files(dataset.folder, lines)
        raise UserError(
            "the dataset has changed while it was being assembled",
            where=dataset.folder,
            remedy="make sure that nothing else writes there, then start again",
        )
