"""`--help` of every command in a narrow terminal: an example, at most 80 columns, without PyTorch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.test_scripts import ROOT, SCRIPTS

COMMANDS = [
    "benchmark", "benchmark run", "benchmark doctor",
    "datasets", "datasets synthesise", "datasets download", "datasets import", "datasets pack", "datasets stats",
    "results", "results compare", "results report", "results score", "results gate", "results package",
    "results verify-dataset",
    "compliance", "compliance.make_rcp", "compliance.rule_file",
    "reference_model.train", "reference_model.untimed", "reference_model.infer", "reference_model.transcribe",
    "reference_model.export_onnx", "reference_model.checkpoint", "reference_model.checkpoint import",
    "examples.plain_trainer",
    "benches", "benches gpu", "benches publish", "benches curves", "benches.memory",
]  # fmt: skip
SLOW_HELP = ("examples.plain_trainer", "benches")
"""Commands for developers, which may import PyTorch before they parse their arguments."""

SHOW_ALL = """
import contextlib, io, json, runpy, sys, warnings

warnings.simplefilter("ignore", RuntimeWarning)  # runpy warns of a module that another command has imported
shown = {}
for command in json.loads(sys.argv[1]):
    module, *arguments = command.split()
    out, err, status = io.StringIO(), io.StringIO(), None
    sys.argv = [module, *arguments, "--help"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as exit:
            status = exit.code or 0
    shown[command] = (status, out.getvalue(), err.getvalue(), "torch" in sys.modules)
print(json.dumps(shown))
"""


@pytest.fixture(scope="module")
def shown() -> dict[str, tuple[int, str, str, bool]]:
    """By command: exit status, stdout and stderr of its `--help`, and whether PyTorch has been imported.

    One process runs all commands one after another, those that may import PyTorch last.
    """
    ordered = sorted(COMMANDS, key=lambda command: command.startswith(SLOW_HELP))
    line = [sys.executable, "-c", SHOW_ALL, json.dumps(ordered)]
    done = subprocess.run(line, cwd=ROOT, env=os.environ | {"COLUMNS": "80"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_every_module_that_is_a_command_is_tested_here():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for package in ("common", "benchmark", "datasets", "results", "compliance", "reference_model", "examples")
        for path in (ROOT / package).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert modules == {name.partition(" ")[0] for name in COMMANDS if not name.startswith("benches")}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_gives_an_example_and_fits_80_columns(shown, command):
    status, text, errors, imported_torch = shown[command]
    assert (status, errors) == (0, "")
    assert not imported_torch or command.startswith(SLOW_HELP)
    assert re.search(r"^ +(.*=\S+ |time )?(sh|python -m|PY=) ?\S", text, re.MULTILINE), "an example, indented"
    # Commands to be copied are not wrapped; everything else is.
    usage, _, rest = text.partition("\n\n")
    assert usage.startswith("usage: ") or command == "benches"
    prose = [line for line in rest.splitlines() if not re.match(r" +(\S+=\S* )*(sh|python -m|tar) ", line)]
    assert max(map(len, prose)) <= 80


def script_help(script: str, cwd: Path, **variables: str) -> str:
    environment = os.environ | {"COLUMNS": "80"} | variables
    command = ["sh", str(ROOT / script), "--help"]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    "script", [name for name in SCRIPTS if name not in ("docker/install_cuda_docker.sh", "script/help.sh")]
)
def test_the_help_of_a_script_needs_no_environment_and_makes_none(script, tmp_path):
    folders = {"DATA_DIR": str(tmp_path), "RESULTS_DIR": str(tmp_path)}
    text = script_help(script, tmp_path, PYTHON=sys.executable, **folders)
    assert f"sh {script}" in text or "sh script/" in text or "sh docker/" in text
    assert not list(tmp_path.iterdir())
    if re.search(r'help\.sh" "\$0" \w', (ROOT / script).read_text()):
        without_environment = script_help(script, ROOT, PYTHON="/nonexistent")
        assert "The options are listed once the environment exists" in without_environment
