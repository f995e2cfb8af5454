"""Telemetry of real processes, with a fake NVML in C, and with faults of every kind."""

import csv
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from benchmark.telemetry import sampler as module
from benchmark.telemetry.csv_file import CSV_COLUMNS, PLACE_COLUMNS
from benchmark.telemetry.host import Host, ProcessTree, other_processes
from benchmark.telemetry.readings import GPU_READINGS, HOST_READINGS, TRAINER_READINGS
from benchmark.telemetry.sampler import Telemetry
from tests.support.fake_nvml import REFUSED_BY_GPU_1, UUIDS, build, environment, run_python

RUN = """
import json, sys, time
from pathlib import Path
from benchmark.telemetry.sampler import Telemetry
telemetry = Telemetry(Path(sys.argv[1]) if len(sys.argv) > 1 else None, interval_s=0.12)
telemetry.use([None, {uuid!r}])
telemetry.start()
time.sleep(0.05)
begin = time.time()
telemetry.mark("run_start", begin)
time.sleep(1.2)
end = time.time()
telemetry.mark("run_stop", end)
telemetry.stop()
print(json.dumps(telemetry.summary(begin, end).as_dict()))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return build(tmp_path_factory.mktemp("nvml"))


def run_with(driver, csv_path, first="", **settings):
    code = first + RUN.format(uuid=UUIDS[1].removeprefix("GPU-").upper())
    code = code.replace("sys.argv[1]", repr(str(csv_path))).replace("if len(sys.argv) > 1 else None", "")
    done = run_python(code, driver, **settings)
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def healthy(driver, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "telemetry.csv"
    summary, stderr = run_with(driver, path)
    return summary, stderr, path


def test_two_gpus_are_summarised_correctly(healthy):
    summary, stderr, _ = healthy
    first, second = summary["gpus"]
    region_s = summary["region_s"]
    assert 1.1 < region_s < 60
    assert summary["samples"] >= 5
    assert first["power_w"] == {"mean": 300, "max": 300}
    assert first["energy_j"] == pytest.approx(300 * region_s, rel=0.1)
    assert second["energy_j"] == pytest.approx(200 * region_s, rel=0.1)
    assert first["energy_source"] == "counter"
    assert first["utilization_pct"]["max"] == 60
    assert 40 < first["utilization_pct"]["mean"] < 60
    assert first["sm_active_pct"] == {"mean": 40, "max": 40}
    assert first["event_reasons"] == {"sw_power_cap": pytest.approx(1)}
    assert second["event_reasons"] == {}
    assert first["memory_total_bytes"] == 140 * 1024**3
    assert [gpu["used"] for gpu in (first, second)] == [False, True], "identified by UUID, not by index"
    assert stderr == ""


def test_only_the_unsupported_value_is_null(healthy):
    first, second = healthy[0]["gpus"]
    assert {name for name in second if second[name] is None} == {
        *REFUSED_BY_GPU_1,
        "lost_at_s",
        "other_processes",  # not requested
    }
    assert first["temperature_c"] == {"mean": 55, "max": 55}


def test_pandas_reads_every_gpu_and_every_mark(healthy):
    table = pd.read_csv(healthy[2])
    assert set(table.device) == {"host", "gpu0", "gpu1", "mark"}
    assert list(table.mark.dropna()) == ["run_start", "run_stop"]
    one = table[table.device == "gpu1"]
    assert (one.power_w == 200).all()
    assert one.temperature_c.isna().all()
    assert (one.uuid == UUIDS[1]).all()
    assert one.elapsed_s.is_monotonic_increasing
    assert (table[table.device == "gpu0"].event_reasons == "sw_power_cap").all()
    assert (table[table.device == "host"].memory_used_bytes > 0).all()
    assert abs(table.time_unix_s.iloc[-1] - time.time()) < 600


def test_a_gpu_lost_during_a_run_is_reported_once_and_the_rest_continues(driver, tmp_path):
    summary, stderr = run_with(driver, tmp_path / "t.csv", lost_after=5)
    first, second = summary["gpus"]
    assert 0 < second["lost_at_s"] < summary["region_s"]
    assert second["power_w"] == {"mean": 200, "max": 200}, "what was measured before the loss is kept"
    assert second["energy_j"] is None, "half a run's energy is not the run's energy"
    assert first["lost_at_s"] is None
    assert first["energy_j"] == pytest.approx(300 * summary["region_s"], rel=0.1)
    assert stderr.count("lost") == 1
    assert len(summary["notices"]) == 1
    table = pd.read_csv(tmp_path / "t.csv")
    assert table[table.device == "gpu1"].power_w.iloc[-1] != 200
    assert len(table[table.device == "gpu0"]) == len(table[table.device == "gpu1"])


def test_a_driver_that_vanishes_leaves_the_host_figures(driver, tmp_path):
    summary, _ = run_with(driver, tmp_path / "t.csv", vanish_after=4)
    assert summary["gpus"][0]["energy_j"] is None
    assert summary["host"]["cpu_pct"] is not None
    assert summary["samples"] >= 5


def test_an_old_driver_gets_its_power_integrated_and_says_so(tmp_path):
    summary, _ = run_with(build(tmp_path / "old", "-DOLD_DRIVER"), tmp_path / "t.csv")
    first = summary["gpus"][0]
    assert first["energy_source"] == "integrated_power"
    assert first["energy_j"] == pytest.approx(300 * summary["region_s"], rel=0.1)
    assert first["sm_active_pct"] is None


def test_without_a_gpu_there_are_host_figures_and_one_notice(driver, tmp_path):
    summary, stderr = run_with(driver, tmp_path / "t.csv", gpus=0)
    assert summary["gpus"] == []
    assert summary["host"]["memory_used_bytes"]["mean"] > 1e6
    assert stderr.count("\n") == 1
    assert "host figures only" in stderr


# ---------------------------------------------------------------------------------------------------------------------
# The tables of readings, and what follows from them

ADDED = """
from benchmark.telemetry import readings
from benchmark.telemetry.readings import Reading

def ramp(nv, gpu):
    return nv.nvmlDeviceGetTotalEnergyConsumption(gpu) - 1e9

def celsius(nv, gpu):
    return nv.nvmlDeviceGetTemperature(gpu, nv.NVML_TEMPERATURE_GPU)

readings.GPU_READINGS += (
    Reading("added_w", "gauge", (ramp,), divisor=1e3),
    Reading("added_pct", "mean", (ramp,), divisor=1e3),
    Reading("added_counter_j", "counter", (ramp,), divisor=1e3, increase="added_j"),
    Reading("added_flags", "flags", (lambda nv, gpu: ramp(nv, gpu) // 60e3,), flags={1: "odd", 2: "gpu_idle", 64: "never"}),
    Reading("added_c", "gauge", (lambda nv, gpu: nv.nvmlDeviceHasNoSuchCall(gpu), celsius)),
    Reading("added_active_pct", "mean", gpm="NVML_GPM_METRIC_ANY_TENSOR_UTIL", gpm_divisor=2),
)
"""
"""Readings of each kind. The fake GPUs' energy is a ramp that any sampling sees: 300 J per second on GPU 0, 200 on GPU 1."""


def expected_figures(table):
    """The figures of ADDED on GPU 0 that the summary must have, between the file's two marks, from the file's samples."""
    begin, end = table[table.device == "mark"].elapsed_s
    samples = table[table.device == "gpu0"]
    sums = dict.fromkeys(("gauge", "mean", "increase", "odd", "gpu_idle"), 0.0)
    for (_, before), (_, after) in zip(samples.iterrows(), list(samples.iterrows())[1:], strict=False):
        inside_s = max(0.0, min(end, after.elapsed_s) - max(begin, before.elapsed_s))
        flags = after.added_flags.split("|") if isinstance(after.added_flags, str) else []
        sums["gauge"] += inside_s * (before.added_w + after.added_w) / 2
        sums["mean"] += inside_s * after.added_pct
        grown = after.added_counter_j - before.added_counter_j
        sums["increase"] += grown * inside_s / (after.elapsed_s - before.elapsed_s)
        for flag in ("odd", "gpu_idle"):
            sums[flag] += inside_s * (flag in flags)
    return {name: value if name == "increase" else value / (end - begin) for name, value in sums.items()}


def test_one_entry_in_the_table_of_gpus_is_read_written_and_summarised_for_its_kind(driver, healthy, tmp_path):
    summary, stderr = run_with(driver, tmp_path / "t.csv", ADDED)
    assert stderr == ""
    table = pd.read_csv(tmp_path / "t.csv")
    added = ["added_w", "added_pct", "added_counter_j", "added_flags", "added_c", "added_active_pct"]
    assert list(table.columns) == [*CSV_COLUMNS, *added]
    first, second = summary["gpus"]
    names = [name.replace("counter_", "") for name in added]
    assert list(first) == [*list(healthy[0]["gpus"][0])[:-1], *names, "lost_at_s"]
    expected = expected_figures(table)
    assert first["added_w"]["mean"] == pytest.approx(expected["gauge"], rel=0.01)
    assert first["added_pct"]["mean"] == pytest.approx(expected["mean"], rel=0.01)
    assert expected["mean"] > 1.02 * expected["gauge"], "the two kinds cannot be mistaken for each other"
    assert first["added_j"] == pytest.approx(expected["increase"], rel=0.01)
    flags = {flag: expected[flag] for flag in ("odd", "gpu_idle") if expected[flag] > 0}
    assert first["added_flags"] == pytest.approx(flags, rel=0.05)
    assert first["event_reasons"] == {"sw_power_cap": pytest.approx(1)}, (
        "a flag of the same name in another reading is separate"
    )
    assert first["added_c"] == {"mean": 55, "max": 55}
    assert first["added_active_pct"] == {"mean": 15, "max": 15}
    assert (second["added_c"], second["added_active_pct"]) == (None, None), "this GPU refuses them"
    assert second["added_w"]["max"] > 0


def test_an_added_reading_is_lost_with_its_gpu(driver, tmp_path):
    summary, _ = run_with(driver, tmp_path / "t.csv", ADDED, lost_after=5)
    table = pd.read_csv(tmp_path / "t.csv")
    last = table[table.device == "gpu1"].iloc[-1]
    added = [name for name in table.columns if name.startswith("added_")]
    assert len(added) == 6 and last[added].isna().all()
    lost = summary["gpus"][1]
    assert lost["lost_at_s"] > 0
    assert lost["added_w"]["max"] > 0, "what was measured before the loss is kept"
    assert lost["added_j"] is None, "half a run's growth is not the run's"


def test_the_tables_are_consistent():
    for readings in (GPU_READINGS, HOST_READINGS, TRAINER_READINGS):
        for names in ([each.name for each in readings], [each.summary_name for each in readings]):
            assert len({*names, *PLACE_COLUMNS}) == len(names) + len(PLACE_COLUMNS)
        assert all(bool(each.flags) == (each.kind == "flags") for each in readings)
        assert all(each.kind == "counter" for each in readings if each.increase)
    assert all(each.calls or each.gpm for each in GPU_READINGS)


def test_host_and_trainer_return_the_readings_of_their_tables():
    assert list(Host().read()) == [each.name for each in HOST_READINGS]
    tree = ProcessTree(os.getpid())
    assert list(tree.read(time.monotonic())) == [each.name for each in TRAINER_READINGS]


def test_the_documentation_has_every_reading_with_its_kind():
    text = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")
    documented = {}
    for cells in re.findall(r"^\| (host |trainer |)(`.+`) \| (\w+) \|", text, re.MULTILINE):
        documented |= {(cells[0].strip() or "gpu", name): cells[2] for name in re.findall(r"`(\w+)`", cells[1])}
    tables = {"gpu": GPU_READINGS, "host": HOST_READINGS, "trainer": TRAINER_READINGS}
    assert documented == {
        (device, each.summary_name): each.kind for device, readings in tables.items() for each in readings
    }


# ---------------------------------------------------------------------------------------------------------------------
# Other processes on the run's GPUs

OTHERS = """
import json, subprocess, sys, time
from benchmark.telemetry import sampler as module
module.STOP_TIMEOUT_S = 0.2
notices = []
telemetry = module.Telemetry(None, interval_s=0.05, notify=notices.append)
with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
    telemetry.watch(child.pid)
    telemetry.use({uses!r})
    telemetry.start()
    open({pids!r}, "w").write(str(child.pid) if {listed} else "")
    if not {ends_first}:
        telemetry.request_process_count()
        enough, deadline_s = telemetry._host_sums._blocks + 2, time.monotonic() + 200
        while {waits} and telemetry._host_sums._blocks < enough:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
    child.communicate(b"\\n")
if {ends_first}:
    telemetry.request_process_count()
begin = time.time() - 0.1
telemetry.stop()
gpus = telemetry.summary(begin, time.time()).as_dict()["gpus"]
print(json.dumps([[gpu["other_processes"] for gpu in gpus], notices]))
"""


def count_others(driver, tmp_path, uses=(UUIDS[1],), listed=True, ends_first=False, waits=True, **settings):
    """The counts on the two GPUs of a telemetry that watches a child, with its notices."""
    pids = str(tmp_path / "pids")
    code = OTHERS.format(uses=list(uses), pids=pids, listed=listed, ends_first=ends_first, waits=waits)
    return json.loads(run_python(code, driver, pids=pids, **settings).stdout)


def test_other_processes_on_a_gpu_are_counted_on_request(driver, tmp_path):
    assert count_others(driver, tmp_path, others=2) == [[2, 2], []]
    assert count_others(driver, tmp_path, others=0) == [[0, 0], []]


def test_with_other_process_ids_in_the_driver_the_ranks_are_subtracted(driver, tmp_path):
    assert count_others(driver, tmp_path, listed=False, others=3) == [[3, 2], []]
    assert count_others(driver, tmp_path, uses=UUIDS[1:] * 2, listed=False, others=3) == [[3, 1], []]


def test_if_the_driver_hides_processes_the_count_is_unknown(driver, tmp_path):
    assert count_others(driver, tmp_path, listed=False, others=0) == [[None, None], []]
    assert count_others(driver, tmp_path, uses=(None,), others=2) == [[None, None], []], "a run on the CPU"


def test_a_run_that_ends_before_the_count_leaves_it_unknown(driver, tmp_path):
    assert count_others(driver, tmp_path, listed=False, ends_first=True, others=2) == [[None, None], []]


def test_a_count_that_hangs_does_not_block(driver, tmp_path):
    counts, notices = count_others(driver, tmp_path, waits=False, processes_hang=1)
    assert counts == [None, None]
    assert any("hangs" in line for line in notices)


@pytest.mark.parametrize(
    ("listed", "own", "ranks", "expected"),
    [
        (None, {7}, 1, None),
        ([], {7}, 0, 0),
        ([], {7}, 1, None),
        ([7], {7, 8}, 1, 0),
        ([1, 7], {7, 8}, 1, 1),
        ([1, 7], {7, 8}, 2, 1),  # a rank that has no context yet
        ([1, 2, 3], {7, 8}, 2, 1),
        ([1], {7, 8}, 2, None),
        ([0, 0, 0], {7}, 1, 2),  # hidden behind one number
    ],
)
def test_processes_that_are_not_the_runs_own(listed, own, ranks, expected):
    assert other_processes(listed, own, ranks) == expected


def wait_until(condition, seconds=200.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.02)


def sampled(path, at_least):
    """Whether the file holds that many samples."""
    return path.exists() and path.read_text().count(",host,") >= at_least


def run_here(path, interval_s=0.05, samples=4, **options):
    """A short telemetry without notices on stderr; returns it stopped, with the times of its marks."""
    notices = []
    telemetry = Telemetry(path, interval_s, notify=notices.append, **options)
    begin = time.time()
    with telemetry:
        telemetry.mark("begin", begin)
        wait_until(lambda: telemetry._host_sums._blocks >= samples)
        end = time.time()
        telemetry.mark("end", end)
    return telemetry, notices, begin, end


def test_the_trainer_and_its_children_are_summed_as_they_come_and_go(tmp_path):
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time\\nwhile True: pass"])
print("up", flush=True)
sys.stdin.readline()
child.kill()
child.wait()
print("down", flush=True)
sys.stdin.readline()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as parent:
        try:
            tree = ProcessTree(parent.pid)
            assert parent.stdout.readline() == "up\n"
            first = tree.read(time.monotonic())
            time.sleep(0.5)
            second = tree.read(time.monotonic())
            assert first["processes"] == second["processes"] == 2
            assert first["cpu_pct"] is None
            assert second["cpu_pct"] > 5, "the child is busy"
            parent.stdin.write("\n")
            parent.stdin.flush()
            assert parent.stdout.readline() == "down\n"
            time.sleep(0.05)
            third = tree.read(time.monotonic())
            assert third["processes"] == 1
            assert third["cpu_pct"] >= 0
            assert third["rss_bytes"] < second["rss_bytes"]
        finally:
            parent.kill()
    assert set(tree.read(time.monotonic()).values()) == {None}


def test_a_kernel_without_lists_of_children_uses_psutil(monkeypatch):
    def no_list(pid):
        raise FileNotFoundError

    monkeypatch.setattr("benchmark.telemetry.host._children", no_list)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        tree = ProcessTree(os.getpid())
        assert tree.read(time.monotonic())["processes"] >= 2
        child.communicate(b"\n")


def test_the_host_reports_cpu_memory_and_disk():
    host = Host()
    assert host.read()["cpu_pct"] is None, "utilization needs two readings"
    sum(range(10**6))
    time.sleep(0.05)
    values = host.read()
    assert 0 <= values["cpu_pct"] <= 100
    assert values["memory_used_bytes"] > 0


def test_a_watched_process_is_in_the_summary(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        telemetry = Telemetry(tmp_path / "t.csv", 0.05, notify=lambda text: None)
        telemetry.start()
        telemetry.watch(child.pid)
        begin = time.time()
        wait_until(lambda: (tmp_path / "t.csv").read_text().count(",trainer,") >= 4)
        telemetry.stop()
        child.kill()
    trainer = telemetry.summary(begin, time.time()).as_dict()["trainer"]
    assert trainer["processes"] == {"max": 1}
    assert trainer["rss_bytes"]["mean"] > 1e6
    assert trainer["cpu_pct"]["mean"] >= 0


def test_a_killed_run_leaves_whole_rows(driver, tmp_path):
    path = tmp_path / "telemetry.csv"
    code = RUN.format(uuid="").replace("0.12", "0.02").replace("1.2", "60")
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment(driver), stderr=subprocess.PIPE)
    try:
        wait_until(lambda: sampled(path, 10))
    finally:
        process.kill()
        process.communicate()
    data = path.read_text()
    assert data.endswith("\n")
    rows = list(csv.reader(data.splitlines()))
    assert {len(row) for row in rows} == {len(CSV_COLUMNS)}


def test_a_disk_that_fills_up_costs_only_the_file(driver, tmp_path):
    path = tmp_path / "telemetry.csv"
    # A limit on file sizes makes the kernel refuse the write, as a full disk does.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
    code = limit + RUN.format(uuid=UUIDS[0])
    code = code.replace("sys.argv[1]", repr(str(path))).replace("if len(sys.argv) > 1 else None", "")
    done = run_python(code, driver)
    summary = json.loads(done.stdout)
    assert summary["samples"] >= 5
    assert summary["gpus"][0]["energy_j"] is not None
    assert done.stderr.count("sampling continues in memory") == 1
    assert path.read_bytes().endswith(b"\n"), "a partial sample is removed"
    assert len(pd.read_csv(path)) >= 3


def test_a_file_that_cannot_be_opened_is_reported_once(tmp_path):
    telemetry, notices, begin, end = run_here(tmp_path / "absent" / "t.csv")
    assert sum("sampling continues in memory" in line for line in notices) == 1
    assert telemetry.summary(begin, end).host["memory_used_bytes"] is not None


def test_a_resumed_run_appends_below_one_header(tmp_path):
    path = tmp_path / "t.csv"
    run_here(path)
    with open(path, "a") as file:
        file.write("1,2,ho")  # as a crash of the machine may leave it
    run_here(path)
    table = pd.read_csv(path)
    assert list(table.mark.dropna()) == ["begin", "end"] * 2
    assert path.read_text().count("time_unix_s") == 1


def test_a_file_of_another_version_keeps_its_columns(tmp_path):
    path = tmp_path / "t.csv"
    older = [name for name in CSV_COLUMNS if name != "cpu_pct"] + ["gone_w"]
    path.write_text(",".join(older) + "\n")
    run_here(path)
    table = pd.read_csv(path)
    assert list(table.columns) == older
    assert table.gone_w.isna().all()
    assert (table[table.device == "host"].memory_used_bytes > 1e6).all(), "not the value of the column before it"


def test_a_clock_that_jumps_does_not_change_a_region(tmp_path, monkeypatch):
    telemetry = Telemetry(tmp_path / "t.csv", 0.05, notify=lambda text: None)
    telemetry.start()
    begin = time.time()
    telemetry.mark("begin", begin)
    wait_until(lambda: sampled(tmp_path / "t.csv", 5))
    real = time.time
    monkeypatch.setattr(module.time, "time", lambda: real() + 3600)
    end = time.time()
    telemetry.mark("end", end)
    telemetry.stop()
    summary = telemetry.summary(begin, end)
    assert end - begin > 3600
    assert 0 < summary.region_s < 600
    assert summary.samples >= 3


def test_a_mark_from_before_the_start_was_stamped_by_another_clock(tmp_path):
    telemetry = Telemetry(tmp_path / "t.csv", 0.05, notify=lambda text: None)
    telemetry.start()
    begin = time.time() - 20
    telemetry.mark("begin", begin)
    wait_until(lambda: sampled(tmp_path / "t.csv", 5))
    telemetry.mark("end", begin + 1)
    telemetry.stop()
    summary = telemetry.summary(begin, begin + 1)
    assert summary.samples >= 3 and summary.host["cpu_pct"] is not None


def test_late_samples_are_counted_and_the_grid_is_kept(monkeypatch):
    telemetry = Telemetry(None, 0.05, notify=lambda text: None)
    read = telemetry._host.read
    monkeypatch.setattr(telemetry._host, "read", lambda: (time.sleep(0.12), read())[1])
    with telemetry:
        wait_until(lambda: telemetry.skipped >= 2)
    assert telemetry.summary(0, 1).skipped >= 2


def test_a_reading_that_hangs_does_not_block(monkeypatch):
    telemetry = Telemetry(None, 0.05, notify=lambda text: None)
    release = threading.Event()
    telemetry.start()
    monkeypatch.setattr(module, "STOP_TIMEOUT_S", 0.1)
    monkeypatch.setattr(telemetry._host, "read", lambda: (release.wait(60), {})[1])
    time.sleep(0.2)
    telemetry.stop()
    assert any("hangs" in notice for notice in telemetry.notices)
    assert telemetry.summary(0, 1).as_dict()["gpus"] == []
    release.set()


def test_a_bug_in_the_sampler_is_reported_and_ends_nothing(monkeypatch):
    telemetry = Telemetry(None, 0.05, notify=lambda text: None)

    def broken():
        raise ZeroDivisionError("a bug")

    telemetry.start()
    monkeypatch.setattr(telemetry._host, "read", broken)
    wait_until(lambda: telemetry.notices and "ZeroDivisionError" in telemetry.notices[-1])
    telemetry.stop()
    telemetry.summary(0, 1)


def test_stop_may_come_twice_and_without_a_start():
    telemetry = Telemetry(None)
    telemetry.stop()
    with Telemetry(None, 0.05, notify=lambda text: None) as running:
        running.stop()
