"""Real runs of `mini`, the default on a CPU: the published ones and (long) a new one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.record import RunRecord, read_record
from tests.compliance.test_compliance_agreement import ours_accept, theirs_accept
from tests.support.harness import ROOT

PUBLISHED = sorted((ROOT / "results" / "published" / "mini-cpu").glob("*/result.txt"))


def reaches_its_target(record: RunRecord) -> None:
    assert (record.status, record.run.target_wer) == ("success", 23.0)
    assert record.run.final_wer is not None and record.run.final_wer <= 23.0
    assert record.run.epochs <= 10
    assert record.run.peak_memory_bytes is not None and record.run.peak_memory_bytes < 3 * 2**30


@pytest.mark.parametrize("log", PUBLISHED, ids=lambda path: path.parent.name.rpartition("-")[2])
def test_a_real_run_is_accepted_by_both_checkers_and_refused_after_an_edit(log, tmp_path):
    reaches_its_target(read_record(log.parent))
    assert ours_accept(log) and theirs_accept(log)
    lines = log.read_bytes().splitlines(keepends=True)
    (start,) = (number for number, line in enumerate(lines) if b'"run_start"' in line)
    (stop,) = (number for number, line in enumerate(lines) if b'"run_stop"' in line)
    swapped = [*lines[:start], lines[start + 1], lines[start], *lines[start + 2 :]]
    other_target = [line.replace(b'"target_wer", "value": 23.0', b'"target_wer", "value": 33.0') for line in lines]
    for name, edited in (("truncated", lines[:stop]), ("reordered", swapped), ("edited", other_target)):
        assert edited != lines
        path = tmp_path / f"{name}.txt"
        path.write_bytes(b"".join(edited))
        assert not ours_accept(path) and not theirs_accept(path), name


def test_there_are_published_runs():
    assert len(PUBLISHED) >= 10, "a result is ten runs; without them the test above checks nothing"


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_fresh_checkout_trains_mini_to_its_target_with_a_random_seed(tmp_path: Path):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("VARIANT", "SEED", "RUNS", "NPROC")
    }
    environment |= {
        "PYTHON": sys.executable,
        "DEVICE": "cpu",
        "DATA_DIR": str(tmp_path / "data"),
        "RESULTS_DIR": str(tmp_path / "runs"),
    }
    done = subprocess.run(["sh", ROOT / "run_and_time.sh"], env=environment, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert all(line.startswith(b":::MLLOG ") for line in done.stdout.splitlines())
    (log,) = (tmp_path / "runs").glob("mini/*/result.txt")
    assert log.read_bytes() == done.stdout
    reaches_its_target(read_record(log.parent))
