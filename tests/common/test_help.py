"""`--help` at every door, in a narrow terminal: it says what to type, and starts nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.test_scripts import ROOT, SCRIPTS

MODULES = [
    "benchmark", "benchmark run", "benchmark doctor",
    "datasets", "datasets synthesise", "datasets download", "datasets import", "datasets pack", "datasets stats",
    "results", "results compare", "results report", "results score", "results package", "results verify-dataset",
    "compliance", "compliance.make_rcp", "compliance.rule_file",
    "reference_model.train", "reference_model.untimed", "reference_model.infer", "reference_model.transcribe",
    "reference_model.export_onnx", "reference_model.checkpoint", "reference_model.checkpoint import",
    "examples.plain_trainer",
    "benches", "benches gpu", "benches publish", "benches curves", "benches.memory",
]  # fmt: skip


def shown(command: list[str], cwd: Path = ROOT, **variables: str) -> str:
    environment = os.environ | {"COLUMNS": "80"} | variables
    done = subprocess.run([*command, "--help"], cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_module_that_is_a_door_is_tested_here():
    doors = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for package in ("common", "benchmark", "datasets", "results", "compliance", "reference_model", "examples")
        for path in (ROOT / package).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert doors == {name.partition(" ")[0] for name in MODULES if not name.startswith("benches")}


@pytest.mark.parametrize("module", MODULES)
def test_help_names_the_command_gives_an_example_and_fits_80_columns(module):
    text = shown([sys.executable, "-m", *module.split()])
    assert re.search(r"^ +(.*=\S+ |time )?(sh|python -m|PY=) ?\S", text, re.MULTILINE), "an example, indented"
    # What is to be copied is not broken; all else is filled.
    usage, _, rest = text.partition("\n\n")
    assert usage.startswith("usage: ") or module == "benches"
    prose = [line for line in rest.splitlines() if not re.match(r" +(\S+=\S* )*(sh|python -m|tar) ", line)]
    assert max(map(len, prose)) <= 80


@pytest.mark.parametrize(
    "script", [name for name in SCRIPTS if name not in ("docker/install_cuda_docker.sh", "script/help.sh")]
)
def test_a_scripts_help_needs_no_environment_and_makes_none(script, tmp_path):
    folders = {"DATA_DIR": str(tmp_path), "RESULTS_DIR": str(tmp_path)}
    text = shown(["sh", str(ROOT / script)], tmp_path, PYTHON=sys.executable, **folders)
    assert f"sh {script}" in text or "sh script/" in text or "sh docker/" in text
    assert not list(tmp_path.iterdir())
    if script != "run_and_time.sh":
        assert "The options are shown when" in shown(["sh", str(ROOT / script)], PYTHON="/nonexistent") or (
            not re.search(r'help\.sh" "\$0" \w', (ROOT / script).read_text())
        )
