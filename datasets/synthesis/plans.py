"""What the synthesised corpora hold: who says what, and how long. Pure data, the same on every machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import orjson

from datasets.synthesis import grammar
from datasets.synthesis.grammar import TRAIN, VAL, Sentences
from datasets.synthesis.voices import Speaker, draw_speaker

VERSIONS = {"mini": 1, "synthetic": 2}
"""By corpus, raised whenever a change anywhere alters its bytes."""

SAME_BYTES = {"855a2cfe33e845ffa72c3a878de185e5c259ff4b8eba0f03549527d6bc215424"}
"""Fingerprints, in corpora that lie on people's disks, of earlier plans that gave the same bytes as today's: `mini`, whose
fingerprint once held the large grammar as well.
"""

MINI_TRAIN_SPEAKERS, MINI_TRAIN_EACH = 80, 22
MINI_VAL_SPEAKERS, MINI_VAL_EACH = 16, 20

SYNTHESISED = ("mini", "synthetic")
"""The corpora that the benchmark makes itself. `synthetic-4h` is `synthetic` with four hours of training speech."""

SYNTHETIC_HOURS = 80.0
SYNTHETIC_TRAIN_SPEAKERS, SYNTHETIC_VAL_SPEAKERS = 250, 40
SYNTHETIC_RATES = (170, 270)
"""The slowest and the fastest that its speakers may speak, in words per minute."""
SYNTHETIC_SNR_DB = (10.0, 30.0)
"""How far below the speech its background noise may lie, in decibels."""
LEAST_HOURS, MOST_HOURS = 0.1, 10_000.0
LEAST_VAL_HOURS, MOST_VAL_HOURS = 0.5, 10.0
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


def seed_of(name: str) -> int:
    """The seed that belongs to a chapter's or an utterance's name: a positive number of 31 bits."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) >> 1


@dataclass(frozen=True)
class Chapter:
    """What one speaker says in one go.

    Either `texts`, one utterance each, or `lengths_s`: for each utterance the seconds to fill with sentences of the large
    grammar, which draw from `words_share` of its word list. `snr_db` is how far below each utterance its background noise lies, in
    decibels; without it there is none.
    """

    split: str
    speaker: Speaker
    number: int
    texts: tuple[str, ...] = ()
    lengths_s: tuple[float, ...] = ()
    snr_db: tuple[float, ...] = ()
    words_share: float = 1.0

    @property
    def id(self) -> str:
        """`SPEAKER-CHAPTER`, as LibriSpeech has it."""
        return f"{self.speaker.id}-{self.number}"

    @property
    def seed(self) -> int:
        """What the synthesiser's random generator starts from: a positive number of 31 bits."""
        return seed_of(self.id)

    def sentences(self) -> Iterator[str]:
        """The endless sentences that `lengths_s` is filled with."""
        stream = Sentences(grammar.full(self.words_share), f"synthetic/{self.id}")
        while True:
            yield stream.draw(self.split)


@dataclass(frozen=True)
class Corpus:
    """A corpus to synthesise: `hours` is None for `mini`, whose amount is fixed."""

    name: str
    version: int
    hours: float | None
    chapters: tuple[Chapter, ...]

    @property
    def utterances(self) -> int:
        """How many utterances all chapters hold."""
        return sum(len(chapter.texts) + len(chapter.lengths_s) for chapter in self.chapters)

    def fingerprint(self) -> str:
        """A hash of all that the corpus is made from."""
        drawn_from = grammar.full() if any(chapter.lengths_s for chapter in self.chapters) else None
        parts = [self.version, self.name, self.hours, self.chapters, drawn_from]
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
    return Corpus("mini", VERSIONS["mini"], None, tuple(chapters))


def synthetic(hours: float = SYNTHETIC_HOURS) -> Corpus:
    """The large corpus: `hours` of training speech, and a twentieth of it for validation (half an hour at least, ten at most).

    Other hours than the benchmark's own have them in the corpus's name, since they make another corpus: `synthetic-4h`.
    """
    chapters: list[Chapter] = []
    val_hours = min(max(hours / 20, LEAST_VAL_HOURS), MOST_VAL_HOURS)
    for split, split_hours, speakers in (
        (TRAIN, hours, SYNTHETIC_TRAIN_SPEAKERS),
        (VAL, val_hours, SYNTHETIC_VAL_SPEAKERS),
    ):
        utterances = max(1, round(split_hours * 3600 / mean_length_s(split)))
        each = min(LONGEST_CHAPTER, -(-utterances // speakers))
        random = Random(f"synthetic/{split}")
        low_db, high_db = SYNTHETIC_SNR_DB
        drawn = [(random.random(), random.random()) for _ in range(utterances)]
        lengths_s = [length_s(split, share) for share, _ in drawn]
        snr_db = [round(low_db + (high_db - low_db) * share, 1) for _, share in drawn]
        for index, start in enumerate(range(0, utterances, each)):
            chapters.append(
                Chapter(
                    split,
                    _speaker("synthetic", split, index % speakers, SYNTHETIC_RATES),
                    FIRST_CHAPTER[split] + index,
                    lengths_s=tuple(lengths_s[start : start + each]),
                    snr_db=tuple(snr_db[start : start + each]),
                    words_share=min(1.0, hours / SYNTHETIC_HOURS),
                )
            )
    name = "synthetic" if hours == SYNTHETIC_HOURS else f"synthetic-{hours:g}h"
    return Corpus(name, VERSIONS["synthetic"], hours, tuple(chapters))


def is_synthesised(name: str) -> bool:
    """Whether a data set's folder of this name is one that the benchmark makes itself."""
    return name in SYNTHESISED or hours_of(name) is not None


def hours_of(name: str) -> float | None:
    """The hours in the name of a `synthetic` of another size (4.0 for `synthetic-4h`); None for any other name."""
    found = re.fullmatch(r"synthetic-(\d{1,5}(?:\.\d{1,3})?)h", name)
    hours = float(found[1]) if found else 0.0
    # Only the spelling that `synthetic` gives: a folder must not be looked for under one name and made under another.
    good = LEAST_HOURS <= hours <= MOST_HOURS and hours != SYNTHETIC_HOURS and name == f"synthetic-{hours:g}h"
    return hours if good else None


def synthesis_arguments(name: str) -> list[str]:
    """What `python -m datasets synthesise` is given to make the corpus of this name, one of the benchmark's own."""
    hours = hours_of(name)
    return [name] if hours is None else ["synthetic", "--hours", f"{hours:g}"]


def version_of(name: str) -> int | None:
    """The version that the corpus of this name has today; None where it is none of the benchmark's own."""
    return VERSIONS["mini" if name == "mini" else "synthetic"] if is_synthesised(name) else None


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


def _speaker(corpus: str, split: str, index: int, *rates: tuple[int, int]) -> Speaker:
    return draw_speaker(str(FIRST_SPEAKER[split] + index), corpus, *rates)
