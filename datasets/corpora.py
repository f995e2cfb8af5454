"""How many utterances the benchmark's corpora hold when they are whole."""

from __future__ import annotations

from dataclasses import dataclass

from datasets.dataset import LIBRISPEECH
from datasets.librispeech.archives import PUBLISHED
from datasets.synthesis import plans


@dataclass(frozen=True)
class Sizes:
    """A corpus's utterances: of its training set, and of its evaluation set."""

    train: int
    eval: int


def _published(split: str) -> int:
    return sum(archive.utterances for archive in PUBLISHED if archive.split == split)


SIZES = {
    # The three training archives, and dev-clean with dev-other.
    LIBRISPEECH: Sizes(_published("train"), _published("val")),
    "mini": Sizes(
        plans.MINI_TRAIN_SPEAKERS * plans.MINI_TRAIN_EACH,
        plans.MINI_VAL_SPEAKERS * plans.MINI_VAL_EACH,
    ),
    # What the plan's drawing of lengths comes to.
    "synthetic": Sizes(23_401, 2_025),
}
"""By the name of the corpus's folder."""
