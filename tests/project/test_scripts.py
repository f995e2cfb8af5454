"""Every shell script: clean under shellcheck, POSIX, independent of the working directory; and the packaging metadata."""

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
EXCLUDED = {".venv", ".git", "data", "runs"}
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for top in ROOT.iterdir()
    if top.name not in EXCLUDED
    for path in ([top] if top.is_file() else top.rglob("*.sh"))
    if path.suffix == ".sh" and not path.is_relative_to(ROOT / "script" / "docker")
)


def tool(name: str) -> str:
    path = Path(sys.executable).parent / name
    found = str(path) if path.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_shellcheck_reports_nothing():
    done = subprocess.run([tool("shellcheck"), *SCRIPTS, ".ci/run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_hadolint_reports_nothing():
    done = subprocess.run([tool("hadolint"), "docker/Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_posix_and_finds_the_checkout_itself(script):
    text = (ROOT / script).read_text(encoding="utf-8")
    assert text.startswith("#!/bin/sh\n"), "shellcheck checks it as POSIX sh"
    assert "set -eu" in text
    assert not re.search(r"/(home|root|work)/", text), "no paths of a machine"
    if script != "docker/install_cuda_docker.sh":
        assert "cd -P --" in text, "the root is derived from $0, following symbolic links"


def test_the_ci_script_is_executable():
    assert stat.S_IMODE((ROOT / ".ci/run").stat().st_mode) & 0o111


def test_script_docker_is_a_link_to_the_docker_folder():
    assert os.readlink(ROOT / "script" / "docker") == "../docker"


def test_run_tests_passes_its_arguments_on(tmp_path):
    """From another working directory, with the user's own interpreter."""
    tests = "tests/project/test_scripts.py"
    command = ["sh", str(ROOT / "run_tests.sh"), "--collect-only", "-q", tests, "-k", "script_docker"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if "::" in line] == [
        f"{tests}::test_script_docker_is_a_link_to_the_docker_folder"
    ]


def test_run_tests_exits_with_2_if_the_set_up_fails():
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
def test_a_lock_file_contains_packages_and_hashes_and_no_address(lock):
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"https?://|--index-url|--find-links|file:", text)
    blocks = re.split(r"\n(?=[a-z0-9])", text)
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_locks_agree_and_contain_what_the_project_needs():
    runtime, tests = pins("requirements.lock"), pins("requirements-test.lock")
    assert all(versions <= tests[name] for name, versions in runtime.items())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^A-Za-z0-9._-]", text)[0].lower() for text in requirements}

    assert names(project["dependencies"]) <= set(runtime)
    assert names(project["optional-dependencies"]["test"]) <= set(tests)
    assert runtime["torch"] == runtime["torchaudio"] == {"2.11.0"}, "the last compatible pair"


def test_the_citation_names_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == project["version"]
    assert citation["license"] == project["license"]


def test_the_workflow_runs_what_ci_runs():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert {"run": ".ci/run"} in steps


def test_every_fault_on_the_reliability_page_names_a_test_that_exists():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    faults = re.split(r"^- \*\*", text, flags=re.MULTILINE)[1:]
    assert faults
    for fault in faults:
        tests = re.findall(r"`(tests/\S+\.py)::(\w+)`", fault)
        assert tests, fault
        for file, name in tests:
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), fault
