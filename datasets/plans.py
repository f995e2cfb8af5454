"""What the synthesised corpora hold: who says what, and how long. Pure data, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import orjson

from . import grammar
from .grammar import TRAIN, VAL, Sentences
from .voices import Speaker, draw_speaker

VERSION = 1
"""Raised whenever a change anywhere alters the bytes of a corpus."""

MINI_TRAIN_SPEAKERS, MINI_TRAIN_EACH = 80, 22
MINI_VAL_SPEAKERS, MINI_VAL_EACH = 16, 20

SYNTHETIC_TRAIN_SPEAKERS, SYNTHETIC_VAL_SPEAKERS = 96, 24
LONGEST_CHAPTER = 48
LONGEST_S = 35.0

FIRST_SPEAKER = {TRAIN: 1001, VAL: 5001}
FIRST_CHAPTER = {TRAIN: 100_001, VAL: 500_001}

# LibriSpeech's distribution of lengths: (share of utterances that are shorter, seconds), straight lines between. `train` is
# near the three training sets together (mean 12.3 s, median 14 s, most at the cut of 16 s), `val` dev-clean and dev-other.
LENGTHS_S = {
    TRAIN: (
        (0.0, 1.3), (0.02, 2.2), (0.05, 3.3), (0.1, 5.0), (0.2, 9.0), (0.3, 12.0), (0.4, 13.2), (0.5, 13.9), (0.6, 14.4),
        (0.7, 14.9), (0.8, 15.4), (0.9, 15.9), (0.97, 16.4), (0.995, 17.0), (0.9995, 25.0), (1.0, 34.0),
    ),
    VAL: (
        (0.0, 1.3), (0.1, 2.5), (0.25, 3.7), (0.5, 5.6), (0.75, 8.7), (0.9, 13.2), (0.97, 19.0), (0.99, 25.0), (1.0, 34.5),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Chapter:
    """What one speaker says in one go.

    Either `texts`, one utterance each, or `lengths_s`: for each utterance the seconds to fill with sentences of the large
    grammar.
    """

    split: str
    speaker: Speaker
    number: int
    texts: tuple[str, ...] = ()
    lengths_s: tuple[float, ...] = ()

    @property
    def id(self) -> str:
        """`SPEAKER-CHAPTER`, as LibriSpeech has it."""
        return f"{self.speaker.id}-{self.number}"

    @property
    def seed(self) -> int:
        """What the synthesiser's random generator starts from: a positive number of 31 bits."""
        return int.from_bytes(hashlib.sha256(self.id.encode()).digest()[:4]) >> 1

    def sentences(self) -> Iterator[str]:
        """The endless sentences that `lengths_s` is filled with."""
        stream = Sentences(grammar.full(), f"synthetic/{self.id}")
        while True:
            yield stream.draw(self.split)


@dataclass(frozen=True)
class Corpus:
    """A corpus to synthesise: `hours` is None for `mini`, whose amount is fixed."""

    name: str
    hours: float | None
    chapters: tuple[Chapter, ...]

    @property
    def utterances(self) -> int:
        """How many utterances all chapters hold."""
        return sum(len(chapter.texts) + len(chapter.lengths_s) for chapter in self.chapters)

    def fingerprint(self) -> str:
        """A hash of all that the corpus is made from."""
        parts = [VERSION, self.name, self.hours, self.chapters, grammar.full()]
        return hashlib.sha256(orjson.dumps(parts)).hexdigest()


def mini() -> Corpus:
    """The small corpus: one chapter for each speaker, each sentence said once."""
    chapters: list[Chapter] = []
    for split, speakers, each in (
        (TRAIN, MINI_TRAIN_SPEAKERS, MINI_TRAIN_EACH),
        (VAL, MINI_VAL_SPEAKERS, MINI_VAL_EACH),
    ):
        sentences = _different(Sentences(grammar.mini(), f"mini/{split}"), split, speakers * each)
        for index in range(speakers):
            texts = tuple(sentences[index::speakers])
            chapters.append(Chapter(split, _speaker("mini", split, index), FIRST_CHAPTER[split] + index, texts=texts))
    return Corpus("mini", None, tuple(chapters))


def synthetic(hours: float) -> Corpus:
    """The large corpus: `hours` of training speech and about a twentieth of it for validation."""
    chapters: list[Chapter] = []
    val_hours = min(max(hours / 20, 0.1), 10.0)
    for split, split_hours, speakers in (
        (TRAIN, hours, SYNTHETIC_TRAIN_SPEAKERS),
        (VAL, val_hours, SYNTHETIC_VAL_SPEAKERS),
    ):
        utterances = max(1, round(split_hours * 3600 / mean_length_s(split)))
        each = min(LONGEST_CHAPTER, -(-utterances // speakers))
        random = Random(f"synthetic/{split}/lengths")
        lengths_s = [length_s(split, random.random()) for _ in range(utterances)]
        for index, start in enumerate(range(0, utterances, each)):
            chapters.append(
                Chapter(
                    split,
                    _speaker("synthetic", split, index % speakers),
                    FIRST_CHAPTER[split] + index,
                    lengths_s=tuple(lengths_s[start : start + each]),
                )
            )
    return Corpus("synthetic", hours, tuple(chapters))


def length_s(split: str, share: float) -> float:
    """The length in seconds that a `share` in [0, 1] of the split's utterances do not reach."""
    table = LENGTHS_S[split]
    for (low, low_s), (high, high_s) in pairwise(table):
        if share <= high:
            return low_s + (high_s - low_s) * (share - low) / (high - low)
    return table[-1][1]


def mean_length_s(split: str) -> float:
    """The mean of the split's length distribution, in seconds."""
    table = LENGTHS_S[split]
    pairs = pairwise(table)
    return sum((high - low) * (low_s + high_s) / 2 for (low, low_s), (high, high_s) in pairs)


def _different(stream: Sentences, split: str, count: int) -> list[str]:
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        chosen[stream.draw(split)] = None
    return list(chosen)


def _speaker(corpus: str, split: str, index: int) -> Speaker:
    return draw_speaker(str(FIRST_SPEAKER[split] + index), corpus)
