"""Telemetry through the main door: two GPUs posed by a C library, one lost in mid-run, figures in the log and the record."""

from __future__ import annotations

import csv
import json

import pytest

from tests import fake_nvml
from tests.harness import Bench


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("posed")
    driver = fake_nvml.build(folder / "driver")
    bench = Bench(folder)
    posed = {
        name: value
        for name, value in fake_nvml.environment(driver, lost_after=3).items()
        if "NVML" in name or "LIBRARY" in name
    }
    finished = bench.run(plan={"epoch_s": 2.0}, env=posed)
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
