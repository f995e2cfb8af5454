"""The `sha256sum` lines kept beside a data set: which files belong to it, and which in its folder do not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError, one_line
from common.progress import Progress
from datasets.checksums.digest import path_of_line, sum_tree, sums_path
from datasets.checksums.tarball import members
from datasets.dataset import Dataset, looks_whole

MEGABYTE = 1_000_000
SHOWN = 5
"""How many paths a message names; the rest are counted."""


def kept_lines(folder: Path, tree_sha256: str | None) -> list[bytes] | None:
    """The lines kept when the data set was prepared, or None where they are gone or not what `tree_sha256` vouches for."""
    try:
        data = sums_path(folder).read_bytes()
    except FileNotFoundError:
        return None
    if tree_sha256 is not None and hashlib.sha256(data).hexdigest() != tree_sha256:
        return None
    return data.splitlines(keepends=True)


def extra_members(folder: Path, lines: Iterable[bytes]) -> list[bytes]:
    """What lies in `folder` and in no line of `lines`, relative to it; a folder ends in `/` and stands for its contents."""
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


def refuse_extra(folder: Path, lines: Iterable[bytes]) -> None:
    """UserError that names what lies in `folder` and in no line of `lines`: no preparation makes such a set right."""
    extra = extra_members(folder, lines)
    if extra:
        named = ", ".join(one_line(os.fsdecode(path)) for path in extra[:SHOWN])
        more = f" and {len(extra) - SHOWN:,} more" if len(extra) > SHOWN else ""
        raise UserError(
            f"what does not belong to the data set lies in its folder: {named}{more}",
            where=folder,
            remedy="remove it from there, then start again",
        )


def contents_match(dataset: Dataset) -> bool:
    """Whether the folder, read whole, has the sums that its description notes."""
    with Progress(f"checking {dataset.folder.name}", -(-dataset.digest.tar_bytes // MEGABYTE), "MB") as bar:
        found = sum_tree(dataset.folder, progress=lambda done: bar.update(min(-(-done // MEGABYTE), bar.total))).digest
    return (found.tree_sha256, found.tar_bytes) == (dataset.digest.tree_sha256, dataset.digest.tar_bytes)


def check_whole(dataset: Dataset, lines: Iterable[bytes]) -> None:
    """UserError where a data set that was just made does not look as its `lines` say; what is extra is named."""
    if not looks_whole(dataset):
        refuse_extra(dataset.folder, lines)
        raise UserError(
            "the data set has changed while it was put together",
            where=dataset.folder,
            remedy="let nothing else write there, then start again",
        )
