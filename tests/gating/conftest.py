"""Fixtures of the tests of `python -m results gate`."""

from __future__ import annotations

import dataclasses

import pytest

from results import gate
from results.gating.history import read_history
from tests.conftest import DATA
from tests.gating.gate_runs import LONG, SHORT, series
from tests.support.logs import MINI_PARAMS
from tests.support.run_folders import FakeMachine


@pytest.fixture(scope="module")
def gate_runs(tmp_path_factory):
    """Run folders that the tests only read."""
    top = tmp_path_factory.mktemp("runs")
    series(top / "main", commit="a")
    series(top / "same", 3, 1.01, commit="b", day=1)
    series(top / "slow", 3, 1.2, commit="c", day=2)
    series(top / "one", 1, 1.1, commit="d", day=3)
    series(top / "lucky", 5, 1.0, commit="e", seeds=50, edits=(SHORT, SHORT, LONG, SHORT, SHORT), day=4)
    series(top / "unlucky", 5, 1.0, commit="f", seeds=90, edits=(LONG, LONG, SHORT, LONG, SHORT), day=5)
    series(top / "failed", 3, 1.0, commit="d", edits=((1290, 800),), day=6)
    series(top / "gpu", 3, 1.5, commit="d", machine=FakeMachine("gpu-box", gpus=1), day=7)
    optimizer = dataclasses.replace(MINI_PARAMS.optimizer, learning_rate=0.0015)
    params = dataclasses.replace(MINI_PARAMS, optimizer=optimizer)
    series(top / "other", commit="d", day=8, params=params)
    series(top / "mixed" / "b", 2, commit="b", day=9)
    series(top / "mixed" / "c", 2, commit="c", day=10)
    for number, commit in enumerate("01234"):
        series(top / "many" / commit, 1, commit=commit, day=20 + number)
    (top / "zeros").mkdir()
    for file in (top / "zeros.txt", top / "zeros" / "a.txt", top / "zeros" / "b.txt"):
        file.write_bytes(bytes(1000))
    (top / "empty.txt").touch()
    (top / "perf.txt").write_bytes((DATA / "formats" / "history.jsonl").read_bytes())
    return top


@pytest.fixture
def run_gate(gate_runs, monkeypatch, capsys):
    monkeypatch.chdir(gate_runs)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        status = gate.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="module")
def history_entries():
    return read_history(DATA / "formats" / "history.jsonl", [])
