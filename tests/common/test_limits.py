"""Limits of containers and batch systems, from cgroup files, and from one cgroup that the kernel enforces."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common import limits
from common.errors import EXIT_ERROR, UserError, run_cli
from datasets.commands import main as datasets_main
from reference_model import runtime
from reference_model.data import data_loader
from results.dataset_check.verify import main as verify

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30
UNLIMITED_V1 = 9223372036854771712


class Machine:
    """A simulated machine: 64 cores, 256 GiB of memory, 200 GiB available, and the cgroup files that a test writes."""

    def __init__(self, folder):
        self.folder = folder
        self.mounts = []
        self.write("proc/meminfo", f"MemTotal: {256 << 20} kB\nMemFree: 1 kB\nMemAvailable: {200 << 20} kB")

    def write(self, path, text):
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def in_group(self, *lines):
        """Set the contents of /proc/self/cgroup."""
        self.write("proc/self/cgroup", "\n".join(lines))

    def mount(self, point, kind, options="rw", root="/"):
        """Mount the group `root` at `point` in /proc/self/mountinfo."""
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
    """Usable cores, memory in GiB, and available memory in GiB."""
    return limits.usable_cores(), limits.memory_bytes() / GIB, limits.available_bytes() / GIB


def test_without_control_groups_the_whole_machine_counts(machine):
    assert found() == (64, 256, 200)
    assert limits.machine_memory_bytes() == 256 * GIB


def test_groups_without_limits_are_ignored(machine):
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
    assert found() == (2.5, 4, 3), "page cache counts as available"
    assert limits.cores() == 2
    assert limits.quotas() == [limits.Quota(2.5, 7.5)]


def test_a_limit_above_the_group_that_a_container_sees(machine):
    machine.in_group("4:memory:/docker/abc")
    machine.mount("memory", "cgroup", "rw,memory", root="/docker/abc")
    machine.write("memory/memory.limit_in_bytes", UNLIMITED_V1)
    machine.write("memory/memory.stat", f"hierarchical_memory_limit {2 * GIB}")
    assert found() == (64, 2, 2)


def test_slurm_limits_the_parent_groups_of_a_task(machine):
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
    # Above memory.high the kernel throttles the processes.
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
def test_a_group_outside_the_mount_is_treated_as_the_mounted_one(machine, own, root):
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


def test_a_sandbox_without_a_mount_table(machine):
    machine.in_group("0::/", "2:memory:/")
    machine.write("cgroup/cpu.max", "200000 100000")
    machine.write("cgroup/memory/memory.limit_in_bytes", GIB)
    assert found() == (2, 1, 1)


def test_a_quota_below_one_core_is_one_worker(machine):
    machine.in_group("0::/")
    machine.mount("cgroup2", "cgroup2")
    machine.write("cgroup2/cpu.max", "50000 100000")
    assert (limits.usable_cores(), limits.cores(), limits.workers()) == (0.5, 1, 1)


# Consequences


@pytest.fixture
def small_container(machine):
    """All 64 cores, and half a GiB available of two."""
    machine.in_group("0::/")
    machine.mount("cgroup2", "cgroup2")
    machine.write("cgroup2/memory.max", 2 * GIB)
    machine.write("cgroup2/memory.current", 3 * GIB // 2)
    return machine


def test_the_number_of_workers_is_limited_by_memory(small_container):
    assert limits.cores() == 64
    assert limits.workers(64 << 20) == 8
    assert limits.workers(GIB) == 1
    small_container.write("cgroup2/memory.current", 5 * GIB)
    assert limits.workers() == 1


def test_the_number_of_data_loader_workers_is_limited_by_memory(small_container):
    gpu = torch.device("cuda")
    small_container.write("cgroup2/memory.max", "max")
    assert data_loader.default_workers(gpu) == 16
    small_container.write("cgroup2/memory.max", 4 * GIB)
    assert data_loader.default_workers(gpu, 512 << 20) == 4
    assert data_loader.default_workers(gpu, 8 * GIB) == 1
    assert data_loader.default_workers(torch.device("cpu")) == 0


def test_without_shared_memory_the_trainer_loads_data_itself_and_warns(monkeypatch, capsys):
    monkeypatch.setattr(limits, "has_semaphores", lambda: False)
    assert data_loader.default_workers(torch.device("cuda")) == 0
    assert "/dev/shm cannot be written" in capsys.readouterr().err


def test_the_number_of_threads_respects_the_quota(machine, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert runtime.available_threads() == 64
    machine.in_group("0::/")
    machine.mount("cgroup2", "cgroup2")
    machine.write("cgroup2/cpu.max", "350000 100000")
    assert runtime.available_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert runtime.available_threads() == 64, "the user decides"


def test_too_many_processes_are_rejected(machine):
    limits.check_processes(None)
    limits.check_processes(4096)
    with pytest.raises(UserError, match="--processes: must be 1 or more"):
        limits.check_processes(0)
    with pytest.raises(UserError, match=r"100000 processes do not fit into 256.0 GiB of memory - use at most 4096; "):
        limits.check_processes(100_000)


@pytest.mark.parametrize(
    "command",
    [
        (datasets_main, "synthesise", "mini", "--data-dir"),
        (datasets_main, "import", "--train", "a.csv", "--val", "b.csv", "--out"),
        (datasets_main, "pack"),
        (verify,),
    ],
    ids=["synthesise", "import", "pack", "verify-dataset"],
)
def test_every_command_rejects_too_many_processes(command, tmp_path, capsys):
    main, *arguments = command
    assert run_cli(lambda: main([*arguments, str(tmp_path), "--processes", "10000000"])) == EXIT_ERROR
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: --processes: 10000000 processes do not fit into ")


# With a real cgroup


@pytest.mark.root("make a control group")
@pytest.mark.parametrize(
    ("controller", "files", "expected"),
    [
        ("memory", {"memory.max": GIB, "memory.limit_in_bytes": GIB}, {"memory": GIB}),
        ("cpu", {"cpu.max": "50000 100000", "cpu.cfs_quota_us": 50000}, {"cores": 0.5}),
    ],
)
def test_a_limit_enforced_by_the_kernel_is_found(controller, files, expected):
    group = next(limits._groups(controller)) / f"test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"needs permission to make a control group ({error})")
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
from common.errors import run_cli
from datasets.checksums import digest
from datasets.imported import import_corpus

def main():
    assert not limits.has_semaphores()
    folder = Path(sys.argv[1])
    digest.BATCH_FILES = 32
    for number in range(300):
        (folder / f"tree/{number}").write_bytes(bytes(number))
    one, many = digest.digest_tree(folder / "tree", 1), digest.digest_tree(folder / "tree", 2)
    assert one == many and one.files == 300
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
        pytest.skip("needs permission to make a user namespace, to hide /dev/shm")
    (tmp_path / "tree").mkdir()
    (tmp_path / "main.py").write_text(WITHOUT_SEMAPHORES)
    hide = 'mount -t tmpfs -o ro none /dev/shm && exec "$@"'
    command = [*own_mounts, "sh", "-c", hide, "sh", sys.executable, tmp_path / "main.py", tmp_path]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
