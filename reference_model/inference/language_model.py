"""Back-off n-gram language models in ARPA format, as SRILM, KenLM, IRSTLM and OpenSLR write them.

Words are converted to upper case. A file that is truncated, contradictory or ambiguous is refused.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from common.errors import UserError
from reference_model.model.alphabet import LABELS

SENTENCE_START, SENTENCE_END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0
"""ARPA's representation of the logarithm of zero."""
LETTERS = frozenset(LABELS[1:-1])
"""The characters that words are spelt with."""
_LN10 = math.log(10)
# <unk>, <UNK>, [unk], <unknown>, <oov>, !!UNK: marked as not a word. A bare UNK is a word of three letters.
_UNKNOWN_SPELLINGS = re.compile(r"[<\[({|!_]+(unk|unknown|oov)[/>\])}|!_]*", re.IGNORECASE)
_SPACES = re.compile(r"[ \t]+")
_SECTION = re.compile(r"\\(\d+)-grams:", re.ASCII)
_COUNT = re.compile(r"ngram\s+(\d+)\s*=\s*(\d+)", re.ASCII)


class LanguageModel:
    """A back-off n-gram model (Katz 1987): probabilities and back-off weights as base-10 logarithms.

    `words` are its words that the labels can spell. A model is `closed` if it gives unknown words no probability: its
    <unk> is missing, or has the value -99, or 0, which would mean certainty and is what some tools write in place of a
    missing value.
    """

    def __init__(self, ngrams: Mapping[tuple[str, ...], tuple[float, float]], order: int) -> None:
        self._ngrams, self.order = ngrams, order
        self.words = frozenset(gram[0] for gram in ngrams if len(gram) == 1 and set(gram[0]) <= LETTERS)
        self.closed = not NEVER < ngrams.get((UNKNOWN,), (NEVER, 0.0))[0] < 0
        self._ends = (SENTENCE_END,) in ngrams

    def log_probability(self, context: tuple[str, ...], word: str) -> float:
        """The natural logarithm of P(word | context); only the last order - 1 words of the context matter.

        Unknown words are treated as <unk>, in the context too; in a closed model their probability is NEVER. A model
        without </s> has no probability for the end of a sentence: 0 is returned.
        """
        if word == SENTENCE_END and not self._ends:
            return 0.0
        word = self._known(word)
        if word == UNKNOWN and self.closed:
            return _LN10 * NEVER
        context = tuple(map(self._known, context[max(0, len(context) - self.order + 1) :]))
        backed_off = 0.0
        for start in range(len(context)):
            if (found := self._ngrams.get((*context[start:], word))) is not None:
                return _LN10 * (backed_off + found[0])
            backed_off += self._ngrams.get(context[start:], (0.0, 0.0))[1]
        return _LN10 * (backed_off + self._ngrams.get((word,), (NEVER, 0.0))[0])

    def _known(self, word: str) -> str:
        return word if word == SENTENCE_START or (word,) in self._ngrams else UNKNOWN


def read_arpa(path: Path) -> LanguageModel:
    """Read an ARPA file (plain or .gz); UserError naming the line of the first fault."""
    reader = _Reader(path)
    try:
        with _open(path) as file:
            for line in file:
                reader.take(line.strip(" \t\r\n"))
                if reader.ended:
                    break
    except FileNotFoundError:
        raise UserError("no such language model", where=path) from None
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"not an ARPA file ({error})", where=path, remedy="give the model as text, not as a binary"
        ) from None
    return reader.model()


def folded(word: str) -> str:
    """`word` as the labels spell it: upper case, straight apostrophes.

    Words with letters other than A-Z are not changed: upper case would turn the German sharp s into "SS", and the
    Turkish dotless i into I.
    """
    word = word.replace("\u2019", "'")
    return word.upper() if word.isascii() else word


def _open(path: Path) -> TextIO:
    # A byte order mark is not part of the first line.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return open(path, encoding="utf-8-sig")


def _canonical(word: str) -> str:
    if word.lower() in (SENTENCE_START, SENTENCE_END):
        return word.lower()
    if _UNKNOWN_SPELLINGS.fullmatch(word):
        return UNKNOWN
    return word if word.startswith(("<", "[")) else folded(word)


class _Reader:
    """Parser state. `_order` is None before \\data\\, 0 in the header, then the order of the current section."""

    def __init__(self, path: Path) -> None:
        self.ended = False
        self._path, self._line = path, 0
        self._order: int | None = None
        self._announced: dict[int, int] = {}
        self._ngrams: dict[tuple[str, ...], tuple[float, float]] = {}
        self._before = 0
        self._words: dict[str, str] = {}

    def take(self, text: str) -> None:
        """Parse the next line, without surrounding white space."""
        self._line += 1
        if self._order is None:
            # Any text may precede the header.
            self._order = 0 if text == "\\data\\" else None
        elif text.startswith("\\"):
            self._take_mark(text)
        elif text and self._order:
            self._add(_SPACES.split(text), self._order)
        elif text:
            self._take_count(text)

    def model(self) -> LanguageModel:
        """The complete model; UserError where the file did not end properly, or no word can be spelt."""
        if not self.ended or not self._ngrams:
            lacking = "has no \\data\\" if self._order is None else "does not end in \\end\\"
            raise UserError(
                f"not a complete ARPA file: it {lacking if not self.ended else 'is empty'}", where=self._path
            )
        model = LanguageModel(self._ngrams, max(map(len, self._ngrams)))
        if not model.words:
            raise UserError("none of its words can be spelt with A-Z and apostrophe", where=self._path)
        return model

    def _take_mark(self, text: str) -> None:
        if text == "\\end\\":
            self._start_section(max(self._announced, default=0) + 1)
            self.ended = True
        elif section := _SECTION.fullmatch(text):
            order = int(section[1])
            if order not in self._announced:
                raise self._fault(f"the header announces no {order}-grams")
            self._start_section(order)
        else:
            raise self._fault(f"expected \\N-grams:, not {text!r}")

    def _start_section(self, order: int) -> None:
        """Start a section. The previous one, and any skipped ones, must have the counts that the header announced."""
        assert self._order is not None
        if order <= self._order:
            raise self._fault(f"\\{order}-grams: comes after \\{self._order}-grams:")
        found = {self._order: len(self._ngrams) - self._before}
        for number in range(max(1, self._order), order):
            if number not in self._announced:
                raise self._fault(f"the header announces no {number}-grams")
            if found.get(number, 0) != self._announced[number]:
                raise self._fault(
                    f"{found.get(number, 0)} of the {self._announced[number]} {number}-grams that the header announces"
                )
        self._order, self._before = order, len(self._ngrams)

    def _take_count(self, text: str) -> None:
        count = _COUNT.fullmatch(text)
        if count is None or int(count[1]) in self._announced or not int(count[1]):
            raise self._fault(f"expected `ngram N=COUNT`, once for each N, not {text!r}")
        self._announced[int(count[1])] = int(count[2])

    def _add(self, fields: list[str], order: int) -> None:
        if not order < len(fields) <= order + 2:
            raise self._fault(f"not an entry of {order} words: {len(fields)} fields")
        words = tuple([self._words.get(raw) or self._word(raw, order) for raw in fields[1 : order + 1]])
        if words in self._ngrams:
            earlier = next((raw for raw, word in self._words.items() if (word,) == words and raw != fields[1]), None)
            raise self._fault(
                f"{' '.join(fields[1 : order + 1])!r} is listed a second time"
                + (f": {earlier!r} is the same word" if earlier else ""),
                remedy="make the model from text in one case, with one apostrophe and one unknown word",
            )
        probability = self._number(fields[0])
        if probability > 0:
            raise self._fault(f"a probability above 1 (its logarithm is {fields[0]})")
        self._ngrams[words] = probability, self._number(fields[-1]) if len(fields) > order + 1 else 0.0

    def _word(self, raw: str, order: int) -> str:
        word = _canonical(raw)
        if order > 1 and (word,) not in self._ngrams:
            raise self._fault(f"{raw!r} is not among the 1-grams")
        self._words[raw] = word
        return word

    def _number(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isnan(value) or value == math.inf:
            raise self._fault(f"{text!r} is not a logarithm")
        return max(value, NEVER)

    def _fault(self, what: str, remedy: str | None = None) -> UserError:
        return UserError(what, where=f"{self._path}:{self._line}", remedy=remedy)
