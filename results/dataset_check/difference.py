"""Describes how a dataset differs from its reference, file by file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from common.errors import one_line
from datasets.checksums.digest import TreeSums, path_of_line, sums_path
from datasets.checksums.tarball import members
from datasets.dataset import Dataset
from datasets.file_list import recorded_lines
from results.dataset_check.reference import Reference

MAX_LISTED = 20
"""Number of files of a kind that are listed; the rest are counted."""


def describe_difference(folder: Path, dataset: Dataset | None, reference: Reference, sums: TreeSums) -> Iterator[str]:
    """Yield lines with the differing sums, and with the files that are missing, extra or changed."""
    yield from _sums_that_differ(reference, sums)
    if not sums.digest.tree_sha256:
        yield "--quick does not find which files differ: run again without it to list them"
        return
    own = dataset.digest.tree_sha256 if dataset else None
    if own == sums.digest.tree_sha256 or (own is None and reference.tree_sha256 == sums.digest.tree_sha256):
        empty = [path + b"/" for path in _empty_folders(folder)]
        if own == reference.tree_sha256 or own is None:
            yield "all files are correct; the folders differ"
        yield from _listed("empty folder", empty)
        return
    lines = recorded_lines(folder, own)
    if lines is None:
        kept = one_line(sums_path(folder).name)
        yield f"the files that differ are unknown: {kept}, made with the dataset, is missing or changed"
        return
    missing, extra, changed = compare_lines(lines, sums.lines)
    yield from _listed("missing", missing)
    yield from _listed("extra", extra)
    yield from _listed("changed", changed)
    if missing or changed:
        yield "prepare the dataset again, or restore the files listed"
    if extra:
        yield "remove the extra files"


def _sums_that_differ(reference: Reference, sums: TreeSums) -> Iterator[str]:
    found = sums.digest
    pairs = [
        ("cksum", reference.tar_cksum, found.tar_cksum),
        ("bytes", reference.tar_bytes, found.tar_bytes),
        ("sha256", reference.tree_sha256, found.tree_sha256 or None),
    ]
    differing = [
        f"{name} {expected}" for name, expected, got in pairs if None not in (expected, got) and expected != got
    ]
    yield f"expected {', '.join(differing)} ({reference.title})"


def compare_lines(expected: Sequence[bytes], found: Sequence[bytes]) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Missing, extra and changed paths, from `sha256sum` lines in byte order of their paths."""
    missing, extra, changed = [], [], []
    left, right = 0, 0
    while left < len(expected) or right < len(found):
        want = path_of_line(expected[left]) if left < len(expected) else None
        have = path_of_line(found[right]) if right < len(found) else None
        if have is None or (want is not None and want < have):
            assert want is not None
            missing.append(want)
            left += 1
        elif want is None or have < want:
            extra.append(have)
            right += 1
        else:
            if expected[left] != found[right]:
                changed.append(want)
            left, right = left + 1, right + 1
    return missing, extra, changed


def _empty_folders(folder: Path) -> Iterator[bytes]:
    previous = None
    for member in members(folder):
        # A folder precedes its contents, so an empty one is followed by a member outside it.
        if previous is not None and not member.path.startswith(previous + b"/"):
            yield previous
        previous = member.path if member.is_folder and member.path else None
    if previous is not None:
        yield previous


def _listed(kind: str, paths: Iterable[bytes]) -> Iterator[str]:
    all_paths = list(paths)
    for path in all_paths[:MAX_LISTED]:
        yield f"{kind}: {one_line(os.fsdecode(path))}"
    if len(all_paths) > MAX_LISTED:
        yield f"{kind}: {len(all_paths) - MAX_LISTED:,} more"
