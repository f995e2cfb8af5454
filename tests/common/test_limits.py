"""What containers and batch systems leave of a machine: their control groups as files, and one that the kernel really enforces."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common import limits
from common.errors import UserError
from reference_model import process
from reference_model.data import data_loader

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30
UNLIMITED_V1 = 9223372036854771712


class Machine:
    """A machine of files: 64 cores, 256 GiB of memory, 200 of it available, and the control groups that a test writes."""

    def __init__(self, folder):
        self.folder = folder
        self.mounts = []
        self.write("proc/meminfo", f"MemTotal: {256 << 20} kB\nMemFree: 1 kB\nMemAvailable: {200 << 20} kB")

    def write(self, path, text):
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def in_group(self, *lines):
        """What /proc/self/cgroup says."""
        self.write("proc/self/cgroup", "\n".join(lines))

    def mount(self, point, kind, options="rw", root="/"):
        """Have the group `root` mounted at `point`, as /proc/self/mountinfo tells."""
        place = str(self.folder / point).replace(" ", "\\040")
        self.mounts.append(f"42 31 0:33 {root} {place} rw,nosuid shared:9 master:1 - {kind} {kind} {options}")
        self.write("proc/self/mountinfo", "\n".join(["22 1 8:1 / / rw - ext4 /dev/root rw", *self.mounts]))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "PROC", tmp_path / "proc")
    monkeypatch.setattr(limits, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    return Machine(tmp_path)


def found():
    """Usable cores, and memory and what is available of it in GiB."""
    return limits.usable_cores(), limits.memory_bytes() / GIB, limits.available_bytes() / GIB


def test_without_control_groups_the_whole_machine_counts(machine):
    assert found() == (64, 256, 200)
    assert limits.machine_memory_bytes() == 256 * GIB


def test_limits_that_are_none_limit_nothing(machine):
    machine.in_group("4:memory:/a", "3:cpu,cpuacct:/a", "0::/a")
    machine.mount("memory", "cgroup", "rw,memory")
    machine.mount("cpu", "cgroup", "rw,cpu,cpuacct")
    machine.mount("unified", "cgroup2")
    machine.write("memory/a/memory.limit_in_bytes", UNLIMITED_V1)
    machine.write("memory/a/memory.stat", f"cache 1\nhierarchical_memory_limit {UNLIMITED_V1}")
    machine.write("cpu/a/cpu.cfs_quota_us", -1)
    machine.write("cpu/a/cpu.cfs_period_us", 100000)
    machine.write("unified/a/cpu.max", "max 100000")
    machine.write("unified/a/memory.max", "max")
    assert found() == (64, 256, 200)
    assert limits.quotas() == []


def test_docker_with_the_first_version(machine):
    machine.in_group("4:memory:/docker/abc", "3:cpu,cpuacct:/docker/abc", "1:name=systemd:/docker/abc")
    machine.mount("cpu,cpuacct", "cgroup", "rw,cpu,cpuacct", root="/docker/abc")
    machine.mount("memory", "cgroup", "rw,memory", root="/docker/abc")
    machine.write("cpu,cpuacct/cpu.cfs_quota_us", 250000)
    machine.write("cpu,cpuacct/cpu.cfs_period_us", 100000)
    machine.write("cpu,cpuacct/cpuacct.usage", 7_500_000_000)
    machine.write("memory/memory.limit_in_bytes", 4 * GIB)
    machine.write("memory/memory.usage_in_bytes", 3 * GIB)
    files = {"total_inactive_file": GIB, "total_active_file": GIB, "inactive_file": 1}
    machine.write("memory/memory.stat", "\n".join(f"{name} {size}" for name, size in files.items()))
    assert found() == (2.5, 4, 3), "what is kept of files is given back when it is needed"
    assert limits.cores() == 2
    assert limits.quotas() == [limits.Quota(2.5, 7.5)]


def test_a_limit_above_the_group_that_a_container_sees(machine):
    machine.in_group("4:memory:/docker/abc")
    machine.mount("memory", "cgroup", "rw,memory", root="/docker/abc")
    machine.write("memory/memory.limit_in_bytes", UNLIMITED_V1)
    machine.write("memory/memory.stat", f"hierarchical_memory_limit {2 * GIB}")
    assert found() == (64, 2, 2)


def test_slurm_limits_the_groups_above_a_task(machine):
    job = "system.slice/slurmstepd.scope/job_7"
    machine.in_group(f"0::/{job}/step_0/user/task_0")
    machine.mount("sys fs/cgroup", "cgroup2")
    for level, cpu, memory in (
        (job, "800000 100000", 32 * GIB),
        (f"{job}/step_0", "400000 100000", 8 * GIB),
        (f"{job}/step_0/user", "max 100000", "max"),
        (f"{job}/step_0/user/task_0", "1600000 100000", "max"),
    ):
        machine.write(f"sys fs/cgroup/{level}/cpu.max", cpu)
        machine.write(f"sys fs/cgroup/{level}/memory.max", memory)
    machine.write(f"sys fs/cgroup/{job}/step_0/memory.current", 5 * GIB)
    machine.write(f"sys fs/cgroup/{job}/step_0/memory.stat", f"anon 3\nfile {2 * GIB}\ninactive_file {GIB}")
    machine.write(f"sys fs/cgroup/{job}/step_0/cpu.stat", "usage_usec 1500000\nuser_usec 1")
    assert found() == (4, 8, 4)
    assert limits.Quota(4.0, 1.5) in limits.quotas()
    # Beyond this one the kernel stops no process, but slows all of them down.
    machine.write(f"sys fs/cgroup/{job}/memory.high", 6 * GIB)
    assert found() == (4, 6, 4)


def test_kubernetes_gives_a_pod_a_namespace_of_its_own(machine):
    machine.in_group("0::/")
    machine.mount("cgroup2", "cgroup2")
    machine.write("cgroup2/cpu.max", "150000 100000")
    machine.write("cgroup2/memory.max", 3 * GIB)
    assert found() == (1.5, 3, 3)
    assert limits.cores() == 1


@pytest.mark.parametrize(
    ("own", "root"),
    [
        ("/../../other", "/"),  # the process was moved out of its namespace's root
        ("/", "/.."),  # mounted outside of the namespace
        ("/kubepods.slice/pod/abc", "/kubepods.slice/pod/xyz"),
        ("/kubepods.slice/pod/xyz/gone", "/kubepods.slice/pod/xyz"),
    ],
)
def test_a_group_that_cannot_be_found_from_here_is_taken_for_the_mounted_one(machine, own, root):
    machine.in_group(f"0::{own}")
    machine.mount("cgroup2", "cgroup2", root=root)
    machine.write("cgroup2/cpu.max", "200000 100000")
    machine.write("cgroup2/memory.max", GIB)
    assert found() == (2, 1, 1)


def test_both_versions_at_once(machine):
    machine.in_group("9:memory:/user.slice", "3:cpu,cpuacct:/user.slice", "0::/user.slice/session-1.scope")
    machine.mount("memory", "cgroup", "rw,memory")
    machine.mount("unified", "cgroup2")
    machine.write("memory/user.slice/memory.limit_in_bytes", 16 * GIB)
    machine.write("unified/user.slice/cpu.max", "300000 100000")
    assert found() == (3, 16, 16)


def test_a_sandbox_whose_mounts_are_not_told(machine):
    machine.in_group("0::/", "2:memory:/")
    machine.write("cgroup/cpu.max", "200000 100000")
    machine.write("cgroup/memory/memory.limit_in_bytes", GIB)
    assert found() == (2, 1, 1)


def test_a_quota_below_one_core_is_one_worker(machine):
    machine.in_group("0::/")
    machine.mount("cgroup2", "cgroup2")
    machine.write("cgroup2/cpu.max", "50000 100000")
    assert (limits.usable_cores(), limits.cores(), limits.workers()) == (0.5, 1, 1)


# What follows from it


@pytest.fixture
def small_container(machine):
    """All 64 cores, and half a GiB left of two."""
    machine.in_group("0::/")
    machine.mount("cgroup2", "cgroup2")
    machine.write("cgroup2/memory.max", 2 * GIB)
    machine.write("cgroup2/memory.current", 3 * GIB // 2)
    return machine


def test_no_more_workers_start_than_memory_holds(small_container):
    assert limits.cores() == 64
    assert limits.workers(64 << 20) == 8
    assert limits.workers(GIB) == 1
    small_container.write("cgroup2/memory.current", 5 * GIB)
    assert limits.workers() == 1


def test_a_gpus_trainer_starts_no_more_loaders_than_memory_holds(small_container):
    gpu = torch.device("cuda")
    small_container.write("cgroup2/memory.max", "max")
    assert data_loader.default_workers(gpu) == 16
    small_container.write("cgroup2/memory.max", 4 * GIB)
    assert data_loader.default_workers(gpu, 512 << 20) == 4
    assert data_loader.default_workers(gpu, 8 * GIB) == 1
    assert data_loader.default_workers(torch.device("cpu")) == 0


def test_without_shared_memory_a_gpus_trainer_loads_by_itself_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(limits, "has_semaphores", lambda: False)
    assert data_loader.default_workers(torch.device("cuda")) == 0
    assert "/dev/shm cannot be written" in capsys.readouterr().err


def test_threads_keep_to_the_quota(machine, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert process.usual_threads() == 64
    machine.in_group("0::/")
    machine.mount("cgroup2", "cgroup2")
    machine.write("cgroup2/cpu.max", "350000 100000")
    assert process.usual_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert process.usual_threads() == 64, "the user decides"


def test_processes_that_cannot_be_are_refused(machine):
    limits.check_processes(None)
    limits.check_processes(4096)
    with pytest.raises(UserError, match="--processes: must be 1 or more"):
        limits.check_processes(0)
    with pytest.raises(UserError, match=r"100000 processes do not fit into 256.0 GiB of memory - use at most 4096; "):
        limits.check_processes(100_000)


@pytest.mark.parametrize(
    "command",
    [
        ("datasets", "synthesise", "mini", "--data-dir"),
        ("datasets", "import", "--train", "a.csv", "--val", "b.csv", "--out"),
        ("datasets", "pack"),
        ("results", "verify-dataset"),
    ],
)
def test_every_door_refuses_them(command, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", *command, tmp_path, "--processes", "10000000"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --processes: 10000000 processes do not fit into ")


# Really


@pytest.mark.root("make a control group")
@pytest.mark.parametrize(
    ("controller", "files", "expected"),
    [
        ("memory", {"memory.max": GIB, "memory.limit_in_bytes": GIB}, {"memory": GIB}),
        ("cpu", {"cpu.max": "50000 100000", "cpu.cfs_quota_us": 50000}, {"cores": 0.5}),
    ],
)
def test_a_limit_that_the_kernel_enforces(controller, files, expected):
    group = next(limits._groups(controller)) / f"test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"needs the right to make a control group ({error})")
    try:
        written = [(group / name).write_text(f"{text}\n") for name, text in files.items() if (group / name).exists()]
        if not written:
            pytest.skip(f"needs control groups with the {controller} controller")
        code = (
            "import json; from common import limits; "
            "print(json.dumps({'memory': limits.memory_bytes(), 'cores': limits.usable_cores()}))"
        )
        command = f'mkdir -p {group}/inner && echo $$ >{group}/inner/cgroup.procs && exec "$@"'
        done = subprocess.run(
            ["sh", "-c", command, "sh", sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert expected.items() <= json.loads(done.stdout).items()
    finally:
        for folder in (group / "inner", group):
            if folder.exists():
                folder.rmdir()


WITHOUT_SEMAPHORES = """
import sys
from pathlib import Path
import numpy, soundfile
from common import limits
from datasets.checksums.digest import digest_tree
from common.errors import run_cli
from datasets.imported import import_corpus

def main():
    assert not limits.has_semaphores()
    folder = Path(sys.argv[1])
    for number in range(3000):
        (folder / f"tree/{number}").write_bytes(bytes(number))
    one, many = digest_tree(folder / "tree", 1), digest_tree(folder / "tree", 2)
    assert one == many and one.files == 3000
    for split in ("train", "val"):
        soundfile.write(folder / f"{split}.wav", numpy.random.default_rng(0).normal(0, 0.1, 16000), 16000)
        (folder / f"{split}.txt").write_text("HELLO")
        (folder / f"{split}.csv").write_text(f"{split}.wav,{split}.txt")
    csvs = {split: folder / f"{split}.csv" for split in ("train", "val")}
    print(import_corpus(csvs, folder / "data" / "mine", processes=2).splits["train"].utterances)
    return 0

if __name__ == "__main__":
    sys.exit(run_cli(main))
"""


def test_checksums_and_imports_need_no_shared_memory(tmp_path):
    """A container may have no /dev/shm, or a read-only one: then processes can share no semaphores."""
    assert limits.has_semaphores()
    own_mounts = ["unshare", "-rm", "--propagation", "private"]
    if subprocess.run([*own_mounts, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a user namespace, to take /dev/shm away")
    (tmp_path / "tree").mkdir()
    (tmp_path / "main.py").write_text(WITHOUT_SEMAPHORES)
    hide = 'mount -t tmpfs -o ro none /dev/shm && exec "$@"'
    command = [*own_mounts, "sh", "-c", hide, "sh", sys.executable, tmp_path / "main.py", tmp_path]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
