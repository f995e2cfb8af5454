"""CTC prefix beam search compared with an enumeration of all alignments; word lists and language models in ARPA format."""

from __future__ import annotations

import argparse
import gzip
import itertools
import math
import re

import numpy as np
import pytest
import torch

from common.errors import UserError
from reference_model.inference.beam_search import BeamSearch, decoder_of, read_words
from reference_model.inference.language_model import read_arpa
from reference_model.model.alphabet import LABELS
from reference_model.model.greedy import greedy

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
    """(frames, labels) log-probabilities; labels that a frame does not name share 1e-6."""
    frames = []
    for named in choices:
        frame = np.full(len(LABELS), 1e-7)
        for label, probability in named.items():
            frame[LABELS.index(label)] = probability
        frames.append(np.log(frame / frame.sum()))
    return np.array(frames)


def every_text(values: np.ndarray) -> dict[str, float]:
    """The probability of every text, summed over all of its alignments."""
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


def test_a_repeated_letter_needs_a_blank_between():
    assert BeamSearch().search(spelt({"B": 1}, {"B": 1}))[0] == "B"
    assert BeamSearch().search(spelt({"B": 1}, {"_": 1}, {"B": 1}))[0] == "BB"


def test_each_utterance_ends_at_its_own_end():
    values = torch.from_numpy(np.stack([spelt({"A": 1}, {"B": 1}), spelt({"C": 1}, {"D": 1})], 1))
    assert BeamSearch()(values, torch.tensor([2, 1])) == ["AB", "C"]
    assert BeamSearch()(values, torch.tensor([0, 2])) == ["", "CD"]


FRAMES = spelt({"T": 1}, {"H": 1}, {"E": 1}, {" ": 1}, {"C": 1}, {"A": 1}, {"T": 0.45, "B": 0.55})


def test_a_word_list_allows_only_its_words():
    assert BeamSearch().search(FRAMES)[0] == "THE CAB"
    assert BeamSearch(words=frozenset({"THE", "CAT"})).search(FRAMES)[0] == "THE CAT"
    assert BeamSearch(words=frozenset({"THE", "CATS"})).search(FRAMES)[0] == "THE", "cut off in mid-word"


def test_a_language_model_decides_between_words(tmp_path):
    (tmp_path / "lm.arpa").write_text(ARPA)
    model = read_arpa(tmp_path / "lm.arpa")
    assert BeamSearch(model=model, weight=1.0).search(FRAMES)[0] == "THE CAT"
    assert BeamSearch(model=model, weight=0.0).search(FRAMES)[0] == "THE CAB"


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


UNKNOWN_WORDS = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.5 <unk> -0.6
0 <s> -0.2
-1.1 </s>
-0.7 the -0.3
-0.9 cab

\\2-grams:
-0.4 the <unk>
-0.5 <unk> the
-0.6 <unk> </s>

\\end\\
"""
"""A model with n-grams of unknown words."""
RARE = spelt({"T": 1}, {"H": 1}, {"E": 1}, {" ": 0.6, "_": 0.4}, {"Z": 0.7, "C": 0.3}, {"A": 1}, {"B": 1})
"""THE ZAB, where ZAB is not a word of the model; THEZAB, THE CAB and THECAB are possible as well."""


def log10_of(path, sentence: str) -> float:
    """The base-10 logarithm of a sentence's probability, as the search computes it."""
    search = BeamSearch(model=read_arpa(path), weight=1.0, bonus=0.0)
    return search._score_words(sentence.split(), end=True) / math.log(10)


def test_unknown_words_count_in_contexts_too(tmp_path):
    """Computed by hand, and equal to KenLM's score of the same file."""
    path = tmp_path / "lm.arpa"
    path.write_text(UNKNOWN_WORDS)
    start = -0.2 - 0.7  # back-off of <s>, then P(THE)
    assert log10_of(path, "THE QUX") == pytest.approx(start - 0.4 - 0.6)
    assert log10_of(path, "THE QUX THE") == pytest.approx(start - 0.4 - 0.5 - 0.3 - 1.1)
    assert log10_of(path, "THE QUX ZAB") == pytest.approx(start - 0.4 - 0.6 - 1.5 - 0.6)
    assert log10_of(path, "THE CAB") == pytest.approx(start - 0.3 - 0.9 - 1.1)


@pytest.mark.parametrize("unknown", ["<unk>", "<UNK>", "<Unk>", "[UNK]", "<unknown>", "<OOV>", "!!UNK", "<unk/>"])
def test_any_spelling_of_the_unknown_word_is_recognized(tmp_path, unknown):
    path = tmp_path / "lm.arpa"
    path.write_text(UNKNOWN_WORDS.replace("<unk>", unknown))
    assert log10_of(path, "THE QUX") == pytest.approx(-0.2 - 0.7 - 0.4 - 0.6)
    assert BeamSearch(model=read_arpa(path), bonus=3.0).search(RARE)[0] == "THE ZAB"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: re.sub(r"(?m)^[-0].*", lambda entry: entry[0].upper(), text),
        lambda text: text.replace("<s>", "<S>").replace("</s>", "</S>").replace("the", "The"),
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.replace(" ", "\t").replace("ngram\t", "ngram ").replace("\tt", "  t"),
        lambda text: "made by hand\nngram 9=9\n\n" + text + "\nwhat follows the end\n",
        lambda text: text.replace("1=5", " 1 = 7").replace("-0.9 cab", "-0.9 cab\n-3 caf\u00e9\n-3 50\u00a0%"),
        lambda text: text.replace("2=3", "2=3\nngram 3=0"),
        lambda text: text.replace("2=3", "2=3\nngram 3=0").replace("\\end", "\\3-grams:\n\n\\end"),
    ],
)
def test_the_same_model_however_it_is_written(tmp_path, change):
    path = tmp_path / "lm.arpa"
    path.write_text(change(UNKNOWN_WORDS), encoding="utf-8", newline="")
    assert log10_of(path, "THE QUX") == pytest.approx(-0.2 - 0.7 - 0.4 - 0.6)
    assert log10_of(path, "THE CAB") == pytest.approx(-0.2 - 0.7 - 0.3 - 0.9 - 1.1)


def test_a_model_without_sentence_marks_gives_no_score_to_start_and_end(tmp_path):
    path = tmp_path / "lm.arpa"
    lines = [line for line in UNKNOWN_WORDS.splitlines() if "s>" not in line]
    path.write_text("\n".join(lines).replace("1=5", "1=3").replace("2=3", "2=2"))
    assert log10_of(path, "THE CAB") == pytest.approx(-0.7 - 0.3 - 0.9)
    assert log10_of(path, "THE QUX") == pytest.approx(-0.7 - 0.4)


def test_curly_apostrophes_become_straight_ones(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(UNKNOWN_WORDS.replace("cab", "don\u2019t"), encoding="utf-8")
    assert log10_of(path, "DON'T") == pytest.approx(-0.2 - 0.9 - 1.1)


@pytest.mark.parametrize(
    "closed",
    [
        UNKNOWN_WORDS.replace("-1.5 <unk>", "-99 <unk>"),
        UNKNOWN_WORDS.replace("-1.5 <unk>", "-inf <unk>"),
        UNKNOWN_WORDS.replace("-1.5 <unk>", "0 <unk>"),
        "\n".join(line for line in UNKNOWN_WORDS.splitlines() if "unk" not in line)
        .replace("1=5", "1=4")
        .replace("2=3", "2=0"),
    ],
)
def test_a_closed_model_needs_a_word_list(tmp_path, closed, capsys):
    path, words = tmp_path / "lm.arpa", tmp_path / "words.txt"
    path.write_text(closed)
    asked = {"decoder": "beam", "beam_width": 16, "lm": path, "lm_weight": 0.5, "word_bonus": 3.0}
    with pytest.raises(UserError, match=r"lm\.arpa: gives unknown words no probability.*--words"):
        decoder_of(argparse.Namespace(**asked, words=None))
    batch, frames = torch.from_numpy(RARE)[:, None], torch.tensor([len(RARE)])
    words.write_text("the\ncab\nzab\n")
    assert decoder_of(argparse.Namespace(**asked, words=words))(batch, frames) == ["THE CAB"]
    assert "note: 1 words of" in capsys.readouterr().err
    words.write_text("zab\n")
    with pytest.raises(UserError, match=r"words\.txt: none of its words is in .*lm\.arpa"):
        decoder_of(argparse.Namespace(**asked, words=words))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\end\\", "", "not a complete ARPA file: it does not end"),
        (ARPA, "hello\n", r"not a complete ARPA file: it has no \\data"),
        (ARPA, "\\data\\\n\\end\\\n", "not a complete ARPA file: it is empty"),
        ("-0.1 the cat", "-0.1 the", ":14: not an entry of 2 words"),
        ("-0.1 the cat", "-0.1 the cat -1 0", ":14: not an entry of 2 words"),
        ("-0.9 cat", "x cat", ":9: 'x' is not a logarithm"),
        ("-0.9 cat", "nan cat", ":9: 'nan' is not a logarithm"),
        ("cat -0.2", "cat inf", ":9: 'inf' is not a logarithm"),
        ("-0.9 cat", "0.9 cat", ":9: a probability above 1"),
        ("\\2-grams:", "\\two-grams:", ":13: expected"),
        ("\\2-grams:", "\\3-grams:", ":13: the header announces no 3-grams"),
        ("\\2-grams:", "\\1-grams:", ":13: .*comes after"),
        ("ngram 1=6", "ngram 1=7", ":13: 6 of the 7 1-grams"),
        ("-0.2 cat </s>\n", "", ":17: 2 of the 3 2-grams"),
        ("ngram 2=3", "ngram 2=3\nngram 3=1", ":19: 0 of the 1 3-grams"),
        ("ngram 2=3", "ngram 2=3\nngram 4=1", ":19: the header announces no 3-grams"),
        ("ngram 2=3", "ngram 1=3", ":3: expected `ngram N=COUNT`"),
        ("ngram 2=3", "ngram two=3", ":3: expected `ngram N=COUNT`"),
        ("-0.8 cab", "-0.8 CAT", ":10: 'CAT' is listed a second time: 'cat' is the same word"),
        ("-0.8 cab", "-0.8 <UNK>", ":10: '<UNK>' is listed a second time: '<unk>' is the same word"),
        ("-0.5 <s> the", "-0.1 the cat", ":15: 'the cat' is listed a second time"),
        ("-0.5 <s> the", "-0.5 the dog", ":15: 'dog' is not among the 1-grams"),
    ],
)
def test_a_damaged_language_model_is_named_with_its_line(tmp_path, old, new, message):
    assert old in ARPA
    (tmp_path / "lm.arpa").write_text(ARPA.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_arpa(tmp_path / "lm.arpa")


def test_a_file_that_is_not_text_or_cannot_be_spelt_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such language model"):
        read_arpa(tmp_path / "none.arpa")
    packed = gzip.compress(ARPA.encode())
    for name, content in (
        ("bin.arpa", b"mmap lm\xff\x00"),
        ("cut.gz", packed[:-20]),
        ("bad.gz", packed[:30] + packed[40:]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="not an ARPA file"):
            read_arpa(tmp_path / name)
    russian = UNKNOWN_WORDS.replace("the", "\u0434\u0430").replace("cab", "\u043d\u0435")
    (tmp_path / "russian.arpa").write_text(russian, encoding="utf-8")
    with pytest.raises(UserError, match="none of its words can be spelt"):
        read_arpa(tmp_path / "russian.arpa")


def test_word_lists_are_read_in_any_case_and_checked(tmp_path):
    (tmp_path / "words.txt").write_text("\ufeffcat\r\n\r\nDon't\r\nit\u2019s", encoding="utf-8")
    assert read_words(tmp_path / "words.txt") == {"CAT", "DON'T", "IT'S"}
    for content in ("caf\u00e9\n", "stra\u00dfe\n", "two words\n", "\n"):
        (tmp_path / "bad.txt").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"bad\.txt"):
            read_words(tmp_path / "bad.txt")


def test_greedy_is_the_default_and_ignores_no_option(tmp_path):
    options = argparse.Namespace(decoder="greedy", words=None, lm=None)
    assert decoder_of(options) is greedy
    with pytest.raises(UserError, match="--decoder beam"):
        decoder_of(argparse.Namespace(decoder="greedy", words=tmp_path / "w", lm=None))
