"""Runs of several trainer processes, started by torchrun: the same log, the same outcomes, and no process left behind."""

from __future__ import annotations

import signal
import socket

import pytest

from benchmark.harness.outcome import follower_outcome
from benchmark.record import read_record
from benchmark.trainer_contract import TARGET_MISSED
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
    assert places == ["RESULTS_DIR", "DATA_DIR", "RESULTS_DIR"], "a record does not reveal its submitter's paths"


@pytest.mark.parametrize(
    ("fault", "expected"), [("crash", "RuntimeError: the fake trainer broke"), ("sigkill", "SIGKILL")]
)
def test_one_failing_process_of_several_ends_the_run(bench, fault, expected):
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
def test_every_machine_has_the_runs_exit_status_and_only_the_first_prints_the_log(bench, wers, status, outcome):
    """Machine 1 of 2 (here: a second process group) leaves the log to machine 0. torchrun itself counts any other exit status
    than 0 as a failure, so the log decides."""
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


def test_the_outcome_of_a_machine_without_a_log_follows_from_its_processes():
    assert follower_outcome(0, []) == ("success", None)
    status, reason = follower_outcome(0, [f"{TARGET_MISSED}: WER 60.00 % after epoch 5"])
    assert (status, "see the record of machine 0" in reason) == ("aborted", True)
    assert follower_outcome(1, ["error: the disk is full"]) == ("failed", "the disk is full")
