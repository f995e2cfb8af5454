"""Counting word errors as benchmark.error_rates does, compared with python-Levenshtein as the MLPerf reference uses it.

Run by `python -m benches.wer_counting`. The reference maps each distinct word to a character and compares the strings, utterance
by utterance (`decoder.py`, `wer`). Pairs of texts per second, one thread.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import Levenshtein
from rapidfuzz.distance.Levenshtein import distance

from benches.line import Line, alternating, report
from benchmark.error_rates import score_of

GOAL_RATIO = 3
ROUNDS = 5
PAIRS, WORDS = 2000, 25
"""A LibriSpeech utterance has about 25 words in evaluation."""


def main() -> int:
    """Print one line: name, our pairs/s, the peer's, the ratio, the goal; exit status 0 if it is met."""
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.randint(2, 9))) for _ in range(5000)]
    pairs = []
    for _ in range(PAIRS):
        words = rng.choices(vocabulary, k=WORDS)
        heard = [rng.choice(vocabulary) if rng.random() < 0.2 else word for word in words if rng.random() > 0.03]
        pairs.append((" ".join(words), " ".join(heard)))
    if (counted := _on_words(pairs)) != _levenshtein(pairs) or counted != score_of(pairs).word_edits:
        raise RuntimeError("the counts differ")
    ours_s, peer_s, ratio = alternating(lambda: _on_words(pairs), lambda: _levenshtein(pairs), ROUNDS)
    ours, peer = f"{PAIRS / ours_s:.0f} pairs/s", f"python-Levenshtein {PAIRS / peer_s:.0f} pairs/s"
    return report([Line("word error counting", ours, peer, ratio, GOAL_RATIO)])


def _on_words(pairs: Sequence[tuple[str, str]]) -> int:
    return sum(distance(reference.split(), hypothesis.split()) for reference, hypothesis in pairs)


def _levenshtein(pairs: Sequence[tuple[str, str]]) -> int:
    edits = 0
    for reference, hypothesis in pairs:
        distinct = set(reference.split() + hypothesis.split())
        number = dict(zip(distinct, range(len(distinct)), strict=True))
        first = [chr(number[word]) for word in reference.split()]
        second = [chr(number[word]) for word in hypothesis.split()]
        edits += Levenshtein.distance("".join(first), "".join(second))
    return edits


if __name__ == "__main__":
    sys.exit(main())
