"""CTC prefix beam search, with a word list or an n-gram language model where one is given. The benchmark's score stays greedy.

The search is Hannun et al.'s (2014, arXiv:1408.2873): prefixes compete with the probability of all their alignments, kept apart
by whether the last frame was a blank. It is our own because no library of it installs on all our Python versions
(docs/inference.md).
"""

from __future__ import annotations

import argparse
import gzip
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from datasets.errors import UserError
from datasets.manifest import normalise_text

from .alphabet import BLANK, LABELS
from .decode import greedy

LEAST_PROBABILITY = 1e-4
"""Labels less probable than this in a frame start no new prefixes there: it saves nine tenths of the time."""
_NEVER = -math.inf
_LN10 = math.log(10)
_SENTENCE_START, _SENTENCE_END, _UNKNOWN = "<s>", "</s>", "<unk>"


class LanguageModel:
    """A back-off n-gram model (Katz 1987) in ARPA form: probabilities and back-off weights as base-10 logarithms."""

    def __init__(self, ngrams: dict[tuple[str, ...], tuple[float, float]], order: int) -> None:
        self._ngrams, self.order = ngrams, order
        self._unknown = ngrams.get((_UNKNOWN,), (-10.0, 0.0))[0]

    def log_probability(self, context: tuple[str, ...], word: str) -> float:
        """The natural logarithm of P(word | context); of the context the last order - 1 words count."""
        context = context[max(0, len(context) - self.order + 1) :]
        backed_off = 0.0
        while True:
            if (found := self._ngrams.get((*context, word))) is not None:
                return _LN10 * (backed_off + found[0])
            if not context:
                return _LN10 * (backed_off + self._unknown)
            backed_off += self._ngrams.get(context, (0.0, 0.0))[1]
            context = context[1:]


def read_arpa(path: Path) -> LanguageModel:
    """Read an ARPA file (plain or .gz); words are taken in upper case. UserError naming the line of the first fault."""
    ngrams: dict[tuple[str, ...], tuple[float, float]] = {}
    order = longest = 0
    ended = False
    try:
        opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
        with opened as file:
            for number, line in enumerate(file, 1):
                text = line.strip()
                if text == "\\end\\":
                    ended = True
                    break
                if text.endswith("-grams:") and text.startswith("\\"):
                    order = _whole(text[1 : -len("-grams:")], path, number)
                    longest = max(longest, order)
                elif text and order:
                    _add_ngram(ngrams, text.split(), order, path, number)
    except FileNotFoundError:
        raise UserError("no such language model", where=path) from None
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"not an ARPA file ({error})", where=path) from None
    if not ended or not ngrams:
        raise UserError("not a whole ARPA file: it does not end in \\end\\", where=path)
    return LanguageModel(ngrams, longest)


def _whole(text: str, path: Path, line: int) -> int:
    if not text.isdigit():
        raise UserError(f"expected \\N-grams:, not {text!r}", where=f"{path}:{line}")
    return int(text)


def _add_ngram(
    ngrams: dict[tuple[str, ...], tuple[float, float]], fields: list[str], order: int, path: Path, line: int
) -> None:
    words = tuple(word if word.startswith("<") else word.upper() for word in fields[1 : 1 + order])
    try:
        if len(words) != order or len(fields) > order + 2:
            raise ValueError(f"expected {order} words")
        entry = float(fields[0]), float(fields[order + 1]) if len(fields) > order + 1 else 0.0
        if any(math.isnan(value) for value in entry):
            raise ValueError("not a number")
        ngrams[words] = entry
    except ValueError as error:
        raise UserError(f"not an entry of {order} words ({error})", where=f"{path}:{line}") from None


def read_words(path: Path) -> frozenset[str]:
    """A word list: one word a line, in any case; UserError where a word cannot be spelt with the labels."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError("no such word list", where=path) from None
    except UnicodeDecodeError:
        raise UserError("not text in UTF-8", where=path) from None
    words = set()
    for number, line in enumerate(lines, 1):
        word = normalise_text(line)
        if " " in word or set(word) - set(LABELS[1:]):
            raise UserError(f"not one word of A-Z and apostrophe: {line.strip()!r}", where=f"{path}:{number}")
        words.add(word)
    words.discard("")
    if not words:
        raise UserError("the word list is empty", where=path)
    return frozenset(words)


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """What a search looks for. `weight` multiplies the language model's logarithm, `bonus` is added for each whole word."""

    width: int = 16
    words: frozenset[str] | None = None
    model: LanguageModel | None = None
    weight: float = 0.5
    bonus: float = 0.5
    least_probability: float = LEAST_PROBABILITY

    def __call__(self, log_probabilities: Tensor, frames: Tensor) -> list[str]:
        """The best text of each utterance of (output frames, batch, labels) natural log-probabilities."""
        values = log_probabilities.float().cpu().numpy()
        return [self.search(values[: int(n), row])[0] for row, n in enumerate(frames.tolist())]

    def search(self, values: np.ndarray) -> tuple[str, float]:
        """The best text of one utterance, (frames, labels) log-probabilities, and its total score (natural logarithm)."""
        may_follow, outside = self._may_follow(), lru_cache(maxsize=100_000)(self._outside)
        # Of each prefix: the logarithm of its alignments that end in a blank, and of those that do not.
        beam: dict[str, tuple[float, float]] = {"": (0.0, _NEVER)}
        least = math.log(self.least_probability) if self.least_probability else _NEVER
        for frame in values.tolist():
            grown: dict[str, tuple[float, float]] = {}
            labels = [(LABELS[i], p) for i, p in enumerate(frame) if i != BLANK and p >= least]
            for prefix, (blank, other) in beam.items():
                total = _add(blank, other)
                kept = grown.get(prefix, (_NEVER, _NEVER))
                repeated = other + frame[LABELS.index(prefix[-1])] if prefix else _NEVER
                grown[prefix] = _add(kept[0], total + frame[BLANK]), _add(kept[1], repeated)
                for label, probability in labels:
                    # The same label twice in a row is one letter unless a blank stands between.
                    start = blank if prefix and prefix[-1] == label else total
                    if start == _NEVER or not may_follow(prefix, label):
                        continue
                    longer = prefix + label
                    before = grown.get(longer, (_NEVER, _NEVER))
                    grown[longer] = before[0], _add(before[1], start + probability)
            ranked = sorted(grown.items(), key=lambda item: -(_add(*item[1]) + outside(item[0])))
            beam = dict(ranked[: self.width])
        return self._best(beam)

    def _best(self, beam: dict[str, tuple[float, float]]) -> tuple[str, float]:
        """The best prefix with its last word ended; with a word list, one that ends in a whole word if there is one."""
        ended = {
            p: v for p, v in beam.items() if self.words is None or not (w := p.rpartition(" ")[2]) or w in self.words
        }
        if not ended:
            # Cut off in mid-word: what came before stands.
            ended = {p.rpartition(" ")[0]: v for p, v in sorted(beam.items(), key=lambda item: _add(*item[1]))}
        scored = [
            (_add(*values) + self._of_words(prefix.split(), end=True), prefix) for prefix, values in ended.items()
        ]
        score, text = max(scored)
        # Whole words end in their last letter, whatever was heard after it.
        return text if self.words is None else text.rstrip(), score

    def _outside(self, prefix: str) -> float:
        """What word list and language model say of the prefix's whole words."""
        return self._of_words(prefix.split(" ")[:-1], end=False)

    def _of_words(self, words: list[str], *, end: bool) -> float:
        if self.model is None:
            return 0.0
        words = [word for word in words if word]
        score = 0.0
        context: tuple[str, ...] = (_SENTENCE_START,)
        for word in words:
            score += self.weight * self.model.log_probability(context, word) + self.bonus
            context = (*context, word)
        return score + (self.weight * self.model.log_probability(context, _SENTENCE_END) if end else 0.0)

    def _may_follow(self) -> Callable[[str, str], bool]:
        if self.words is None:
            return lambda prefix, label: True
        words = self.words
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
    """The decoder that reference_model.infer's options name; an option that would be ignored is an error."""
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
    return BeamSearch(
        width=options.beam_width,
        words=read_words(options.words) if options.words else None,
        model=read_arpa(options.lm) if options.lm else None,
        weight=options.lm_weight,
        bonus=options.word_bonus,
    )
