"""CTC prefix beam search against all alignments counted out, word lists and language models in ARPA form."""

from __future__ import annotations

import argparse
import gzip
import itertools
import math

import numpy as np
import pytest
import torch

from datasets.errors import UserError
from reference_model.alphabet import LABELS
from reference_model.beam import BeamSearch, decoder_of, read_arpa, read_words
from reference_model.decode import greedy

ARPA = """\\data\\
ngram 1=6
ngram 2=3

\\1-grams:
-2.0 <unk>
-99 <s> -0.3
-1.0 </s>
-0.9 cat -0.2
-0.8 cab -0.1
-1.2 the -0.4

\\2-grams:
-0.1 the cat
-0.5 <s> the
-0.2 cat </s>

\\end\\
"""


def spelt(*choices: dict[str, float]) -> np.ndarray:
    """(frames, labels) log-probabilities; what a frame does not name shares 1e-6."""
    frames = []
    for named in choices:
        frame = np.full(len(LABELS), 1e-7)
        for label, probability in named.items():
            frame[LABELS.index(label)] = probability
        frames.append(np.log(frame / frame.sum()))
    return np.array(frames)


def every_text(values: np.ndarray) -> dict[str, float]:
    """The probability of every text: of all its alignments, each written out."""
    total: dict[str, float] = {}
    for path in itertools.product(range(values.shape[1]), repeat=len(values)):
        text = "".join(LABELS[label] for label, _ in itertools.groupby(path) if label != 0)
        probability = math.exp(sum(values[t, label] for t, label in enumerate(path)))
        total[text] = total.get(text, 0.0) + probability
    return total


@pytest.mark.parametrize("seed", range(8))
def test_the_best_text_over_all_alignments_is_found(seed):
    rng = np.random.default_rng(seed)
    values = np.full((5, len(LABELS)), -np.inf)
    chosen = [0, *rng.choice(np.arange(1, len(LABELS)), 3, replace=False)]
    values[:, chosen] = np.log(rng.dirichlet(np.ones(4), 5))
    few = every_text(values[:, chosen])
    few = {"".join(LABELS[chosen[LABELS.index(c)]] for c in text): p for text, p in few.items()}
    text, score = BeamSearch(width=1000, least_probability=0.0).search(values)
    assert text == max(few, key=few.__getitem__)
    assert score == pytest.approx(math.log(few[text]))


def test_it_finds_what_greedy_misses():
    """Two alignments of A together outweigh the single best one, of nothing."""
    values = spelt({"_": 0.6, "A": 0.4}, {"_": 0.6, "A": 0.4})
    batch, frames = torch.from_numpy(values)[:, None], torch.tensor([2])
    assert greedy(batch, frames) == [""]
    assert BeamSearch()(batch, frames) == ["A"]


def test_a_letter_twice_needs_a_blank_between():
    assert BeamSearch().search(spelt({"B": 1}, {"B": 1}))[0] == "B"
    assert BeamSearch().search(spelt({"B": 1}, {"_": 1}, {"B": 1}))[0] == "BB"


def test_each_utterance_ends_at_its_own_end():
    values = torch.from_numpy(np.stack([spelt({"A": 1}, {"B": 1}), spelt({"C": 1}, {"D": 1})], 1))
    assert BeamSearch()(values, torch.tensor([2, 1])) == ["AB", "C"]
    assert BeamSearch()(values, torch.tensor([0, 2])) == ["", "CD"]


HEARD = spelt({"T": 1}, {"H": 1}, {"E": 1}, {" ": 1}, {"C": 1}, {"A": 1}, {"T": 0.45, "B": 0.55})


def test_a_word_list_allows_its_words_alone():
    assert BeamSearch().search(HEARD)[0] == "THE CAB"
    assert BeamSearch(words=frozenset({"THE", "CAT"})).search(HEARD)[0] == "THE CAT"
    assert BeamSearch(words=frozenset({"THE", "CATS"})).search(HEARD)[0] == "THE", "cut off in mid-word"


def test_a_language_model_decides_between_words(tmp_path):
    (tmp_path / "lm.arpa").write_text(ARPA)
    model = read_arpa(tmp_path / "lm.arpa")
    assert BeamSearch(model=model, weight=1.0).search(HEARD)[0] == "THE CAT"
    assert BeamSearch(model=model, weight=0.0).search(HEARD)[0] == "THE CAB"


def test_back_off_is_katzs(tmp_path):
    with gzip.open(tmp_path / "lm.arpa.gz", "wt") as file:
        file.write(ARPA)
    model = read_arpa(tmp_path / "lm.arpa.gz")

    def log10(context: str, word: str) -> float:
        return model.log_probability(tuple(context.split()), word) / math.log(10)

    assert log10("THE", "CAT") == pytest.approx(-0.1)
    assert log10("<s> A THE", "CAT") == pytest.approx(-0.1), "a bigram model looks back one word"
    assert log10("THE", "CAB") == pytest.approx(-0.4 - 0.8)
    assert log10("NEVER", "CAB") == pytest.approx(-0.8)
    assert log10("CAT", "NEVER") == pytest.approx(-0.2 - 2.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ARPA.replace("\\end\\", ""), "whole"),
        (ARPA.replace("-0.1 the cat", "-0.1 the"), ":14"),
        (ARPA.replace("-0.9 cat", "x cat"), ":9"),
        (ARPA.replace("\\2-grams:", "\\two-grams:"), ":13"),
        ("hello\n", "whole"),
    ],
)
def test_a_damaged_language_model_is_named_with_its_line(tmp_path, text, said):
    (tmp_path / "lm.arpa").write_text(text)
    with pytest.raises(UserError, match=said):
        read_arpa(tmp_path / "lm.arpa")


def test_word_lists_are_read_in_any_case_and_checked(tmp_path):
    (tmp_path / "words.txt").write_text("cat\n\nDon't\n")
    assert read_words(tmp_path / "words.txt") == {"CAT", "DON'T"}
    for content in ("caf\u00e9\n", "two words\n", "\n"):
        (tmp_path / "bad.txt").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"bad\.txt"):
            read_words(tmp_path / "bad.txt")


def test_greedy_is_the_default_and_ignores_no_option(tmp_path):
    options = argparse.Namespace(decoder="greedy", words=None, lm=None)
    assert decoder_of(options) is greedy
    with pytest.raises(UserError, match="--decoder beam"):
        decoder_of(argparse.Namespace(decoder="greedy", words=tmp_path / "w", lm=None))
