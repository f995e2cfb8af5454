"""Telemetry of whole runs: two GPUs of a fake NVML library, one lost during the run, figures in the log and the record."""

from __future__ import annotations

import csv
import json
import sys

import pynvml
import pytest

from benchmark.harness.summary import summary_rows
from compliance.check import check_paths
from results.__main__ import main as results_main
from tests.support import fake_nvml
from tests.support.harness import ROOT, Bench, Finished


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return fake_nvml.build(tmp_path_factory.mktemp("driver"))


def fake_driver(driver, **settings) -> dict[str, str]:
    """The environment variables that make the library in `driver` this machine's NVML."""
    environment = fake_nvml.environment(driver, **settings)
    return {name: value for name, value in environment.items() if "NVML" in name or "LIBRARY" in name}


@pytest.fixture(scope="module")
def run(tmp_path_factory, driver):
    bench = Bench(tmp_path_factory.mktemp("run"))
    finished = bench.run(plan={"epoch_s": 1.5}, env=fake_driver(driver, lost_after=3))
    assert finished.status == 0, finished.stderr
    return bench, finished


def test_the_run_continues_and_the_loss_is_reported_once(run):
    _, finished = run
    assert finished.stderr.count("lost") == 1
    assert "target reached" in finished.stderr


def test_log_and_record_hold_the_same_correct_figures(run):
    bench, finished = run
    (line,) = [line for line in finished.stdout.splitlines() if '"telemetry_summary"' in line]
    logged = json.loads(line.removeprefix(":::MLLOG "))["value"]
    recorded = bench.record().telemetry
    assert json.loads(json.dumps(recorded)) == logged
    first, second = logged["gpus"]
    assert [gpu["uuid"] for gpu in logged["gpus"]] == fake_nvml.UUIDS
    assert [gpu["name"] for gpu in logged["gpus"]] == ["NVIDIA H200"] * 2
    assert logged["region_s"] == pytest.approx(4.5, abs=1.5)
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
    assert all(len(found) >= 4 for found in by_device.values())
    assert float(by_device["gpu0"][0]["power_w"]) == 300
    assert by_device["gpu1"][-1]["power_w"] == ""


def run_on_gpu(bench, driver, *arguments, **plan) -> Finished:
    """A run on GPU 1, which two other processes use too."""
    pids = bench.folder / "pids"
    pids.unlink(missing_ok=True)
    plan |= {"pids": str(pids), "gpu": fake_nvml.UUIDS[1]}
    return bench.run(*arguments, plan=plan, env=fake_driver(driver, others=2, pids=pids))


@pytest.fixture(scope="module")
def shared(tmp_path_factory, driver):
    bench = Bench(tmp_path_factory.mktemp("shared"))
    done = run_on_gpu(bench, driver, epoch_s=0.7)
    assert done.status == 0, done.stderr
    return bench, done


def test_other_processes_on_the_runs_gpu_are_recorded_and_a_warning_names_them(shared):
    bench, done = shared
    (line,) = [line for line in done.stdout.splitlines() if '"telemetry_summary"' in line]
    gpus = json.loads(line.removeprefix(":::MLLOG "))["value"]["gpus"]
    assert [gpu["used"] for gpu in gpus] == [False, True]
    assert [gpu["other_processes"] for gpu in gpus] == [2, 2], "the trainer's own process is not counted"
    assert bench.record().telemetry["gpus"] == gpus
    warning = "GPU 1: 2 other processes used it when the clock started, which may have slowed the run down"
    assert warning in " ".join(done.stderr.split())
    assert "GPU 0: 2 other" not in " ".join(done.stderr.split()), "this run does not use it"


def test_a_resumed_run_counts_other_processes_again(driver, tmp_path):
    bench = Bench(tmp_path)
    done = run_on_gpu(bench, driver, fault="crash", at=2)
    assert done.status == 2, done.stderr
    (folder,) = bench.folders()
    done = run_on_gpu(bench, driver, "--resume", str(folder), epoch_s=0.7)
    assert done.status == 0, done.stderr
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


def test_a_run_with_the_count_is_checked_and_compared_like_one_without(shared, tmp_path, capsys, monkeypatch):
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
    monkeypatch.setattr(sys, "argv", ["results", "compare", str(folder), str(older)])
    assert results_main() == 0, capsys.readouterr().err


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
    finished = bench.run(plan={"epoch_s": 0.8}, env=fake_driver(driver) | paths, new_interpreter=True)
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
