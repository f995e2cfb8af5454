"""NVML through the real bindings and a C library that poses as it."""

import json
from functools import cache

import pytest
from fake_nvml import UUIDS, build, run_python

from benchmark import nvml

READ_TWICE = """
import json, time
from benchmark.nvml import Nvml
with Nvml() as nvml:
    first = [gpu.read(time.monotonic()) for gpu in nvml.gpus]
    time.sleep(0.15)
    second = [gpu.read(time.monotonic()) for gpu in nvml.gpus]
    infos = [vars(gpu.info) for gpu in nvml.gpus]
print(json.dumps([first, second, infos, nvml.driver_version, nvml.cuda_driver_version]))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="module")
def old_driver(tmp_path_factory):
    return build(tmp_path_factory.mktemp("old"), "-DOLD_DRIVER")


@cache
def answers(folder, settings):
    return run_python(READ_TWICE, folder, **dict(settings)).stdout


def read_twice(folder, **settings):
    return json.loads(answers(folder, tuple(settings.items())))


def test_every_reading_arrives_in_its_unit(driver):
    first, second, infos, driver_version, cuda_version = read_twice(driver)
    assert (driver_version, cuda_version) == ("575.57.08", "12.9")
    gpu = second[0]
    assert gpu.pop("energy_counter_j") == pytest.approx(1e6, rel=0.01)
    assert gpu.pop("utilization_pct") == 40
    assert gpu == {
        "memory_used_bytes": 10 * 1024**3,
        "power_w": 300,
        "power_instant_w": 350,
        "temperature_c": 55,
        "sm_clock_mhz": 1755,
        "memory_clock_mhz": 3201,
        "event_reasons_bits": 4,
        "sm_active_pct": 40,
        "sm_occupancy_pct": 25,
        "tensor_active_pct": 30,
        "dram_active_pct": 55,
        "pcie_tx_bytes_per_s": 100 * 1024**2,
        "pcie_rx_bytes_per_s": 200 * 1024**2,
    }
    assert first[0]["sm_active_pct"] is None, "the monitors need two samples"
    assert [info["uuid"] for info in infos] == UUIDS
    assert infos[0]["memory_total_bytes"] == 140 * 1024**3
    assert infos[0]["compute_capability"] == "9.0"
    assert infos[0]["power_limit_w"] == 700
    assert infos[0]["mig_enabled"] is False
    assert infos[1]["mig_enabled"] is None


def test_an_unsupported_value_is_missing_alone(driver):
    _, (_, gpu), *_ = read_twice(driver)
    assert [name for name, value in gpu.items() if value is None] == ["temperature_c", "tensor_active_pct"]


def test_an_old_driver_is_read_by_its_old_names(old_driver):
    _, (gpu, _), infos, *_ = read_twice(old_driver)
    assert gpu["event_reasons_bits"] == 4
    assert gpu["memory_used_bytes"] == 11 * 1024**3
    assert gpu["power_w"] == 300
    assert gpu["pcie_tx_bytes_per_s"] == 1024**2
    missing = {name for name, value in gpu.items() if value is None}
    assert missing == {
        "power_instant_w",
        "energy_counter_j",
        "sm_active_pct",
        "sm_occupancy_pct",
        "tensor_active_pct",
        "dram_active_pct",
    }
    assert infos[0]["gpm_supported"] is False


def test_a_lost_gpu_reads_nothing_and_the_other_goes_on(driver):
    first, second, *_ = read_twice(driver, lost_after=1)
    assert first[1]["power_w"] is None or second[1]["power_w"] is None
    assert set(second[1].values()) == {None}
    assert second[0]["power_w"] == 300


def test_a_driver_that_vanishes_leaves_everything_missing(driver):
    _, second, *_ = read_twice(driver, vanish_after=1)
    assert {value for gpu in second for value in gpu.values()} == {None}


def test_samples_too_close_together_give_no_monitor_values(driver):
    code = """
import json, time
from benchmark.nvml import Nvml
with Nvml() as nvml:
    gpu = nvml.gpus[0]
    gpu.read(10.0)
    soon = gpu.read(10.05)
    time.sleep(0.15)
    print(json.dumps([soon, gpu.read(10.2)]))
"""
    soon, later = json.loads(run_python(code, driver).stdout)
    assert soon["sm_active_pct"] is None
    assert soon["power_w"] == 300
    assert later["sm_active_pct"] == 40, "the sample that came too soon was not taken, and the one before it was kept"


def test_a_mig_slice_stands_beside_its_gpu_with_what_it_can_tell(driver):
    _, second, infos, *_ = read_twice(driver, mig=1)
    assert [info["uuid"][:4] for info in infos] == ["GPU-", "MIG-", "GPU-"]
    assert infos[1]["mig_parent_uuid"] == UUIDS[0]
    assert second[1]["sm_active_pct"] == 40
    assert second[1]["power_w"] is None, "a slice has no power meter of its own"


def test_a_gpu_is_found_by_the_uuid_that_torch_writes(driver):
    code = f"""
from benchmark.nvml import Nvml
with Nvml() as nvml:
    print(nvml.gpu("{UUIDS[1].removeprefix("GPU-")}").info.index, nvml.gpu("{UUIDS[0]}").info.index, nvml.gpu("GPU-no"))
"""
    assert run_python(code, driver).stdout.split() == ["1", "0", "None"]


def test_no_driver_says_so():
    if not _has_driver():
        with pytest.raises(nvml.NvmlUnavailable, match="NVML cannot be used"):
            nvml.Nvml()


def _has_driver() -> bool:
    try:
        nvml.Nvml().close()
    except nvml.NvmlUnavailable:
        return False
    return True


def test_event_reasons_are_named():
    assert nvml.event_reason_names(0x4 | 0x40) == ["sw_power_cap", "hw_thermal_slowdown"]
    assert nvml.event_reason_names(0) == []
    assert nvml.event_reason_names(None) is None
