"""Runs of several trainer processes, started by torchrun: the same log, the same endings, and nothing left behind."""

from __future__ import annotations

import signal
import socket

import pytest

from benchmark.record import read_record
from tests.support.harness import Bench, finish, keys, wait_for

TWO = {"NPROC": "2"}


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_two_processes_make_one_log(bench):
    done = bench.run(env=TWO)
    assert done.status == 0, done.stderr
    assert done.stdout == bench.log()
    logged = keys(done.stdout)
    assert logged.count("run_start") == logged.count("run_stop") == 1
    record = bench.record()
    assert (record.status, record.run.nproc) == ("success", 2)
    assert "torch.distributed.run" in record.command
    places = [argument.partition("/")[0] for argument in record.command if "/" in argument]
    assert places == ["RESULTS_DIR", "DATA_DIR", "RESULTS_DIR"], "no record says where its submitter keeps things"


def test_a_target_missed_by_several_is_still_exit_status_1(bench):
    """torchrun calls every exit status but 0 a failure; the log knows better."""
    done = bench.run(env=TWO, plan={"wers": [60.0], "epoch_s": 0})
    assert done.status == 1, done.stderr
    assert bench.record().status == "aborted"


@pytest.mark.parametrize(
    ("fault", "expected"), [("crash", "RuntimeError: the fake trainer broke"), ("sigkill", "SIGKILL")]
)
def test_one_of_several_that_fails_ends_all(bench, fault, expected):
    bench.pids = bench.folder / "pids"
    done = bench.run(env=TWO, plan={"fault": fault, "pids": str(bench.pids)})
    assert done.status == 2
    assert expected in done.last_line
    assert bench.record().status == "failed"
    assert keys(bench.log())[-1] in ("run_stop", "telemetry_summary")
    assert bench.none_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_of_several_outlives_the_harness(bench, number):
    process = bench.hanging(env=TWO)
    wait_for(lambda: len(bench.pids.read_text().split()) == 2)
    done = finish(process, number)
    wait_for(bench.none_left)
    if number == signal.SIGINT:
        assert done.status == 2
    assert bench.record().status == ("interrupted" if number == signal.SIGINT else "unfinished")


@pytest.mark.parametrize(("wers", "status", "outcome"), [([20.0], 0, "success"), ([60.0], 1, "aborted")])
def test_a_machine_that_does_not_lead_prints_no_log_but_ends_alike(bench, wers, status, outcome):
    """Machine 1 of 2 (here: of one, under another's name) leaves the log to machine 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    two, plan = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}, {"wers": wers, "epoch_s": 0}
    first, second = (bench.start(env=two | {"NODE_RANK": rank}, plan=plan) for rank in "01")
    leader, follower = finish(first), finish(second)
    assert (leader.status, follower.status) == (status, status), leader.stderr + follower.stderr
    assert keys(leader.stdout)[0] == "submission_benchmark"
    assert follower.stdout == ""
    assert [read_record(folder).status for folder in bench.folders()] == [outcome, outcome]


@pytest.mark.parametrize("missing", ["SEED", "MASTER_ADDR"])
def test_several_machines_need_a_seed_and_an_address(bench, missing):
    variables = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"} | {missing: ""}
    done = bench.run(env=variables)
    assert done.status == 2 and done.last_line.startswith(f"error: {missing}: ")


def test_more_processes_than_a_batch_has_utterances_are_refused(bench):
    done = bench.run(env={"NPROC": "17"})
    assert (done.status, done.stdout) == (2, "")
    assert done.last_line == "error: NPROC: 17 trainer processes cannot share a batch of 16 utterances - use at most 16"
    assert not bench.folders()
