"""`python -m benches gpu`: what a section does to itself is a row of the table, and the other sections go on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT


def bench(out, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benches", "gpu", "--device", "cpu", "--tiny", "--out", str(out), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def rows(out) -> list[dict]:
    return json.loads((out / "gpu_bench.json").read_text())["rows"]


def test_sections_are_saved_as_a_table(tmp_path):
    done = bench(tmp_path, "--only", "ceilings,mini")
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path)
    assert {row["precision"] for row in found if "tflops" in row} == {"fp32", "bf16"}
    assert [row["name"] for row in found if row["section"] == "mini"] == ["left out of the rehearsal"]
    table = (tmp_path / "gpu_bench.md").read_text()
    assert "rehearsal, no measurement" in table


def test_a_section_that_takes_too_long_is_ended_and_the_next_is_left_out(tmp_path):
    done = bench(tmp_path, "--only", "synthetic,ceilings", "--budget", "10.5")
    assert done.returncode == 2
    ended, left_out = rows(tmp_path)
    assert "not done within" in ended["reason"]
    assert (left_out["section"], left_out["name"]) == ("ceilings", "left out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_section_that_breaks_keeps_its_rows_and_says_why(tmp_path):
    kept = tmp_path / "rows.jsonl"
    kept.write_text("")
    command = [sys.executable, "-m", "benches", "gpu", "--device", "cuda", "--only", "ceilings"]
    done = subprocess.run([*command, "--in-this-process", kept], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    (row,) = map(json.loads, kept.read_text().splitlines())
    assert row["name"] == "could not be done"
    assert "\n" not in row["reason"] and "Error" in row["reason"]


def test_an_unknown_section_and_a_missing_gpu_are_said(tmp_path):
    unknown = bench(tmp_path, "--only", "nonsense")
    assert (unknown.returncode, "no such section: nonsense" in unknown.stderr) == (2, True)
    assert not (tmp_path / "gpu_bench.json").exists()
