"""The sums that the benchmark's own corpora should have (`references.json`), for verification and for the rules."""

from __future__ import annotations

from pathlib import Path

import orjson

from datasets.dataset import TreeDigest

COMMITTED = Path(__file__).parent / "references.json"


def reference_of(name: str) -> TreeDigest | None:
    """The sums of the corpus whose folder has this name; None where none were committed."""
    sums = orjson.loads(COMMITTED.read_bytes()).get(name)
    return None if sums is None else TreeDigest(**sums)
