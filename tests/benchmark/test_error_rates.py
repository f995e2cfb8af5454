"""Error rates: compared with jiwer on thousands of random pairs, with plain definitions, and at the edges."""

from __future__ import annotations

import random

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.error_rates import Score, score_of
from common.errors import UserError

WORDS = [
    "A",
    "AN",
    "THE",
    "CAT",
    "CAT'S",
    "SAT",
    "ON",
    "TWO",
    "TOO",
    "TO",
    "ONE",
    "ZERO",
    "O'CLOCK",
    "NEVERTHELESS",
    "I",
]


def random_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """References, with hypotheses from almost correct (some words dropped, inserted, replaced, misspelt) to unrelated."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        reference = draw.choices(WORDS, k=draw.randint(1, 20))
        hypothesis = list(reference) if draw.random() < 0.8 else draw.choices(WORDS, k=draw.randint(0, 20))
        for _ in range(draw.randint(0, 6)):
            place = draw.randrange(len(hypothesis) + 1)
            kind = draw.choice(("drop", "insert", "replace", "misspell"))
            if kind == "drop":
                del hypothesis[place : place + 1]
            elif kind == "insert":
                hypothesis.insert(place, draw.choice(WORDS))
            elif kind == "replace":
                hypothesis[place : place + 1] = [draw.choice(WORDS)]
            elif place < len(hypothesis):
                hypothesis[place] = hypothesis[place][::-1] + draw.choice("AEIOU")
        pairs.append((" ".join(reference), " ".join(hypothesis)))
    return pairs


def test_counts_equal_jiwers():
    pairs = random_pairs(2000, seed=1)
    assert {hypothesis for _, hypothesis in pairs} >= {""}, "empty hypotheses are among them"
    references, hypotheses = (list(column) for column in zip(*pairs, strict=True))
    words, chars = jiwer.process_words(references, hypotheses), jiwer.process_characters(references, hypotheses)
    score = score_of(pairs)
    assert score.word_edits == words.substitutions + words.deletions + words.insertions
    assert score.words == words.hits + words.substitutions + words.deletions
    assert score.char_edits == chars.substitutions + chars.deletions + chars.insertions
    assert score.chars == chars.hits + chars.substitutions + chars.deletions
    assert score.wer == pytest.approx(100 * words.wer, rel=1e-12)
    assert score.cer == pytest.approx(100 * chars.cer, rel=1e-12)


def test_each_pair_equals_jiwers():
    for reference, hypothesis in random_pairs(1500, seed=2):
        score = score_of([(reference, hypothesis)])
        assert score.wer == pytest.approx(100 * jiwer.wer(reference, hypothesis), rel=1e-12)
        assert score.cer == pytest.approx(100 * jiwer.cer(reference, hypothesis), rel=1e-12)
        assert score.mean_wer == pytest.approx(score.wer, rel=1e-12)


def plain_distance(a: list[str] | str, b: list[str] | str) -> int:
    """Levenshtein's distance from its definition."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        previous, row = row, [i]
        for j, right in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (left != right)))
    return row[-1]


@given(st.lists(st.sampled_from("AB "), min_size=1, max_size=9), st.lists(st.sampled_from("AB "), max_size=9))
def test_counts_equal_the_definition(reference_chars, hypothesis_chars):
    reference, hypothesis = "".join(reference_chars), "".join(hypothesis_chars)
    if not reference.strip():
        return
    score = score_of([(reference, hypothesis)])
    assert score.word_edits == plain_distance(reference.split(), hypothesis.split())
    assert score.char_edits == plain_distance(" ".join(reference.split()), " ".join(hypothesis.split()))


@pytest.mark.parametrize(
    ("reference", "hypothesis", "wer", "cer"),
    [
        ("A B", "A B", 0, 0),
        ("A B", "", 100, 100),
        ("A", "B C D", 300, 500),
        ("HELLO", "HELLOO", 100, 20),
        ("A  B", " A B ", 0, 0),  # spaces around and between words are not words
        ("A B", "AB", 100, pytest.approx(100 / 3)),  # a lost space is one character
        ("IT'S", "ITS", 100, 25),
    ],
)
def test_named_cases(reference, hypothesis, wer, cer):
    score = score_of([(reference, hypothesis)])
    assert (score.wer, score.cer) == (wer, cer)


@pytest.mark.parametrize("reference", ["", "   ", "\t\n"])
def test_an_empty_reference_is_refused(reference):
    with pytest.raises(UserError, match="empty reference"):
        score_of([("A", "A"), (reference, "A")])


def test_the_score_of_nothing_is_not_zero():
    assert score_of([]) == Score()
    assert (Score().wer, Score().cer, Score().mean_wer) == (None, None, None)


def test_the_wer_is_all_edits_over_all_words_and_not_the_mean_over_utterances():
    score = score_of([("A", "B"), ("A B C D E F G H I", "A B C D E F G H I")])
    assert score.wer == 10
    assert score.mean_wer == 50


def test_scores_of_parts_add_up_however_the_set_is_cut():
    pairs = random_pairs(300, seed=3)
    whole = score_of(pairs)
    for cut in (0, 1, 150, 299, 300):
        parts = score_of(pairs[:cut]) + score_of(pairs[cut:])
        assert (parts.utterances, parts.word_edits, parts.words) == (whole.utterances, whole.word_edits, whole.words)
        assert (parts.char_edits, parts.chars) == (whole.char_edits, whole.chars)
        assert parts.mean_wer == pytest.approx(whole.mean_wer, rel=1e-12)


def test_pairs_may_come_one_by_one():
    assert score_of(pair for pair in [("A", "A")]).words == 1
