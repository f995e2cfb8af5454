"""Telemetry through the main door: two GPUs posed by a C library, one lost in mid-run, figures in the log and the record."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pynvml
import pytest

from benchmark.harness.summary import summary_rows
from compliance.check import check_paths
from tests.support import fake_nvml
from tests.support.harness import ROOT, Bench


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return fake_nvml.build(tmp_path_factory.mktemp("driver"))


def posed(driver, **settings) -> dict[str, str]:
    """What of the environment makes NVML the library in `driver`."""
    environment = fake_nvml.environment(driver, **settings)
    return {name: value for name, value in environment.items() if "NVML" in name or "LIBRARY" in name}


@pytest.fixture(scope="module")
def run(tmp_path_factory, driver):
    bench = Bench(tmp_path_factory.mktemp("posed"))
    finished = bench.run(plan={"epoch_s": 2.0}, env=posed(driver, lost_after=3))
    assert finished.status == 0, finished.stderr
    return bench, finished


def test_the_run_goes_on_and_the_loss_is_said_once(run):
    _, finished = run
    assert finished.stderr.count("lost") == 1
    assert "target reached" in finished.stderr


def test_log_and_record_show_the_same_right_figures(run):
    bench, finished = run
    (line,) = [line for line in finished.stdout.splitlines() if '"telemetry_summary"' in line]
    logged = json.loads(line.removeprefix(":::MLLOG "))["value"]
    recorded = bench.record().telemetry
    assert json.loads(json.dumps(recorded)) == logged
    first, second = logged["gpus"]
    assert [gpu["uuid"] for gpu in logged["gpus"]] == fake_nvml.UUIDS
    assert [gpu["name"] for gpu in logged["gpus"]] == ["NVIDIA H200"] * 2
    assert logged["region_s"] == pytest.approx(6.0, abs=1.5)
    assert first["power_w"]["max"] == 300
    assert first["energy_j"] == pytest.approx(300 * logged["region_s"], rel=0.15)
    assert first["sm_active_pct"]["mean"] > 0, "GPM is read"
    assert first["lost_at_s"] is None
    assert second["lost_at_s"] is not None
    assert second["energy_j"] is None, "half a run's energy is not the run's energy"
    assert second["temperature_c"] is None, "an unsupported value is missing, not 0"
    assert second["tensor_active_pct"] is None, "an unsupported GPM metric is missing alone"
    assert logged["host"]["cpu_pct"]["mean"] >= 0
    assert logged["trainer"]["rss_bytes"]["max"] > 1_000_000


def test_the_csv_has_a_row_per_sample_and_device_and_blanks_where_nothing_was_measured(run):
    bench, _ = run
    (folder,) = bench.folders()
    rows = list(csv.DictReader((folder / "telemetry.csv").open()))
    by_device = {name: [row for row in rows if row["device"] == name] for name in ("gpu0", "gpu1", "host", "trainer")}
    assert all(len(found) >= 5 for found in by_device.values())
    assert float(by_device["gpu0"][0]["power_w"]) == 300
    assert by_device["gpu1"][-1]["power_w"] == ""


def run_on_gpu(bench, driver, *arguments, **plan) -> subprocess.CompletedProcess[str]:
    """A run through the door on GPU 1, which two other processes use too."""
    pids = bench.folder / "pids"
    pids.unlink(missing_ok=True)
    environment = fake_nvml.environment(driver, others=2, pids=pids) | bench.environment
    environment |= {"FAKE_TRAINER": json.dumps(plan | {"pids": str(pids)}), "GPU_TRAINER": fake_nvml.UUIDS[1]}
    return subprocess.run(
        [sys.executable, "-m", "benchmark", "run", *arguments, "--trainer-module", "tests.support.gpu_trainer"],
        env=environment,
        cwd=bench.folder,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory, driver):
    bench = Bench(tmp_path_factory.mktemp("shared"))
    done = run_on_gpu(bench, driver, "--params", str(bench.params), epoch_s=1.0)
    assert done.returncode == 0, done.stderr
    return bench, done


def test_other_processes_on_the_runs_gpu_are_recorded_and_warned_of(shared):
    bench, done = shared
    (line,) = [line for line in done.stdout.splitlines() if '"telemetry_summary"' in line]
    gpus = json.loads(line.removeprefix(":::MLLOG "))["value"]["gpus"]
    assert [gpu["used"] for gpu in gpus] == [False, True]
    assert [gpu["other_processes"] for gpu in gpus] == [2, 2], "the trainer's own process is none of them"
    assert bench.record().telemetry["gpus"] == gpus
    warning = "GPU 1: 2 other processes used it when the clock started; the time may not be this machine's best"
    assert warning in " ".join(done.stderr.split())
    assert "GPU 0: 2 other" not in " ".join(done.stderr.split()), "it is no matter of this run's"


def test_a_resumed_run_counts_anew(driver, tmp_path):
    bench = Bench(tmp_path)
    done = run_on_gpu(bench, driver, "--params", str(bench.params), fault="crash", at=2)
    assert done.returncode == 2, done.stderr
    (folder,) = bench.folders()
    done = run_on_gpu(bench, driver, "--resume", str(folder), epoch_s=1.0)
    assert done.returncode == 0, done.stderr
    assert bench.record().telemetry["gpus"][1]["other_processes"] == 2


@pytest.mark.parametrize(("others", "expected"), [(1, "GPU 1: 1 other process used it"), (0, None), (None, None)])
def test_the_summary_warns_of_others_where_there_were_some(shared, others, expected):
    bench, _ = shared
    record = bench.record()
    record.telemetry["gpus"][1]["other_processes"] = others
    (folder,) = bench.folders()
    warnings = [text for name, text in summary_rows(record, folder) if name == "warning"]
    assert [text.startswith(expected or "") for text in warnings] == ([True] if expected else [])
    del record.telemetry["gpus"][1]["other_processes"]
    assert "warning" not in dict(summary_rows(record, folder)), "a record of an older version"


def test_a_run_with_the_count_is_checked_and_compared_like_one_without(shared, tmp_path):
    bench, _ = shared
    (folder,) = bench.folders()
    older = tmp_path / "result.txt"
    older.write_text((folder / "result.txt").read_text().replace('"other_processes": 2, ', ""))
    assert "other_processes" not in older.read_text()
    found, before = (
        [(finding.rule, finding.line, finding.found) for finding in check_paths([path])[0].findings]
        for path in (folder / "result.txt", older)
    )
    assert found == before
    compare = [sys.executable, "-m", "results", "compare", str(folder), str(older)]
    done = subprocess.run(compare, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


CRIPPLED = """
import importlib.util, re, sys
spec = importlib.util.spec_from_file_location("whole_pynvml", {whole!r})
whole = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(whole)
globals().update({{name: value for name, value in vars(whole).items() if not re.fullmatch({lacks!r}, name)}})
"""


@pytest.mark.parametrize(
    ("lacks", "figures"),
    [
        (
            "nvml(Gpm.*|Memory_v2|DeviceGet(.*Clocks.*Reasons|TemperatureV|UtilizationRates|.*RunningProcesses.*))"
            "|c_nvmlGpm.*|NVML_(ERROR|FI|GPM)_.*|NVMLLibraryMismatchError",
            {"power_w": {"mean": 300.0, "max": 300.0}, "sm_active_pct": None, "utilization_pct": None},
        ),
        ("nvmlInit", None),
    ],
)
def test_a_run_with_a_pynvml_that_lacks_names_ends_with_its_record(driver, tmp_path, lacks, figures):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "pynvml.py").write_text(CRIPPLED.format(whole=pynvml.__file__, lacks=lacks))
    bench = Bench(tmp_path)
    paths = {"PYTHONPATH": f"{tmp_path / 'old'}:{ROOT}"}
    finished = bench.run(plan={"epoch_s": 0.8}, env=posed(driver) | paths)
    assert finished.status == 0, finished.stderr
    record = bench.record()
    assert record.status == "success"
    gpus = record.telemetry["gpus"]
    if figures is None:
        assert gpus == []
        assert finished.stderr.count("host figures only: NVML cannot be used (pynvml has no nvmlInit)") == 1
    else:
        assert {name: gpus[0][name] for name in figures} == figures
    assert record.telemetry["host"]["cpu_pct"] is not None
