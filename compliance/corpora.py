"""What the benchmark's corpora hold, as far as a closed entry may not change it: utterances, and the reference's hash."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import orjson

import datasets

REFERENCES = Path(datasets.__file__).parent / "references.json"
MAX_TARGET_WER = 23.0
"""Percent: the reference's target, which an open entry may only tighten."""


@dataclass(frozen=True)
class Corpus:
    """A corpus folder's sizes in utterances. None: it has no fixed size (`synthetic` is made as long as asked for)."""

    train_samples: int | None
    eval_samples: int | None


CORPORA = {
    # LibriSpeech's three training archives, and dev-clean with dev-other.
    "LibriSpeech_dataset": Corpus(281_241, 5_567),
    "mini": Corpus(1_760, 320),
    "synthetic": Corpus(None, None),
}
SYNTHESISED = ("mini", "synthetic")
"""Corpora that are made on the spot: another CPU's floating point may give another hash, and a small corpus may stay
in the file cache of a machine whose administrator lets nobody empty it; both are warned of."""


@cache
def reference_digest(folder: str) -> str | None:
    """The tree_sha256 that the corpus in a folder of this name should have; None where there is no reference."""
    entry = orjson.loads(REFERENCES.read_bytes()).get(folder)
    return entry["tree_sha256"] if entry else None
