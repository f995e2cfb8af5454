"""The number of utterances in each of the benchmark's corpora."""

from __future__ import annotations

from dataclasses import dataclass

from datasets.dataset import LIBRISPEECH
from datasets.librispeech.archives import PUBLISHED
from datasets.synthesis import plans


@dataclass(frozen=True)
class Sizes:
    """Utterances in a corpus's training set and in its evaluation set."""

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
    # The outcome of drawing the plan's lengths.
    "synthetic": Sizes(23_401, 2_025),
}
"""By the corpus's folder name."""
