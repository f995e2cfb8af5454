"""Finds the reference sums that a dataset is compared with."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from common.errors import one_line
from datasets.checksums.digest import TreeSums
from datasets.dataset import Dataset, TreeDigest
from datasets.librispeech.archives import PUBLISHED
from datasets.references import reference_of


@dataclass(frozen=True)
class Reference:
    """Sums that a dataset should have; None is not compared. `title` is their origin."""

    title: str
    tree_sha256: str | None
    tar_cksum: int | None
    tar_bytes: int | None

    @classmethod
    def of(cls, title: str, digest: TreeDigest) -> Reference:
        """All the sums of `digest`."""
        return cls(title, digest.tree_sha256, digest.tar_cksum, digest.tar_bytes)

    def matches(self, sums: TreeSums) -> bool:
        """Whether all known sums agree. Set-id bits of folders, which change the tar's cksum, may differ."""
        found = sums.digest
        if self.tar_cksum is not None and self.tar_cksum not in (found.tar_cksum, sums.plain_cksum):
            return False
        if self.tar_bytes is not None and self.tar_bytes != found.tar_bytes:
            return False
        # A quick verification has no SHA-256: then the cksum decides, if the reference has one.
        if self.tree_sha256 is not None and found.tree_sha256:
            return self.tree_sha256 == found.tree_sha256
        return self.tar_cksum is not None

    def matches_tar(self, cksum: int, length: int) -> bool:
        """Whether a tar with this cksum and length in bytes matches."""
        return self.tar_cksum == cksum and self.tar_bytes in (None, length)


def parse_expected(text: str) -> Reference:
    """`--expect`: `CKSUM`, `CKSUM:BYTES` (or separated by a space, as cksum prints them) or a SHA-256 tree digest."""
    title = "the value of --expect"
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return Reference(title, text.lower(), None, None)
    if found := re.fullmatch(r"(\d{1,10})(?:[: ]+(\d+))?", text.strip()):
        return Reference(title, None, int(found[1]), int(found[2]) if found[2] else None)
    raise argparse.ArgumentTypeError(f"{text!r} is neither CKSUM, CKSUM:BYTES nor a SHA-256 of 64 hex digits")


def find_references(folder: Path, dataset: Dataset | None, expected: Reference | None) -> list[Reference]:
    """The references to compare with; the first decides, a later one distinguishes a legitimate difference from damage."""
    if expected:
        return [expected]
    references = []
    if committed := reference_of(folder.name):
        references.append(Reference.of(f"the reference committed for {folder.name}", committed))
    if dataset:
        references.append(Reference.of(_own_title(dataset), dataset.digest))
    return references


def _own_title(dataset: Dataset) -> str:
    archives = dataset.provenance.get("archives")
    if isinstance(archives, dict):
        names = one_line(", ".join(archives))
        if archives.items() <= {archive.name: archive.sha256 for archive in PUBLISHED}.items():
            return f"the content of the published archives ({names})"
        return f"the content of these archives, which are NOT the published ones ({names})"
    return "the sums recorded when the dataset was prepared"
