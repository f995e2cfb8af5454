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
    """A corpus folder's sizes in utterances."""

    train_samples: int
    eval_samples: int


CORPORA = {
    # LibriSpeech's three training archives, and dev-clean with dev-other.
    "LibriSpeech_dataset": Corpus(281_241, 5_567),
    "mini": Corpus(1_760, 320),
    "synthetic": Corpus(23_401, 2_025),
}
"""The synthesised ones (`datasets.plans.SYNTHESISED`) are made on the spot: another CPU's floating point may give another
hash, and a corpus made just now may stay in the file cache of a machine whose administrator lets nobody empty it. Both
are warned of.
"""


@cache
def reference_digest(folder: str) -> str | None:
    """The tree_sha256 that the corpus in a folder of this name should have; None where there is no reference."""
    entry = orjson.loads(REFERENCES.read_bytes()).get(folder)
    return entry["tree_sha256"] if entry else None
