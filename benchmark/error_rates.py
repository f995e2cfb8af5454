"""Word and character error rates from edit counts: the WER is all word edits over all reference words.

The mean of per-utterance error rates, which the MLPerf reference computes, is kept as well for comparison with its
published figures; it is never the score.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from common.errors import UserError


@dataclass(frozen=True, slots=True)
class Score:
    """Edit counts over a set of utterances; `a + b` is the score of both sets together.

    `mean_wer_sum` is the sum over utterances of each one's own word error rate (a fraction, not percent).
    """

    utterances: int = 0
    word_edits: int = 0
    words: int = 0
    char_edits: int = 0
    chars: int = 0
    mean_wer_sum: float = 0.0

    def __add__(self, other: Score) -> Score:
        return Score(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def wer(self) -> float | None:
        """Word error rate in percent, over the whole set; None for an empty set."""
        return 100.0 * self.word_edits / self.words if self.words else None

    @property
    def cer(self) -> float | None:
        """Character error rate in percent, over the whole set, spaces counted; None for an empty set."""
        return 100.0 * self.char_edits / self.chars if self.chars else None

    @property
    def mean_wer(self) -> float | None:
        """Mean of the utterances' own word error rates in percent: the MLPerf reference's metric, for comparison."""
        return 100.0 * self.mean_wer_sum / self.utterances if self.utterances else None


def score_of(pairs: Iterable[tuple[str, str]]) -> Score:
    """Score (reference, hypothesis) pairs; an empty reference is a UserError, since its error rate is undefined."""
    utterances = word_edits = words = char_edits = chars = 0
    mean_wer_sum = 0.0
    for reference, hypothesis in pairs:
        reference_words = reference.split()
        if not reference_words:
            raise UserError("an empty reference transcript has no word error rate", remedy="leave the utterance out")
        edits = Levenshtein.distance(reference_words, hypothesis.split())
        reference_chars = " ".join(reference_words)
        utterances += 1
        word_edits += edits
        words += len(reference_words)
        char_edits += Levenshtein.distance(reference_chars, " ".join(hypothesis.split()))
        chars += len(reference_chars)
        mean_wer_sum += edits / len(reference_words)
    return Score(utterances, word_edits, words, char_edits, chars, mean_wer_sum)
