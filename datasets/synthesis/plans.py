"""Plans of the synthesised corpora: speakers, texts and lengths of all utterances. The same on every machine."""

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
"""By corpus; incremented whenever a change alters its bytes."""

EQUIVALENT_FINGERPRINTS = {"855a2cfe33e845ffa72c3a878de185e5c259ff4b8eba0f03549527d6bc215424"}
"""Fingerprints of earlier plans that gave the same bytes as today's, accepted in existing corpora: `mini`, whose
fingerprint used to include the large grammar.
"""

MINI_TRAIN_SPEAKERS, MINI_TRAIN_EACH = 80, 22
MINI_VAL_SPEAKERS, MINI_VAL_EACH = 16, 20

SYNTHESISED = ("mini", "synthetic")
"""The corpora that the benchmark synthesises. `synthetic-4h` is `synthetic` with four hours of training speech."""

SYNTHETIC_HOURS = 80.0
SYNTHETIC_TRAIN_SPEAKERS, SYNTHETIC_VAL_SPEAKERS = 250, 40
SYNTHETIC_RATES = (170, 270)
"""The range of its speakers' rates, in words per minute."""
SYNTHETIC_SNR_DB = (10.0, 30.0)
"""The range of the signal-to-noise ratio of its background noise, in decibels."""
MIN_HOURS, MAX_HOURS = 0.1, 10_000.0
MIN_VAL_HOURS, MAX_VAL_HOURS = 0.5, 10.0
MAX_CHAPTER_UTTERANCES = 48
MAX_UTTERANCE_S = 35.0

FIRST_SPEAKER = {TRAIN: 1001, VAL: 5001}
FIRST_CHAPTER = {TRAIN: 100_001, VAL: 500_001}

# LibriSpeech's distribution of lengths: (share of utterances that are shorter, seconds), linearly interpolated. `train`
# approximates the three training sets together (mean 12.3 s, median 14 s, mode at the cut of 16 s), `val` dev-clean and
# dev-other.
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
    """The seed of a chapter or an utterance, from its name: a positive number of 31 bits."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) >> 1


@dataclass(frozen=True)
class Chapter:
    """A chapter: consecutive utterances of one speaker.

    Either `texts`, one per utterance, or `lengths_s`: for each utterance the seconds to fill with sentences of the
    large grammar, drawn from `words_share` of its word list. `snr_db` is each utterance's signal-to-noise ratio in
    decibels; if empty, no background noise is added.
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
        """`SPEAKER-CHAPTER`, as in LibriSpeech."""
        return f"{self.speaker.id}-{self.number}"

    @property
    def seed(self) -> int:
        """The seed of the synthesiser's random generator: a positive number of 31 bits."""
        return seed_of(self.id)

    def sentences(self) -> Iterator[str]:
        """An endless stream of sentences to fill `lengths_s` with."""
        stream = Sentences(grammar.full(self.words_share), f"synthetic/{self.id}")
        while True:
            yield stream.draw(self.split)


@dataclass(frozen=True)
class Corpus:
    """A corpus to synthesise: `hours` is None for `mini`, whose size is fixed."""

    name: str
    version: int
    hours: float | None
    chapters: tuple[Chapter, ...]

    @property
    def utterances(self) -> int:
        """The number of utterances in all chapters."""
        return sum(len(chapter.texts) + len(chapter.lengths_s) for chapter in self.chapters)

    def fingerprint(self) -> str:
        """A hash of everything that determines the corpus (field names included: renaming one changes the hash)."""
        used_grammar = grammar.full() if any(chapter.lengths_s for chapter in self.chapters) else None
        parts = [self.version, self.name, self.hours, self.chapters, used_grammar]
        return hashlib.sha256(orjson.dumps(parts)).hexdigest()


def mini() -> Corpus:
    """The small corpus: one chapter per speaker, each sentence once."""
    chapters: list[Chapter] = []
    for split, speakers, each in (
        (TRAIN, MINI_TRAIN_SPEAKERS, MINI_TRAIN_EACH),
        (VAL, MINI_VAL_SPEAKERS, MINI_VAL_EACH),
    ):
        sentences = _distinct(Sentences(grammar.mini(), f"mini/{split}"), split, speakers * each)
        for index in range(speakers):
            texts = tuple(sentences[index::speakers])
            chapters.append(Chapter(split, _speaker("mini", split, index), FIRST_CHAPTER[split] + index, texts=texts))
    return Corpus("mini", VERSIONS["mini"], None, tuple(chapters))


def synthetic(hours: float = SYNTHETIC_HOURS) -> Corpus:
    """The large corpus: `hours` of training speech and 5 % as much for validation (at least half an hour, at most ten).

    With other hours than the benchmark's 80 it is another corpus, so its name contains them: `synthetic-4h`.
    """
    chapters: list[Chapter] = []
    val_hours = min(max(hours / 20, MIN_VAL_HOURS), MAX_VAL_HOURS)
    for split, split_hours, speakers in (
        (TRAIN, hours, SYNTHETIC_TRAIN_SPEAKERS),
        (VAL, val_hours, SYNTHETIC_VAL_SPEAKERS),
    ):
        utterances = max(1, round(split_hours * 3600 / mean_length_s(split)))
        each = min(MAX_CHAPTER_UTTERANCES, -(-utterances // speakers))
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
    return Corpus(synthetic_name(hours), VERSIONS["synthetic"], hours, tuple(chapters))


def synthetic_name(hours: float) -> str:
    """The name of the large corpus with `hours` of training speech."""
    return "synthetic" if hours == SYNTHETIC_HOURS else f"synthetic-{hours:g}h"


def is_synthesised(name: str) -> bool:
    """Whether a dataset folder of this name is a corpus that the benchmark synthesises."""
    return name in SYNTHESISED or hours_of(name) is not None


def hours_of(name: str) -> float | None:
    """The hours in the name of a `synthetic` of another size (4.0 for `synthetic-4h`); None for any other name."""
    found = re.fullmatch(r"synthetic-(\d{1,5}(?:\.\d{1,3})?)h", name)
    hours = float(found[1]) if found else 0.0
    # Only the spelling that `synthetic` produces, so that a corpus is looked up and made under the same name.
    valid = MIN_HOURS <= hours <= MAX_HOURS and hours != SYNTHETIC_HOURS and name == synthetic_name(hours)
    return hours if valid else None


def synthesis_arguments(name: str) -> list[str]:
    """The arguments of `python -m datasets synthesise` for the synthesised corpus of this name."""
    hours = hours_of(name)
    return [name] if hours is None else ["synthetic", "--hours", f"{hours:g}"]


def version_of(name: str) -> int | None:
    """The current version of the synthesised corpus of this name; None for any other name."""
    return VERSIONS["mini" if name == "mini" else "synthetic"] if is_synthesised(name) else None


def length_s(split: str, share: float) -> float:
    """The quantile `share` in [0, 1] of the split's length distribution, in seconds."""
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


def _distinct(stream: Sentences, split: str, count: int) -> list[str]:
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        chosen[stream.draw(split)] = None
    return list(chosen)


def _speaker(corpus: str, split: str, index: int, *rates: tuple[int, int]) -> Speaker:
    return draw_speaker(str(FIRST_SPEAKER[split] + index), corpus, *rates)
