"""The system clock is set, or the machine sleeps, during a run: what the log, the score and the telemetry say."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark import clock
from benchmark.harness import launch
from benchmark.mllog import read_log
from tests.support import fake_library
from tests.support.harness import Bench, finish, wait_for

HOUR_S = 3600


class FakeClock:
    """The library that replaces the C library's clocks, and the file with the changes that it applies."""

    def __init__(self, folder: Path) -> None:
        library, self.changes = fake_library.build("fake_clock.c", folder / "clock.so"), folder / "changes"
        self.change()
        self.environment = {"LD_PRELOAD": str(library), "FAKE_CLOCK": str(self.changes)}

    def change(self, set_forward_s: int = 0, slept_s: int = 0) -> None:
        """From now on the clock is `set_forward_s` ahead, and the machine has slept for `slept_s`."""
        # Written in place: the running processes have the file mapped.
        with open(self.changes, "r+b" if self.changes.exists() else "w+b") as file:
            file.write(struct.pack("qq", set_forward_s, slept_s))


@pytest.fixture
def fake_clock(tmp_path) -> FakeClock:
    return FakeClock(tmp_path)


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


def run_with(bench: Bench, fake_clock: FakeClock, **what: int):
    """A run of three epochs; in the second of them, `what` happens. Its log's times in seconds, in the log's order."""
    process = bench.start(plan={"epoch_s": 1.0}, env=fake_clock.environment)
    wait_for(lambda: any(path.read_text().count("epoch_start") == 2 for path in bench.folder.glob("runs/*/*/*.txt")))
    fake_clock.change(**what)
    done = finish(process)
    assert done.status == 0, done.stderr
    events, bad = read_log(bench.folders()[0] / "result.txt")
    assert not bad
    return [event.time_ms / 1000 for event in events]


@pytest.mark.parametrize("set_forward_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_is_set_during_a_run_does_not_change_the_score(bench, fake_clock, set_forward_s):
    times_s = run_with(bench, fake_clock, set_forward_s=set_forward_s)
    assert times_s == sorted(times_s)
    run = bench.record().run
    assert 3 <= run.run_s < 600
    telemetry = bench.record().telemetry
    assert telemetry["region_s"] == pytest.approx(run.run_s, abs=0.5)
    assert telemetry["samples"] >= 2, "one a second; a busy machine may miss one"
    assert not [note for note in bench.record().notes if "slept" in note]


def test_a_machine_that_sleeps_does_not_stop_the_clock_and_the_record_has_a_note(bench, fake_clock):
    times_s = run_with(bench, fake_clock, slept_s=HOUR_S)
    assert times_s == sorted(times_s)
    record = bench.record()
    assert HOUR_S + 3 <= record.run.run_s < HOUR_S + 600
    (note,) = (note for note in record.notes if "slept" in note)
    assert "slept for 3600 s" in note
    assert record.telemetry["region_s"] < 600, "what was not sampled is not made up"


def test_the_library_really_moves_the_clocks(tmp_path, fake_clock):
    """Guards the tests above: a library that did nothing would let them pass."""
    python = "import time; print(time.time() - {}, time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())"
    fake_clock.change(set_forward_s=-HOUR_S, slept_s=2 * HOUR_S)
    done = subprocess.run(
        [sys.executable, "-c", python.format(time.time())],
        env=os.environ | fake_clock.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    ahead_s, asleep_s = map(float, done.stdout.split())
    assert ahead_s == pytest.approx(HOUR_S, abs=60)
    assert asleep_s == pytest.approx(2 * HOUR_S, abs=60)


@pytest.mark.parametrize("offset", [None, "yesterday"])
def test_child_processes_have_the_clock_of_the_harness(offset):
    environment = launch.child_environment() | ({} if offset is None else {clock.VARIABLE: offset})
    command = [sys.executable, "-c", "from benchmark import clock; print(repr(clock.OFFSET_S))"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if offset is None:
        assert float(done.stdout) == clock.OFFSET_S, "bit for bit"
    assert float(done.stdout) == pytest.approx(time.time() - clock.even_s(), abs=HOUR_S)
