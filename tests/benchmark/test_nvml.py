"""NVML through the real bindings and a fake library in C."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pynvml
import pytest

from benchmark.machine import nvml
from benchmark.telemetry import readings
from tests.support.fake_nvml import REFUSED_BY_GPU_1, UUIDS, build, run_python

ONLY_MONITORS = {each.name for each in readings.GPU_READINGS if each.gpm and not each.calls}
"""The readings that a GPU without performance monitors does not have."""

READ_TWICE = """
import json, time
from benchmark.machine.nvml import Nvml
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
        "event_reasons": 4,
        "sm_active_pct": 40,
        "sm_occupancy_pct": 25,
        "tensor_active_pct": 30,
        "dram_active_pct": 55,
        "pcie_tx_bytes_per_s": 100 * 1024**2,
        "pcie_rx_bytes_per_s": 200 * 1024**2,
    }
    assert first[0]["sm_active_pct"] is None, "the monitors need two samples"
    assert first[0]["pcie_tx_bytes_per_s"] is None, "the call that waits for 20 ms is only for GPUs without monitors"
    assert [info["uuid"] for info in infos] == UUIDS
    assert infos[0]["memory_total_bytes"] == 140 * 1024**3
    assert infos[0]["compute_capability"] == "9.0"
    assert infos[0]["power_limit_w"] == 700
    assert infos[0]["mig_enabled"] is False
    assert infos[1]["mig_enabled"] is None


def test_only_the_unsupported_value_is_missing(driver):
    _, (_, gpu), *_ = read_twice(driver)
    assert {name for name, value in gpu.items() if value is None} == REFUSED_BY_GPU_1


def test_an_old_driver_is_read_by_its_old_names(old_driver):
    _, (gpu, _), infos, *_ = read_twice(old_driver)
    assert gpu["event_reasons"] == 4
    assert gpu["memory_used_bytes"] == 11 * 1024**3
    assert gpu["power_w"] == 300
    assert gpu["pcie_tx_bytes_per_s"] == 1024**2
    missing = {name for name, value in gpu.items() if value is None}
    assert missing == {"power_instant_w", "energy_counter_j", *ONLY_MONITORS}
    assert infos[0]["gpm_supported"] is False


def test_a_lost_gpu_reads_nothing_and_the_other_continues(driver):
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
from benchmark.machine.nvml import Nvml
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


def test_a_mig_slice_is_listed_after_its_gpu_with_the_readings_it_has(driver):
    _, second, infos, *_ = read_twice(driver, mig=1)
    assert [info["uuid"][:4] for info in infos] == ["GPU-", "MIG-", "GPU-"]
    assert infos[1]["mig_parent_uuid"] == UUIDS[0]
    assert second[1]["sm_active_pct"] == 40
    assert second[1]["power_w"] is None, "a slice has no power reading"


def test_a_gpu_is_found_by_the_uuid_that_torch_writes(driver):
    code = f"""
from benchmark.machine.nvml import Nvml
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


@pytest.mark.parametrize("kind", ["driver", "old_driver"])
def test_the_processes_on_a_gpu_are_listed(kind, request, tmp_path):
    (tmp_path / "pids").write_text("17\n18\n")
    code = "from benchmark.machine.nvml import Nvml\nwith Nvml() as nvml: print(nvml.gpus[0].process_ids())"
    found = run_python(code, request.getfixturevalue(kind), pids=tmp_path / "pids", others=1).stdout
    assert json.loads(found) == [17, 18, 1 << 22]
    assert json.loads(run_python(code, request.getfixturevalue(kind)).stdout) == [], "there are no processes"


def test_text_that_an_older_pynvml_returns_as_bytes_is_text(driver):
    code = """
import json, pynvml
for name in ("nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlSystemGetDriverVersion"):
    setattr(pynvml, name, getattr(pynvml, name).__wrapped__)
from benchmark.machine.nvml import Nvml
with Nvml() as nvml:
    print(json.dumps([nvml.driver_version, nvml.gpus[0].info.uuid, nvml.gpus[0].info.name]))
"""
    assert json.loads(run_python(code, driver).stdout) == ["575.57.08", UUIDS[0], "NVIDIA H200"]


# ---------------------------------------------------------------------------------------------------------------------
# Versions of pynvml that lack a name


def names_of_pynvml() -> list[str]:
    """Every name of pynvml's that telemetry uses, as an attribute of `_nv` (or of what it is passed as) or as a string."""
    found = set()
    for module, alias in ((nvml, "_nv"), (readings, "nv")):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == alias:
                found.add(node.attr)
            elif isinstance(node, ast.Attribute):
                past = hasattr(pynvml, node.attr) and node.attr.startswith(("nvml", "NVML", "c_nvml"))
                assert not past, f"{module.__name__}:{node.lineno}: {node.attr} is looked up not through `{alias}`"
            elif isinstance(node, ast.Constant) and re.fullmatch(r"(nvml|NVML|c_nvml)\w+", str(node.value)):
                found.add(node.value)
    return sorted(found)


NAMES = names_of_pynvml()

WITHOUT_EACH = """
import importlib.util, json, sys, time, types
import pynvml
from benchmark.telemetry.readings import GPU_READINGS
whole = vars(pynvml)

def without(name):
    # The rest of pynvml still works: a version that lacks a name does not use it itself.
    less = types.ModuleType("pynvml")
    vars(less).update({key: value for key, value in whole.items() if key != name})
    sys.modules["pynvml"] = less
    spec = importlib.util.spec_from_file_location("benchmark.nvml_without", PATH)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

modules, opened, results = {name: without(name) for name in [None, *NAMES]}, {}, {}
for name, module in modules.items():
    try:
        opened[name] = module.Nvml()
        results[name] = {}
    except module.NvmlUnavailable as error:
        results[name] = str(error)
for wait_s in (0.15, 0.0):
    for name, nvml in opened.items():
        for gpu in nvml.gpus:
            values = gpu.read(time.monotonic())
            # These differ from one reading to the next.
            changing = {"utilization_pct", *(each.name for each in GPU_READINGS if each.kind == "counter")}
            results[name][gpu.info.index] = {each: value for each, value in values.items() if each not in changing}
    time.sleep(wait_s)
for name, nvml in opened.items():
    results[name] |= {"info": [vars(gpu.info) for gpu in nvml.gpus], "processes": [gpu.process_ids() for gpu in nvml.gpus]}
    results[name]["versions"] = [nvml.driver_version, nvml.nvml_version, nvml.cuda_driver_version]
    nvml.close()
print(json.dumps({str(name): found for name, found in results.items()}))
"""


@pytest.fixture(scope="module")
def without_each(driver):
    """What is read where pynvml lacks one name, by that name; `None`: where it lacks nothing."""
    return json.loads(
        run_python(f"PATH, NAMES = {nvml.__file__!r}, {NAMES!r}\n{WITHOUT_EACH}", driver, others=2).stdout
    )


def leaves(tree, path=()):
    """Every value of nested dicts and lists, by its path."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, (*path, key))
    else:
        yield path, tree


OPENS = {"nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"}
"""Names without which no GPU is found."""
STAND_INS = {
    "memory_used_bytes": {11 * 1024**3, 12 * 1024**3},
    "pcie_tx_bytes_per_s": {1024**2},
    "pcie_rx_bytes_per_s": {2 * 1024**2},
    "gpm_supported": {False},
}
"""Values of an older call that replaces a missing one."""
MISSING = {
    "NVML_FI_DEV_POWER_AVERAGE": set(),
    "NVML_FI_DEV_POWER_INSTANT": {"power_instant_w"},
    "NVML_GPM_METRIC_ANY_TENSOR_UTIL": {"tensor_active_pct"},
    "NVML_GPM_METRIC_SM_UTIL": {"sm_active_pct"},
    "c_nvmlGpmMetricsGet_t": ONLY_MONITORS,
    "nvmlDeviceGetClockInfo": {"sm_clock_mhz", "memory_clock_mhz"},
    "nvmlDeviceGetCurrentClocksThrottleReasons": set(),
    "nvmlDeviceGetTemperatureV": set(),
    "nvmlGpmQueryDeviceSupport": ONLY_MONITORS,
    "NVML_ERROR_FUNCTION_NOT_FOUND": set(),
    "NVMLError": set(),
}
"""The readings that GPU 0 lacks if pynvml lacks a name."""


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_pynvml_lacks_costs_only_its_own_values(name, without_each):
    whole, found = without_each["None"], without_each[name]
    if name == "nvmlInit":
        assert found == "NVML cannot be used (pynvml has no nvmlInit)"
    elif name in OPENS:
        assert found == {"info": [], "processes": [], "versions": whole["versions"]}
    else:
        before = dict(leaves(whole))
        changed = {path: value for path, value in leaves(found) if before.get(path) != value}
        assert all(value in STAND_INS.get(path[-1], ()) for path, value in changed.items() if value is not None), (
            changed
        )
        if name in MISSING:
            assert {reading for reading, value in found["0"].items() if value is None} == MISSING[name]


def test_the_names_are_found_and_alternative_calls_are_used(without_each):
    assert len(NAMES) > 60
    assert set(NAMES) >= {"nvmlInit", "NVMLError", "NVML_ERROR_GPU_IS_LOST", "NVML_FI_DEV_POWER_AVERAGE", *MISSING}
    assert without_each["None"]["processes"] == [[1 << 22, (1 << 22) + 1]] * 2
    assert without_each["nvmlDeviceGetComputeRunningProcesses_v2"]["processes"] == without_each["None"]["processes"]
    assert without_each["nvmlDeviceGetComputeRunningProcesses"]["processes"] == [None, None], (
        "and this driver lacks _v2"
    )
    assert without_each["nvmlSystemGetCudaDriverVersion_v2"]["versions"] == ["575.57.08", "12.575.57", None]
