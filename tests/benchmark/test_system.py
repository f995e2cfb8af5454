"""The system description: MLPerf's own checker accepts it, and it agrees with the machine."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlperf_logging.system_desc_checker.system_desc_checker import check_system_desc

from benchmark.machine import hardware, system
from common import limits
from tests.support.fake_nvml import build, run_python

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def with_gpus(tmp_path_factory):
    code = """
import json
from benchmark.machine import system
description = system.describe()
print(json.dumps([description, system.missing(description), system.software(), system.gpu_label()]))
"""
    return json.loads(run_python(code, build(tmp_path_factory.mktemp("nvml"))).stdout)


def test_mlperfs_checker_accepts_the_description_once_a_person_has_filled_it(tmp_path):
    description = system.describe()
    for field in system.missing(description):
        description[field] = "filled by a person"
    description["status"] = "Research, Development, or Internal (RDI)"
    path = tmp_path / "system.json"
    path.write_text(json.dumps(description))
    assert check_system_desc(path, "training", "5.1.0")[0]


def test_the_fields_are_mlperfs(tmp_path, caplog):
    path = tmp_path / "system.json"
    path.write_text("{}")
    assert not check_system_desc(path, "training", "3.0.0")[0]
    asked = {word.split("'")[0] for word in caplog.text.split("Missing field ")[1:]}
    assert asked == set(system.FIELDS) == set(system.describe())
    assert len(system.FIELDS) == 33


def test_the_description_agrees_with_the_machine():
    description = system.describe(number_of_nodes=2)
    assert description["number_of_nodes"] == "2"
    assert description["host_processor_vcpu_count"] == str(psutil.cpu_count())
    assert int(description["host_memory_capacity"].split()[0]) <= psutil.virtual_memory().total / 1024**3 + 1
    assert os.uname().release in description["operating_system"]
    assert description["framework"].startswith("PyTorch 2.")
    assert all(isinstance(value, (str, dict)) for value in description.values())


def test_what_only_a_person_knows_is_missing():
    assert {"submitter", "division", "status", "cooling"} <= set(system.missing(system.describe()))
    assert set(system.missing({})) == set(system.FIELDS) - {"hw_notes", "sw_notes"}


def test_accelerators_come_from_the_driver(with_gpus):
    description, missing, software, label = with_gpus
    assert description["accelerators_per_node"] == "2"
    assert description["accelerator_model_name"] == "NVIDIA H200"
    assert description["accelerator_memory_capacity"] == "140 GiB"
    assert description["accelerator_host_interconnect"] == "PCIe 5.0 x16"
    assert description["accelerator_frequency"] == "1980 MHz"
    assert description["system_name"].endswith("2x H200")
    assert "accelerator_interconnect_topology" in missing
    assert software["driver"] == description["other_software_stack"]["driver"] == "575.57.08"
    assert label == "h200"


def test_a_run_on_the_cpu_is_described_with_its_gpus_as_unused(tmp_path):
    code = """
import json
from benchmark.machine import system
print(json.dumps([system.describe(gpus=names) for names in ([], ["NVIDIA H200"])] + [system.gpu_label([])]))
"""
    on_cpu, on_gpu, label = json.loads(run_python(code, build(tmp_path)).stdout)
    assert (on_cpu["accelerators_per_node"], on_cpu["accelerator_model_name"]) == ("0", "N/A")
    assert "H200" not in on_cpu["system_name"]
    assert "unused GPUs: 2x NVIDIA H200" in on_cpu["hw_notes"]
    assert (on_gpu["accelerator_model_name"], on_gpu["system_name"].endswith("2x H200")) == ("NVIDIA H200", True)
    assert label == "cpu"


def test_gpus_that_nvml_does_not_list_are_known_by_their_names(monkeypatch):
    monkeypatch.setattr(system, "_whole_gpus", lambda nvml: [])
    description = system.describe(gpus=["Orin", "Orin"])
    assert (description["accelerators_per_node"], description["accelerator_model_name"]) == ("2", "2x Orin")
    assert description["system_name"].endswith("2x ORIN")
    assert system.gpu_label(["Orin"]) == "orin"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2-16gb"),
        ("../../etc", "etc"),
        ("", "gpu"),
    ],
)
def test_a_label_is_fit_for_a_folder(name, label):
    assert system.label(name) == label


def test_versions_are_those_that_are_installed():
    import numpy
    import onnxruntime

    software = system.software()
    assert software["numpy"] == numpy.__version__
    assert software["onnxruntime"] == onnxruntime.__version__
    assert software["python"] == ".".join(map(str, sys.version_info[:3]))


def test_looking_at_the_system_imports_no_torch():
    code = "import sys; from benchmark.machine import system; system.describe(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "run.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_clean_checkout_is_named_by_its_commit(checkout, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    version = system.code_version(checkout)
    monkeypatch.delenv("GIT_DIR")
    assert version == {"commit": git(checkout, "rev-parse", "HEAD").strip(), "clean": True}


def test_changed_or_added_code_is_not_clean_and_a_log_is(checkout):
    (checkout / "log").write_text(":::MLLOG\n")
    assert system.code_version(checkout)["clean"] is True
    (checkout / "other.py").write_text("2\n")
    assert system.code_version(checkout)["clean"] is False
    (checkout / "other.py").unlink()
    (checkout / "run.py").write_text("2\n")
    assert system.code_version(checkout)["clean"] is False


def test_a_folder_without_a_repository_of_its_own_has_no_commit(checkout, tmp_path, monkeypatch):
    inner = checkout / "unpacked"
    inner.mkdir()
    nothing = {"commit": None, "clean": None}
    assert system.code_version(inner) == nothing, "the commit of a parent folder is not this folder's"
    monkeypatch.setenv("PATH", str(inner))
    assert system.code_version(checkout) == nothing


def test_the_lock_file_is_named_by_its_checksum(tmp_path):
    assert system.lock_sha256(tmp_path) is None
    (tmp_path / "requirements.lock").write_bytes(b"a==1\n")
    assert system.lock_sha256(tmp_path) == hashlib.sha256(b"a==1\n").hexdigest()


def test_the_lock_file_of_an_earlier_commit_is_what_its_runs_are_held_against(checkout):
    for text in ("a==1\n", "a==2\n"):
        (checkout / "requirements.lock").write_text(text)
        git(checkout, "add", "requirements.lock")
        git(checkout, "commit", "-qm", text.strip())
    first, second = (git(checkout, "rev-parse", name).strip() for name in ("HEAD~", "HEAD"))
    (checkout / "requirements.lock").write_text("a==3\n")
    assert system.lock_sha256(checkout, first) == hashlib.sha256(b"a==1\n").hexdigest()
    assert system.lock_sha256(checkout, second) == hashlib.sha256(b"a==2\n").hexdigest()
    assert system.lock_sha256(checkout, "0" * 40) is None, "a commit of another repository"
    assert system.lock_sha256(checkout, "--output=stolen") is None and not (checkout / "stolen").exists()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of files: write(path, text) makes one of its /sys or /proc files."""
    monkeypatch.setattr(hardware, "SYS", tmp_path / "sys")
    monkeypatch.setattr(hardware, "PROC", tmp_path / "proc")
    monkeypatch.setattr(limits, "PROC", tmp_path / "proc")
    monkeypatch.setattr(limits, "CGROUP", tmp_path / "cgroup")

    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    return write


def test_a_server_with_two_sockets_is_read(machine):
    machine("proc/cpuinfo", "processor : 0\nmodel name : Big CPU\ncpu MHz : 1200.1\nflags : fpu sse\n\nprocessor : 1")
    for cpu, package in enumerate("0011"):
        machine(f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", package)
        machine(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "performance")
    machine("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3700000")
    machine("sys/devices/system/cpu/cpu0/cache/index0/level", "1")
    machine("sys/devices/system/cpu/cpu0/cache/index0/type", "Data")
    machine("sys/devices/system/cpu/cpu0/cache/index0/size", "48K")
    for dimm in range(2):
        machine(f"sys/devices/system/edac/mc/mc0/dimm{dimm}/size", "65536")
        machine(f"sys/devices/system/edac/mc/mc0/dimm{dimm}/dimm_mem_type", "Registered-DDR5")
    cpu = hardware.processor()
    assert (cpu.model, cpu.sockets, cpu.frequency_mhz) == ("Big CPU", 2, 3700)
    assert (cpu.caches, cpu.governor) == ("L1d 48K", "performance")
    assert hardware.memory_modules() == "2x 64 GiB Registered-DDR5"
    assert not hardware.virtual_machine()


def test_disks_and_adapters_without_hardware_are_left_out(machine):
    for name, hardware_behind in (("nvme0n1", True), ("sda", True), ("dm-0", False), ("loop0", False)):
        machine(f"sys/block/{name}/size", "2000000")
        machine(f"sys/block/{name}/queue/rotational", "1" if name == "sda" else "0")
        if hardware_behind:
            machine(f"sys/block/{name}/device/model", "x")
    machine("sys/block/vdb/size", "16")
    machine("sys/block/vdb/device/model", "a virtual machine's configuration")
    assert [(disk.name, disk.kind) for disk in hardware.disks()] == [("nvme0n1", "NVMe SSD"), ("sda", "HDD")]
    assert hardware.disks()[0].capacity_bytes == 2_000_000 * 512
    machine("sys/class/net/lo/speed", "10")
    machine("sys/class/net/eth0/speed", "100000")
    machine("sys/class/net/eth0/device/vendor", "x")
    machine("sys/class/infiniband/mlx5_0/ports/1/rate", "400 Gb/sec (4X NDR)")
    machine("sys/class/infiniband/mlx5_0/ports/1/link_layer", "InfiniBand")
    assert hardware.network() == ["100 Gb/s Ethernet", "InfiniBand 400 Gb/sec (4X NDR)"]


def test_a_containers_limits_count(machine, tmp_path):
    machine("proc/self/cgroup", "0::/")
    machine("cgroup/cpu.max", "50000 100000")
    machine("cgroup/memory.max", str(2 * 1024**3))
    description = system.describe()
    assert description["host_memory_capacity"] == "2 GiB"
    assert "usable cores: 0.5" in description["hw_notes"]


@pytest.mark.parametrize(
    ("signs", "kind"),
    [
        ({"APPTAINER_CONTAINER": "/x.sif", "container": "docker"}, "apptainer"),
        ({"SINGULARITY_CONTAINER": "/x.sif"}, "singularity"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "container": "docker"}, "kubernetes"),
        ({"container": "podman"}, "podman"),
        ({"container": "lxc"}, "lxc"),
    ],
)
def test_a_container_is_recognised_by_what_its_engine_sets(monkeypatch, signs, kind):
    for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER", "KUBERNETES_SERVICE_HOST", "container"):
        monkeypatch.delenv(name, raising=False)
    for name, value in signs.items():
        monkeypatch.setenv(name, value)
    assert hardware.container() == kind


def test_docker_is_told_from_a_virtual_machine_made_from_its_image(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "DOCKER_SIGN", tmp_path / ".dockerenv")
    for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER", "KUBERNETES_SERVICE_HOST", "container"):
        monkeypatch.delenv(name, raising=False)
    hosts = "31 22 8:1 /var/lib/docker/containers/4f/hosts /etc/hosts rw - ext4 /dev/sda1 rw\n"
    machine("proc/self/mountinfo", "22 1 254:0 / / rw - ext4 /dev/vda rw\n" + hosts)
    assert hardware.container() is None
    (tmp_path / ".dockerenv").touch()
    assert hardware.container() == "docker"
    machine("proc/self/mountinfo", "22 1 254:0 / / rw - ext4 /dev/vda rw\n")
    assert hardware.container() is None


def test_a_machine_that_reports_nothing_has_an_empty_description(machine):
    cpu = hardware.processor()
    assert (cpu.model, cpu.sockets, cpu.caches, cpu.governor) == (None, None, None, None)
    assert hardware.disks() == []
    assert hardware.memory_modules() is None
    assert hardware.product() is None
    assert {"host_processor_model_name", "host_storage_type"} <= set(system.missing(system.describe()))
