"""Every shell script: clean, POSIX where it says so, at home anywhere; and the files that installers and indexers read."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {".venv", ".git", "data", "runs"}
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for top in ROOT.iterdir()
    if top.name not in NOT_OURS
    for path in ([top] if top.is_file() else top.rglob("*.sh"))
    if path.suffix == ".sh" and not path.is_relative_to(ROOT / "script" / "docker")
)


def tool(name: str) -> str:
    path = Path(sys.executable).parent / name
    found = str(path) if path.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_shellcheck_has_nothing_to_say():
    done = subprocess.run([tool("shellcheck"), *SCRIPTS, ".ci/run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_hadolint_has_nothing_to_say():
    done = subprocess.run([tool("hadolint"), "docker/Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_posix_and_finds_its_root_by_itself(script):
    text = (ROOT / script).read_text(encoding="utf-8")
    assert text.startswith("#!/bin/sh\n"), "shellcheck judges it as POSIX sh"
    assert "set -eu" in text
    assert not re.search(r"/(home|root|work)/", text), "no machine's own paths"
    if script != "docker/install_cuda_docker.sh":
        assert "cd -P --" in text, "the root comes from $0, through symbolic links"


def test_ci_can_be_started():
    assert stat.S_IMODE((ROOT / ".ci/run").stat().st_mode) & 0o111


def test_both_spellings_of_the_docker_folder_are_one():
    assert os.readlink(ROOT / "script" / "docker") == "../docker"


def test_run_tests_passes_its_arguments_on(tmp_path):
    """From another folder, with an interpreter of the user's."""
    command = [
        "sh",
        str(ROOT / "run_tests.sh"),
        "--collect-only",
        "-q",
        "tests/project/test_architecture.py",
        "-k",
        "gate and nvml",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "benchmark/machine/nvml.py" in done.stdout
    assert "benchmark/mllog.py" not in done.stdout


def test_run_tests_ends_with_2_when_it_cannot_begin():
    done = subprocess.run(
        ["sh", str(ROOT / "run_tests.sh")],
        env={"PATH": os.environ["PATH"], "PYTHON": "/nonexistent"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (2, b"")


def pins(lock: str) -> dict[str, set[str]]:
    """Name and pins of each package of a lock file (several pins where they differ by Python)."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", line):
            found.setdefault(match[1], set()).add(match[2])
    return found


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-test.lock"])
def test_a_lock_file_names_packages_and_hashes_and_no_address(lock):
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"https?://|--index-url|--find-links|file:", text)
    blocks = re.split(r"\n(?=[a-z0-9])", text)
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_locks_agree_and_hold_what_the_project_needs():
    runtime, tests = pins("requirements.lock"), pins("requirements-test.lock")
    assert all(versions <= tests[name] for name, versions in runtime.items())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^A-Za-z0-9._-]", text)[0].lower() for text in requirements}

    assert names(project["dependencies"]) <= set(runtime)
    assert names(project["optional-dependencies"]["test"]) <= set(tests)
    assert runtime["torch"] == runtime["torchaudio"] == {"2.11.0"}, "the last pair that fits together"


def test_the_citation_names_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == project["version"]
    assert citation["license"] == project["license"]


def test_the_workflow_runs_what_ci_runs():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert {"run": ".ci/run"} in steps


def test_every_row_of_the_reliability_table_names_a_test_that_is_there():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| fault ")]
    assert rows
    for row in rows:
        file, _, name = row.rstrip(" |").split("`")[-2].partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), row
