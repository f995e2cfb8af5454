"""A trainer that fails: record, log, exit status and the last line on stderr say what happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import Bench, ends_aborted, finish, keys


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_a_trainer_that_crashes(bench):
    done = bench.run(plan={"fault": "crash"})
    assert done.status == 2
    assert done.last_line == "error: the trainer crashed: RuntimeError: the fake trainer broke"
    record = bench.record()
    assert (record.status, record.run.epochs) == ("failed", 1)
    assert "the fake trainer broke" in record.reason
    assert "the fake trainer broke" in ends_aborted(bench)
    assert "Traceback" in (bench.folders()[0] / "trainer.err").read_text()
    assert done.stdout == bench.log()


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group whose processes the kernel kills when they hold more than 256 MiB."""
    groups = [line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = next((path for names, path in groups if "memory" in names.split(",")), None)
    if own is not None:
        parent, limit = Path(f"/sys/fs/cgroup/memory{own}"), "memory.limit_in_bytes"
    else:
        parent, limit = Path(f"/sys/fs/cgroup{dict(groups).get('', '/')}"), "memory.max"
    group = parent / f"test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"needs the right to make a control group ({error})")
    try:
        try:
            (group / limit).write_text(str(256 << 20))
        except OSError as error:
            pytest.skip(f"needs the right to limit a control group's memory ({error})")
        yield group
    finally:
        group.rmdir()


@pytest.mark.root("limit the memory of a control group")
def test_a_trainer_that_the_system_kills_for_memory(bench, little_memory):
    done = bench.run(plan={"fault": "out of memory", "cgroup": str(little_memory)})
    assert done.status == 2
    assert "SIGKILL" in done.last_line and "memory" in done.last_line
    assert "SIGKILL" in ends_aborted(bench)
    assert bench.record().status == "failed"


def test_a_trainer_that_ends_with_a_user_error(bench):
    done = bench.run(plan={"fault": "user error"})
    assert done.status == 2
    assert done.last_line == "error: a.flac: the audio is damaged - fetch it again"
    assert ends_aborted(bench) == "the audio is damaged"
    assert bench.record().reason == "a.flac: the audio is damaged - fetch it again"


@pytest.mark.parametrize("fault", ["crash", "sigkill", "hang"])
def test_before_run_start_there_is_no_run_stop(bench, fault):
    hangs = fault == "hang"
    done = finish(bench.hanging(at=0), signal.SIGTERM) if hangs else bench.run(plan={"fault": fault, "at": 0})
    assert done.status == 2
    assert keys(bench.log())[-1] == "init_start"
    record = bench.record()
    assert record.status == ("interrupted" if hangs else "failed")
    assert (record.run.run_s, record.run.minutes, record.run.final_wer, record.telemetry) == (None, None, None, None)


def test_a_trainer_that_cannot_start(bench):
    done = bench.run(trainer="no.such")
    assert done.status == 2
    expected = "the trainer could not be started: Error while finding module specification for 'no.such'"
    assert done.last_line.startswith(f"error: {expected}")


@pytest.mark.parametrize("fault", ["lie", "no run_stop"])
def test_a_trainer_whose_log_and_exit_status_disagree_has_no_result(bench, fault):
    done = bench.run(plan={"fault": fault, "wers": [60.0]})
    assert done.status == 2
    assert bench.record().status == "failed"
    assert ("claims success" if fault == "lie" else "the trainer logged no run_stop") in done.last_line
