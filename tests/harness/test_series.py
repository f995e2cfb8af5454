"""A series of runs: seeds drawn in advance, resuming after an interruption, and the score at the end."""

from __future__ import annotations

import json
import os
import signal

import pytest

from benchmark.record import read_record
from tests.support.harness import Bench, finish, keys


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def series(runs, **more):
    return {"RUNS": str(runs), "SEED": "", **more}


def plans(bench):
    return [json.loads(path.read_text()) for path in sorted(bench.folder.glob("runs/series/*/series.json"))]


def records(bench, number):
    """The records of the runs of one series, by seed."""
    folder = sorted(bench.folder.glob("runs/series/*/"))[number]
    found = [read_record(path) for path in sorted(folder.glob("tiny/*/record.json"))]
    assert len(found) == len({record.seed for record in found})
    return {record.seed: record for record in found}


def test_series_draw_their_own_seeds_and_an_interrupted_one_resumes_its_run(bench):
    done = bench.run(env=series(3))
    assert done.status == 0, done.stderr
    (first,) = plans(bench)
    assert len(set(first["seeds"])) == 3 and set(records(bench, 0)) == set(first["seeds"])
    assert keys(done.stdout).count("run_stop") == 3
    assert "median of 3 runs (MLPerf wants 10" in done.stderr and "not verified by MLCommons" in done.stderr

    # The next series draws new seeds.
    stopped = finish(bench.hanging(env=series(2)), signal.SIGTERM)
    assert stopped.status == 2 and "interrupted by SIGTERM" in stopped.stderr and bench.none_left()
    second = plans(bench)[1]
    assert not set(first["seeds"]) & set(second["seeds"])
    (interrupted,) = records(bench, 1).values()
    assert interrupted.status == "interrupted"

    # Other parameters start another series.
    other = bench.run(env=series(3))
    assert other.status == 0 and len(plans(bench)) == 3 and "is another one (other runs)" in other.stderr

    done = bench.run(env=series(2))
    assert done.status == 0, done.stderr
    assert plans(bench)[:2] == [first, second] and len(plans(bench)) == 3 and "resuming the series" in done.stderr
    found = records(bench, 1)
    assert set(found) == set(second["seeds"])
    resumed = found[interrupted.seed]
    assert resumed.run.resumed_epochs == (1,) and resumed.status == "success"


def test_a_series_is_not_continued_under_variables_that_change_a_runs_time(bench):
    finish(bench.hanging(env=series(2, OMP_NUM_THREADS="1")), signal.SIGTERM)
    other = bench.run(env=series(2, OMP_NUM_THREADS="2"))
    assert other.status == 0 and "is another one (other omp_num_threads)" in other.stderr
    assert [plan["omp_num_threads"] for plan in plans(bench)] == ["1", "2"]
    assert {record.run.omp_num_threads for record in records(bench, 1).values()} == {"2"}
    done = bench.run(env=series(2, OMP_NUM_THREADS="1"))
    assert done.status == 0 and len(plans(bench)) == 2 and "resuming the series" in done.stderr


def test_a_run_that_failed_after_its_clock_started_stays_in_the_series(bench):
    broken = bench.run(plan={"fault": "crash", "at": 2}, env=series(2))
    assert broken.status == 2 and "the series stopped" in broken.stderr
    done = bench.run(env=series(2))
    assert sorted(record.status for record in records(bench, 0).values()) == ["failed", "success"]
    assert done.status == 1 and "no score: 1 of 2 runs failed" in done.stderr


@pytest.mark.parametrize(
    ("environment", "named"),
    [({"RUNS": "3"}, "SEED"), (series("many"), "RUNS"), (series(0), "RUNS"), (series(10**12), "RUNS")],
)
def test_settings_that_contradict_a_series_are_refused(bench, environment, named):
    done = bench.run(env=environment)
    assert done.status == 2 and done.last_line.startswith(f"error: {named}:") and "Traceback" not in done.stderr


def test_one_run_is_not_a_series(bench):
    done = bench.run(env={"RUNS": "1"})
    assert done.status == 0 and not plans(bench) and os.listdir(bench.folder / "runs") == ["tiny"]
