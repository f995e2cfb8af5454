"""A series of runs: seeds drawn beforehand, going on after an interruption, and the score at the end."""

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


def records(bench):
    return [read_record(path) for path in sorted(bench.folder.glob("runs/series/*/tiny/*/record.json"))]


def test_each_run_has_its_own_drawn_seed_and_the_score_ends_it(bench):
    done = bench.run(env=series(3))
    assert done.status == 0, done.stderr
    (plan,) = plans(bench)
    assert len(set(plan["seeds"])) == 3 and {found.seed for found in records(bench)} == set(plan["seeds"])
    assert keys(done.stdout).count("run_stop") == 3
    assert "median of 3 runs (MLPerf wants 10" in done.stderr and "not verified by MLCommons" in done.stderr
    # The next series draws anew.
    again = bench.run(env=series(3))
    assert again.status == 0 and len(plans(bench)) == 2 and not set(plan["seeds"]) & set(plans(bench)[1]["seeds"])


def test_an_interrupted_series_goes_on_with_its_seeds_and_resumes_its_run(bench):
    process = bench.hanging(env=series(2))
    stopped = finish(process, signal.SIGTERM)
    assert stopped.status == 2 and "interrupted by SIGTERM" in stopped.stderr and bench.none_left()
    (plan,) = plans(bench)
    (first,) = records(bench)
    assert first.status == "interrupted"
    done = bench.run(env=series(2))
    assert done.status == 0, done.stderr
    assert plans(bench) == [plan] and "going on with the series" in done.stderr
    found = {record.seed: record for record in records(bench)}
    assert set(found) == set(plan["seeds"]) and len(records(bench)) == 2
    assert found[first.seed].run.resumed_epochs == (1,) and found[first.seed].status == "success"


def test_a_run_that_broke_on_the_clock_stays_in_the_series(bench):
    broken = bench.run(plan={"fault": "crash", "at": 2}, env=series(2))
    assert broken.status == 2 and "the series stopped" in broken.stderr
    done = bench.run(env=series(2))
    assert sorted(record.status for record in records(bench)) == ["failed", "success"]
    assert done.status == 1 and "no score: 1 of 2 runs failed" in done.stderr


def test_other_parameters_begin_another_series(bench):
    finish(bench.hanging(env=series(2)), signal.SIGTERM)
    done = bench.run(env=series(3))
    assert done.status == 0 and len(plans(bench)) == 2 and "is another one (other runs)" in done.stderr


@pytest.mark.parametrize(
    ("environment", "told"),
    [({"RUNS": "3"}, "SEED"), (series("many"), "RUNS"), (series(0), "RUNS"), (series(10**12), "RUNS")],
)
def test_what_contradicts_a_series_is_refused(bench, environment, told):
    done = bench.run(env=environment)
    assert done.status == 2 and done.last_line.startswith(f"error: {told}:") and "Traceback" not in done.stderr


def test_one_run_is_no_series(bench):
    done = bench.run(env={"RUNS": "1"})
    assert done.status == 0 and not plans(bench) and os.listdir(bench.folder / "runs") == ["tiny"]
