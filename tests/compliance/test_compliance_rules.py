"""The list of rules in docs/rules.md is the code's, and the door prints the same."""

from __future__ import annotations

import re

from compliance.__main__ import main
from compliance.check import ALL_RULES
from datasets.corpora import SIZES
from datasets.dataset import is_prepared, read_dataset
from tests.conftest import ROOT


def test_each_rule_has_one_name():
    names = [rule.id for rule in ALL_RULES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)+", name) for name in names)


def test_the_page_lists_every_rule_as_the_code_says_it():
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", page, re.MULTILINE)
    assert listed == [(rule.id, rule.says) for rule in ALL_RULES]


def test_the_door_lists_every_rule(capsys):
    assert main(["--rules"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [rule.id for rule in ALL_RULES]


def test_the_mini_corpus_has_the_size_that_the_rules_ask_for():
    folder = ROOT / "data" / "mini"
    if is_prepared(folder):
        splits = read_dataset(folder).splits
        sizes = (splits["train"].utterances, splits["val"].utterances)
        assert sizes == (SIZES["mini"].train, SIZES["mini"].eval)
