"""CPU load of other programs: from the kernel's counters as files, and with programs that really compute."""

import os
import subprocess
import sys

import pytest

from benchmark.machine import cpu_load, hardware
from common import limits
from tests.support.harness import Bench


class Machine:
    """A machine without limits, whose processor counters a test writes."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        for module in (hardware, limits):
            monkeypatch.setattr(module, "PROC", folder / "proc")
        monkeypatch.setattr(limits, "CGROUP", folder / "cgroup")
        monkeypatch.setattr(cpu_load, "SHORT_S", 0.0)
        monkeypatch.setattr(cpu_load, "LONG_S", 0.0)
        monkeypatch.setattr(os, "sysconf", lambda name: 100)
        monkeypatch.setattr(os, "times", lambda: (0.0, 0.0, 0.0, 0.0, 0.0))
        self.runs_on(0, 1)
        (folder / "proc/self").mkdir(parents=True)

    def runs_on(self, *processors):
        self.monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(processors))

    def counts(self, *processors, second=0):
        """Each processor's share of busy time up to now, at `second`."""
        lines = ["cpu  1 2 3 4"]
        for number, busy in enumerate(processors):
            user, idle = round(busy * second * 100), round((1 - busy) * second * 100)
            lines.append(f"cpu{number} {user} 0 0 {idle} 0 0 0 0 {user} 0")
        (self.folder / "proc/stat").write_text("\n".join([*lines, "intr 5", ""]))

    def measured(self, *processors):
        self.counts(*processors)
        measurement = cpu_load.Measurement()
        self.counts(*processors, second=20)
        return measurement.end()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("busy", "usable", "taken", "disturbs"),
    [
        ((0, 0), (0, 1), 0, False),
        ((0.25, 0.05), (0, 1), 0.3, False),
        ((1, 0.5), (0, 1), 1.5, True),
        ((0, 0, 1, 1), (0, 1), 0, False),  # they use other cores than ours
        ((1, 0, 0, 0), (0,), 1, True),
        ((0.5, 0.5, 0.5, 0.5, 0, 0, 0, 0), range(8), 2, False),
        ((0.5, 0.5, 0.5, 0.5, 0.5, 0, 0, 0), range(8), 2.5, True),
        ((1, 0), (40, 41), 1, True),  # a container with its own processor numbers
    ],
)
def test_the_load_of_others_is_compared_with_the_usable_cores(machine, busy, usable, taken, disturbs):
    machine.runs_on(*usable)
    found = machine.measured(*busy)
    assert found.taken_cores == pytest.approx(taken, abs=0.01)
    assert found.disturbs == disturbs
    assert str(found) == f"other programs take {taken:.1f} of {len(usable)} usable cores"


def test_a_machine_with_cores_to_spare_beside_a_quota(machine):
    machine.runs_on(*range(8))
    (machine.folder / "proc/self/cgroup").write_text("0::/\n")
    (machine.folder / "cgroup").mkdir()
    (machine.folder / "cgroup/cpu.max").write_text("200000 100000\n")
    assert not machine.measured(*[0.75] * 8).disturbs
    assert machine.measured(*[1] * 8).taken_cores == pytest.approx(2)


def test_others_in_the_group_use_up_its_quota(machine):
    machine.runs_on(*range(64))
    (machine.folder / "proc/self/cgroup").write_text("0::/\n")
    (machine.folder / "cgroup").mkdir()
    (machine.folder / "cgroup/cpu.max").write_text("200000 100000\n")
    stat = machine.folder / "cgroup/cpu.stat"
    stat.write_text("usage_usec 0\n")
    machine.counts(*[0] * 64)
    measurement = cpu_load.Measurement()
    machine.counts(*[0] * 64, second=20)
    stat.write_text("usage_usec 900000000\n")
    assert measurement.end().disturbs


def test_a_system_without_counters_has_an_unknown_load(machine):
    assert machine.measured().taken_cores is None
    assert not cpu_load.Measurement().end().disturbs
    assert "cannot be read" in str(cpu_load.Measurement().end())


def test_a_short_burst_is_measured_twice(machine, monkeypatch):
    shares = []
    monkeypatch.setattr(cpu_load.time, "sleep", lambda _: machine.counts(*shares.pop(0), second=20))
    machine.counts(0, 0)
    shares[:] = [(1, 1), (0.1, 0)]
    assert not cpu_load.Measurement().end().disturbs
    assert not shares


def test_own_work_and_that_of_ended_children_is_not_load(machine, monkeypatch):
    monkeypatch.setattr(cpu_load.os, "times", lambda: (1.0, 1.0, 0.0, 0.0, 0.0))
    machine.counts(0, 0)
    measurement = cpu_load.Measurement()
    machine.counts(1, 1, second=20)
    clock = iter([measurement._start_s + 20])
    monkeypatch.setattr(cpu_load.os, "times", lambda: (20.0, 3.0, 18.0, 1.0, 0.0))
    monkeypatch.setattr(cpu_load.time, "monotonic", lambda: next(clock, measurement._start_s + 20))
    assert measurement.end().taken_cores == pytest.approx(0)


@pytest.fixture
def busy_machine():
    """A program that computes on each of our cores."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(limits.cores() + 1)]
    yield
    for other in others:
        other.kill()
        other.wait()


def test_a_run_warns_of_load_before_its_clock_starts_and_records_it(tmp_path, busy_machine):
    bench = Bench(tmp_path)
    done = bench.run(plan={"wers": [1.0], "epoch_s": 0})
    assert done.status == 0
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("warning: other programs take "))
    assert line.endswith(", which slows the run down - stop them, or wait, before a run that counts")
    (note,) = (note for note in bench.record().notes if note.startswith("before the clock started: other programs"))
    assert f"of {limits.usable_cores():g} usable cores" in note
