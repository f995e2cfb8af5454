"""The README says what is there: its table, its links, its variants and the commands it names."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from benchmark.params import load_variant, variant_names
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_table_is_what_compare_prints_of_the_published_runs():
    table = README.split("readme_table.sh -->")[1].split("<!-- /published -->")[0].strip()
    line = [sys.executable, "-m", "results", "compare", "results/published", "--format", "markdown"]
    printed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert table == printed, "run `sh script/readme_table.sh`"
    assert "mini" in table


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_variant_is_listed_with_its_target_and_division():
    for name in variant_names():
        (row,) = [line for line in README.splitlines() if line.startswith(f"| `{name}` |")]
        params = load_variant(name)
        assert f"{params.train.target_wer:.1f} %" in row
        assert row.rstrip(" |").endswith(params.division)
        assert f"| {params.train.batch_size} |" in row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_that_are_named_are_there(page):
    for script in re.findall(r"\bsh ((?:script/|docker/)?[\w/-]+\.sh)", page.read_text()):
        folders = [ROOT, ROOT / "docker"]
        assert any((folder / script).is_file() for folder in folders), script
