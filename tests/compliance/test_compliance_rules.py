"""docs/rules.md and `--rules` list the same rules as the code."""

from __future__ import annotations

import re
from collections import Counter

from compliance.__main__ import main
from compliance.check import ALL_RULES
from datasets.corpora import SIZES, Sizes
from datasets.synthesis import plans
from tests.conftest import ROOT


def test_each_rule_has_one_name():
    names = [rule.id for rule in ALL_RULES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)+", name) for name in names)


def test_the_page_lists_every_rule_with_its_sentence():
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", page, re.MULTILINE)
    assert listed == [(rule.id, rule.says) for rule in ALL_RULES]


def test_the_command_lists_every_rule(capsys):
    assert main(["--rules"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [rule.id for rule in ALL_RULES]


def test_the_rules_have_the_size_of_the_mini_corpus():
    counted = Counter()
    for chapter in plans.mini().chapters:
        counted[chapter.split] += len(chapter.texts)
    assert SIZES["mini"] == Sizes(counted[plans.TRAIN], counted[plans.VAL])
