"""CTC prefix beam search, optionally with a word list or an n-gram language model. The score stays greedy.

The algorithm is that of Hannun et al. (2014, arXiv:1408.2873): prefixes are ranked by the total probability of their
alignments, kept separately for alignments that end in a blank and those that do not. It is implemented here because no
library of it installs on all supported Python versions (docs/inference.md).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from common.errors import UserError
from reference_model.inference.language_model import (
    LETTERS,
    SENTENCE_END,
    SENTENCE_START,
    LanguageModel,
    folded,
    read_arpa,
)
from reference_model.model.alphabet import BLANK, LABELS
from reference_model.model.greedy import greedy

LEAST_PROBABILITY = 1e-4
"""Labels less probable than this in a frame do not extend prefixes there: this saves nine tenths of the time."""
_NEVER = -math.inf


def read_words(path: Path) -> frozenset[str]:
    """Read a word list: one word per line, in any case; UserError where a word cannot be spelt with the labels."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError("no such word list", where=path) from None
    except UnicodeDecodeError:
        raise UserError("not text in UTF-8", where=path) from None
    words = set()
    for number, line in enumerate(lines, 1):
        word = folded(line.strip())
        if set(word) - LETTERS:
            raise UserError(f"not one word of A-Z and apostrophe: {line.strip()!r}", where=f"{path}:{number}")
        words.add(word)
    words.discard("")
    if not words:
        raise UserError("the word list is empty", where=path)
    return frozenset(words)


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """Settings of a search. `weight` multiplies the language model's log-probability, `bonus` is added per word.

    A closed language model is a word list as well: words without a probability are not searched.
    """

    width: int = 16
    words: frozenset[str] | None = None
    model: LanguageModel | None = None
    weight: float = 0.5
    bonus: float = 0.5
    least_probability: float = LEAST_PROBABILITY

    @cached_property
    def allowed(self) -> frozenset[str] | None:
        """The words that a text may contain; None: any."""
        if self.model is None or not self.model.closed:
            return self.words
        return self.model.words if self.words is None else self.model.words & self.words

    def __call__(self, log_probabilities: Tensor, frames: Tensor) -> list[str]:
        """The best text of each utterance of (output frames, batch, labels) natural log-probabilities."""
        values = log_probabilities.float().cpu().numpy()
        return [self.search(values[: int(n), row])[0] for row, n in enumerate(frames.tolist())]

    def search(self, values: np.ndarray) -> tuple[str, float]:
        """The best text of (frames, labels) log-probabilities, and its total score (natural logarithm)."""
        may_follow, language_score = self._may_follow(), lru_cache(maxsize=100_000)(self._language_score)
        # For each prefix: the log-probability of its alignments that end in a blank, and of those that do not.
        beam: dict[str, tuple[float, float]] = {"": (0.0, _NEVER)}
        least = math.log(self.least_probability) if self.least_probability else _NEVER
        for frame in values.tolist():
            extended: dict[str, tuple[float, float]] = {}
            labels = [(LABELS[i], p) for i, p in enumerate(frame) if i != BLANK and p >= least]
            for prefix, (blank, other) in beam.items():
                total = _add(blank, other)
                kept = extended.get(prefix, (_NEVER, _NEVER))
                repeated = other + frame[LABELS.index(prefix[-1])] if prefix else _NEVER
                extended[prefix] = _add(kept[0], total + frame[BLANK]), _add(kept[1], repeated)
                for label, probability in labels:
                    # The same label twice in a row is one letter unless a blank is in between.
                    start = blank if prefix and prefix[-1] == label else total
                    if start == _NEVER or not may_follow(prefix, label):
                        continue
                    longer = prefix + label
                    before = extended.get(longer, (_NEVER, _NEVER))
                    extended[longer] = before[0], _add(before[1], start + probability)
            ranked = sorted(extended.items(), key=lambda item: -(_add(*item[1]) + language_score(item[0])))
            beam = dict(ranked[: self.width])
        return self._best(beam)

    def _best(self, beam: dict[str, tuple[float, float]]) -> tuple[str, float]:
        """The best prefix as a finished text; with a word list, one that ends in a complete word if there is one."""
        ended = {
            p: v
            for p, v in beam.items()
            if self.allowed is None or not (w := p.rpartition(" ")[2]) or w in self.allowed
        }
        if not ended:
            # All end in the middle of a word: drop the incomplete word.
            ended = {p.rpartition(" ")[0]: v for p, v in sorted(beam.items(), key=lambda item: _add(*item[1]))}
        scored = [
            (_add(*values) + self._score_words(prefix.split(), end=True), prefix) for prefix, values in ended.items()
        ]
        score, text = max(scored)
        # A complete word ends with its last letter: drop a space recognized after it.
        return text if self.allowed is None else text.rstrip(), score

    def _language_score(self, prefix: str) -> float:
        """The score that the language model gives the prefix's complete words."""
        return self._score_words(prefix.split(" ")[:-1], end=False)

    def _score_words(self, words: list[str], *, end: bool) -> float:
        if self.model is None:
            return 0.0
        words = [word for word in words if word]
        score = 0.0
        context: tuple[str, ...] = (SENTENCE_START,)
        for word in words:
            score += self.weight * self.model.log_probability(context, word) + self.bonus
            context = (*context, word)
        return score + (self.weight * self.model.log_probability(context, SENTENCE_END) if end else 0.0)

    def _may_follow(self) -> Callable[[str, str], bool]:
        words = self.allowed
        if words is None:
            return lambda prefix, label: True
        starts = _starts(words)

        def may_follow(prefix: str, label: str) -> bool:
            word = prefix.rpartition(" ")[2]
            return word in words if label == " " else word + label in starts

        return may_follow


@cache
def _starts(words: frozenset[str]) -> frozenset[str]:
    return frozenset(word[:end] for word in words for end in range(1, len(word) + 1))


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))


def decoder_of(options: argparse.Namespace) -> Callable[[Tensor, Tensor], list[str]]:
    """The decoder that the options of reference_model.infer select; an option that would be ignored is an error."""
    if options.decoder == "greedy":
        for name in ("words", "lm"):
            if getattr(options, name) is not None:
                raise UserError("needs --decoder beam", where=f"--{name}")
        return greedy
    if options.beam_width < 1:
        raise UserError("must be at least 1", where="--beam-width")
    for name in ("lm_weight", "word_bonus"):
        if not math.isfinite(getattr(options, name)):
            raise UserError("must be a finite number", where="--" + name.replace("_", "-"))
    search = BeamSearch(
        width=options.beam_width,
        words=read_words(options.words) if options.words else None,
        model=read_arpa(options.lm) if options.lm else None,
        weight=options.lm_weight,
        bonus=options.word_bonus,
    )
    if search.model and search.model.closed:
        _check_closed(search, options)
    return search


def _check_closed(search: BeamSearch, options: argparse.Namespace) -> None:
    """Refuse a closed model without a word list: other words would silently become the model's words, or nothing."""
    if search.words is None:
        raise UserError(
            "gives unknown words no probability: <unk> is missing, or its value is 0 or -99",
            where=options.lm,
            remedy="add a line such as `-5 <unk>` to its 1-grams and count it above, or give the list of words with --words",
        )
    left = len(search.allowed or ())
    if not left:
        raise UserError(f"none of its words is in {options.lm}, which is a closed model", where=options.words)
    if left < len(search.words):
        outside = len(search.words) - left
        print(f"note: {outside} words of {options.words} are not in {options.lm} and are not searched", file=sys.stderr)
