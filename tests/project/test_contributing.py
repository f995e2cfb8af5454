"""CONTRIBUTING.md's recipes, run exactly as written in a copy of the checkout: the tests pass after each of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def recipe(title: str) -> str:
    """The commands of a section, in order."""
    section = PAGE.split(f"### {title}\n")[1].split("\n##")[0]
    blocks = re.findall(r"^( *)```sh\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)
    assert blocks
    return "".join(re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in blocks)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the packages, their documentation and their tests, without git's and the user's own files."""
    copy = tmp_path_factory.mktemp("copy") / "checkout"
    private = {path.name for path in ROOT.iterdir() if path.name.startswith(".")} | {"data", "runs"}

    def excluded(folder: str, names: list[str]) -> set[str]:
        return set(names) & (private if Path(folder) == ROOT else {"__pycache__"})

    shutil.copytree(ROOT, copy, symlinks=True, ignore=excluded)
    return copy


def run(checkout: Path, script: str) -> str:
    """Run commands in the copy, as a contributor would; returns their output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"PY": sys.executable, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["sh", "-euxc", script], cwd=checkout, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def findings(checkout: Path, *paths: str) -> tuple[int, int, list[str]]:
    line = [sys.executable, "-m", "compliance", *paths, "--json"]
    report = json.loads(subprocess.run(line, cwd=checkout, capture_output=True).stdout)
    return report["errors"], report["warnings"], sorted({finding["rule"] for finding in report["findings"]})


def test_a_variant(checkout):
    assert "passed" in run(checkout, recipe("A variant"))
    names = run(checkout, '"$PY" -c "from benchmark.params import *; print(load_variant(\'quick\').model)"')
    assert "rnn_hidden=64" in names
    run(
        checkout,
        '"$PY" -m compliance.rule_file && "$PY" -m pytest -q tests/compliance/test_compliance_agreement.py -k up_to_date',
    )


def test_a_parameter_with_a_neutral_default_leaves_all_results_unchanged(checkout):
    published = "results/published/mini-cpu"
    before = findings(checkout, published)
    assert before[0] == 0
    table = run(checkout, f'"$PY" -m results compare {published} --format json')
    assert "passed" in run(checkout, recipe("A parameter"))
    assert findings(checkout, published) == before, "convergence is still checked against the reference points"
    assert run(checkout, f'"$PY" -m results compare {published} --format json') == table
    assert "accumulation" in (checkout / "compliance" / "rules" / "deepspeech2.yaml").read_text()


def test_a_reading_of_a_gpu(checkout):
    assert "passed" in run(checkout, recipe("A reading of a GPU"))


def test_a_rule_for_logs(checkout):
    assert "passed" in run(checkout, recipe("A rule for logs"))
    assert "entry-seed" in run(checkout, '"$PY" -m compliance --rules')
