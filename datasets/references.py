"""The reference checksums of the benchmark's own corpora (`references.json`), for verification and for the rules."""

from __future__ import annotations

from pathlib import Path

import orjson

from datasets.dataset import TreeDigest

COMMITTED = Path(__file__).parent / "references.json"


def reference_of(name: str) -> TreeDigest | None:
    """The reference checksums of the corpus with this folder name; None if there are none."""
    sums = orjson.loads(COMMITTED.read_bytes()).get(name)
    return None if sums is None else TreeDigest(**sums)
