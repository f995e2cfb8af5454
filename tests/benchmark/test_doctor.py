"""The doctor's report on this machine, with a fake NVML, and on machines with problems."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmark.doctor import checks, doctor, gpu_checks, gpu_remedies
from benchmark.doctor.finding import GIB, Finding
from benchmark.machine import hardware, torch_gpus
from benchmark.machine.cpu_load import Load
from datasets.dataset import Dataset, Split, Stamp, TreeDigest, description_path, write_description, write_stamp
from tests.support.corpus import tiny_corpus
from tests.support.fake_nvml import build, environment, run_python

ROOT = Path(__file__).resolve().parents[2]
TORCH_ON_CPU = {"version": "2.11.0", "built_for": "13.0", "gpus": [], "nccl": None}
FIND = """
import dataclasses, json, os
from benchmark.doctor.gpu_checks import gpu_findings
for settings in json.loads(SETTINGS):
    os.environ |= (variables := {f"FAKE_NVML_{name.upper()}": str(value) for name, value in settings.items()})
    torch = {"built_for": "13.0", "gpus": [], "nccl": None}
    print(json.dumps([dataclasses.asdict(finding) for finding in gpu_findings(torch)]))
    for name in variables:
        del os.environ[name]
"""
DRIVERS = {
    "busy, shared memory": {"gpus": 1, "unified": 1, "busy": 60},
    "held, shared memory": {"gpus": 1, "unified": 1, "busy": 0, "others": 2},
    "free, shared memory": {"gpus": 1, "unified": 1, "busy": 0},
    "silent, shared memory": {"gpus": 1, "unified": 1, "busy": -1},
    "full, unknown utilization": {"gpus": 1, "busy": -1},
    "no GPU": {"gpus": 0},
    "no permission": {"bad_handle": 4},
    "lost": {"bad_handle": 15},
    "version mismatch": {"init": 18},
}
"""How the fake NVML behaves, by what it stands for."""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return build(tmp_path_factory.mktemp("nvml"))


def make_dataset(folder, name="mini", sha="a" * 64):
    (folder / name).mkdir(parents=True, exist_ok=True)
    split = Split("m.jsonl", "m.csv", 10, 1800.0, 3)
    dataset = Dataset(folder / name, name, "librispeech", {"train": split}, TreeDigest(sha, 1, 2, 3), {})
    write_description(dataset)
    return folder / name


def by_subject(findings):
    return {finding.subject: finding for finding in findings}


@pytest.fixture(scope="module")
def gpu_findings(driver):
    """What the doctor reports about GPUs with each of DRIVERS, from one process."""
    code = f"SETTINGS = {json.dumps(list(DRIVERS.values()))!r}\n{FIND}"
    lines = run_python(code, driver).stdout.splitlines()
    return {
        name: by_subject(Finding(**fields) for fields in json.loads(line))
        for name, line in zip(DRIVERS, lines, strict=True)
    }


@pytest.fixture(params=[None, "docker", "podman", "apptainer", "kubernetes"])
def container(request, monkeypatch):
    monkeypatch.setattr(hardware, "container", lambda: request.param)
    return request.param


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No container, and no trace of a driver."""
    monkeypatch.setattr(hardware, "container", lambda: None)
    monkeypatch.setattr(hardware, "PROC", tmp_path / "proc")


def test_the_report_on_this_machine_is_readable_and_correct(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "new" / "data"))
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path))
    status = doctor.main([])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert printed.err == ""
    # A command or a path is not broken; whether it fits depends on the checkout's path.
    assert max(len(line) for line in lines if "/" not in line) <= 80
    assert "\033" not in printed.out, "colours are for terminals"
    levels = {line.split()[0] for line in lines[:-2] if not line.startswith(" ")}
    assert levels <= {"good", "warning", "problem"}
    assert status == ("problem" in levels)
    for subject in (
        "Python",
        "PyTorch",
        "CPU cores",
        "memory",
        "data folder",
        "results folder",
        "file caches",
        "datasets",
    ):
        assert f" {subject} " in printed.out
    assert not (tmp_path / "new").exists(), "the doctor changes nothing"


FAKE_TORCH = """
import types
__version__ = "2.11.0"
version = types.SimpleNamespace(cuda="13.0")
cuda = types.SimpleNamespace(is_available=lambda: False, device_count=lambda: 0, init=lambda: None)
"""


def test_gpus_that_pytorch_cannot_see_are_a_problem(driver, tmp_path):
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    variables = environment(driver) | {"DATA_DIR": str(tmp_path), "RESULTS_DIR": str(tmp_path)}
    variables["PYTHONPATH"] = f"{tmp_path}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", "doctor", "--json"], cwd=ROOT, env=variables, capture_output=True, text=True
    )
    findings = by_subject(Finding(**fields) for fields in json.loads(done.stdout))
    assert done.returncode == 1
    assert findings["NVIDIA driver"].text.startswith("575.57.08")
    assert "NVIDIA H200, 140 GiB" in findings["GPU 1"].text
    assert findings["GPU 0"].level == "warning"
    assert "in use" in findings["GPU 0"].text
    assert findings["CUDA"].level == "problem"


def test_a_gpu_that_reports_no_memory_use_may_still_be_busy(gpu_findings):
    busy = gpu_findings["busy, shared memory"]["GPU 0"]
    assert (busy.level, busy.text) == ("warning", "NVIDIA H200, memory unknown: in use (memory unknown, 60 % busy)")
    held = gpu_findings["held, shared memory"]["GPU 0"]
    assert (held.level, held.text) == (
        "warning",
        "NVIDIA H200, memory unknown: in use (memory unknown, 0 % busy, processes: 2)",
    )
    quiet = gpu_findings["free, shared memory"]["GPU 0"]
    assert (quiet.level, quiet.text) == ("good", "NVIDIA H200, memory unknown")


def test_a_gpu_that_reports_nothing_about_its_use_is_not_assumed_to_be_free(gpu_findings):
    silent = gpu_findings["silent, shared memory"]["GPU 0"]
    assert silent.level == "warning"
    assert silent.text.endswith("neither memory in use nor utilization can be read")
    full = gpu_findings["full, unknown utilization"]["GPU 0"]
    assert full.text == "NVIDIA H200, 140 GiB: in use (10.0 GiB, load unknown)"


def test_a_driver_without_a_gpu_for_this_process_is_not_good(gpu_findings):
    findings = gpu_findings["no GPU"]
    assert findings["GPU"].level == "warning"
    assert "lists no GPU for this process" in findings["GPU"].text
    assert "CUDA" not in findings


def test_a_gpu_that_another_job_holds_is_not_to_be_reset(gpu_findings):
    closed = gpu_findings["no permission"]["GPU"]
    assert closed.level == "problem"
    assert "it may belong to another job or container" in closed.remedy and "reset" not in closed.remedy
    assert "nvidia-smi -r" in gpu_findings["lost"]["GPU"].remedy


def test_a_driver_that_does_not_respond_is_reported_with_the_reason(gpu_findings):
    (finding,) = gpu_findings["version mismatch"].values()
    assert finding.level == "warning"
    assert "version mismatch" in finding.text
    assert "modprobe nvidia" in finding.remedy and "--gpus" not in finding.remedy


GIVES = {
    "docker": "`--gpus all`",
    "podman": "`--device nvidia.com/gpu=all`",
    "apptainer": "`--nv`",
    "kubernetes": "`nvidia.com/gpu: 1`",
}


def test_each_kind_of_container_has_its_own_remedy(container):
    for code in (gpu_remedies.LIBRARY_NOT_FOUND, gpu_remedies.OPERATING_SYSTEM, gpu_remedies.NO_PERMISSION):
        remedy = gpu_remedies.for_nvml(code)
        if container:
            assert GIVES[container] in remedy
        else:
            assert not any(option in remedy for option in ("--gpus", "--nv", "nvidia.com"))


def test_an_updated_driver_is_reloaded_and_then_the_container_restarted(container):
    remedy = gpu_remedies.for_nvml(gpu_remedies.VERSION_MISMATCH)
    assert "rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia" in remedy
    assert remedy.endswith("then restart the container" if container else "or restart the machine")
    assert not any(option in remedy for option in ("--gpus", "--nv", "nvidia.com"))


def test_a_driver_that_is_not_loaded(container, monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "PROC", tmp_path)
    remedy = gpu_remedies.for_nvml(gpu_remedies.DRIVER_NOT_LOADED)
    assert "modprobe nvidia" in remedy
    assert remedy.startswith("on the host: ") == (container is not None)
    # The host has loaded it: the container was given no device.
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    (tmp_path / "driver/nvidia/version").write_text("NVRM version: 575.57.08")
    remedy = gpu_remedies.for_nvml(gpu_remedies.DRIVER_NOT_LOADED)
    assert GIVES[container] in remedy if container else "library or devices are not here" in remedy


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (gpu_remedies.LIBRARY_NOT_FOUND, "install NVIDIA's driver"),
        (gpu_remedies.NO_PERMISSION, "group that owns the driver's device files"),
        (gpu_remedies.FUNCTION_NOT_FOUND, "update the driver"),
        (gpu_remedies.GPU_IS_LOST, "nvidia-smi -r"),
        (gpu_remedies.RESET_REQUIRED, "nvidia-smi -r"),
        (gpu_remedies.OPERATING_SYSTEM, "batch system"),
        (gpu_remedies.UNKNOWN, "dmesg"),
        (11, "dmesg"),
        (None, "dmesg"),
    ],
)
def test_each_nvml_error_has_its_remedy(bare, code, words):
    assert words in gpu_remedies.for_nvml(code)


def test_a_container_that_lost_its_devices_is_restarted(monkeypatch):
    monkeypatch.setattr(hardware, "container", lambda: "docker")
    assert gpu_remedies.for_nvml(gpu_remedies.UNKNOWN).startswith("restart the container")


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("The NVIDIA driver on your system is too old (found version 11040)", "update the driver"),
        ("Error 802: system not yet initialized", "nvidia-fabricmanager"),
        ("Error 804: forward compatibility was attempted on non supported HW", "compat libraries"),
        ("Found no NVIDIA driver on your system.", "libcuda.so.1"),
        ("Error 999: unknown error", "(PyTorch: Error 999: unknown error)"),
        (None, "this PyTorch needs one for CUDA 13.0"),
    ],
)
def test_the_remedy_follows_from_the_message_of_pytorch(bare, monkeypatch, why, words):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert words in gpu_remedies.for_torch(TORCH_ON_CPU | {"why": why})
    assert "without CUDA" in gpu_remedies.for_torch(TORCH_ON_CPU | {"why": why, "built_for": None})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_remedies.for_torch(TORCH_ON_CPU | {"why": why}) == "unset CUDA_VISIBLE_DEVICES"


def test_a_broken_torch_is_reported_with_its_last_line(monkeypatch):
    monkeypatch.setattr(torch_gpus, "_ASK_TORCH", "raise ImportError('libcudart is missing')")
    seen = torch_gpus.ask_torch()
    finding = checks._torch(seen)
    assert finding.level == "problem"
    assert "libcudart is missing" in finding.text
    assert "setup.sh" in finding.remedy
    monkeypatch.setattr(torch_gpus, "_ASK_TORCH", "import os; os.kill(os.getpid(), 11)")
    assert "signal 11" in torch_gpus.ask_torch()["error"]
    monkeypatch.setattr(torch_gpus, "_ASK_TORCH", "import time; time.sleep(60)")
    monkeypatch.setattr(torch_gpus, "TIMEOUT_S", 0.3)
    assert "no answer" in torch_gpus.ask_torch()["error"]


@pytest.mark.parametrize(
    ("seen", "gpus", "level"),
    [
        (TORCH_ON_CPU, 2, "problem"),
        (TORCH_ON_CPU | {"gpus": ["NVIDIA H200"], "nccl": "2.28.9"}, 2, "warning"),
        (TORCH_ON_CPU | {"gpus": ["NVIDIA H200"] * 2, "nccl": "2.28.9"}, 2, "good"),
        ({"error": "broken"}, 2, "warning"),
    ],
)
def test_the_gpus_of_torch_are_compared_with_those_of_the_driver(seen, gpus, level):
    finding = gpu_checks.cuda(seen, gpus)
    assert finding.level == level
    assert (finding.remedy is None) == (level == "good")


def test_a_gpu_without_a_driver_is_reported(bare, monkeypatch):
    error = gpu_checks.NvmlUnavailable("NVML cannot be used", OSError("no library"))
    error.code = gpu_remedies.LIBRARY_NOT_FOUND
    monkeypatch.setattr(gpu_checks, "has_gpu_devices", lambda: False)
    monkeypatch.setattr(hardware, "nvidia_devices_on_bus", lambda: 0)
    assert gpu_checks.no_driver(error).level == "good"
    monkeypatch.setattr(hardware, "nvidia_devices_on_bus", lambda: 1)
    finding = gpu_checks.no_driver(error)
    assert (finding.level, finding.remedy) == ("warning", "install NVIDIA's driver")
    assert finding.text == "1 on the PCI bus, but NVML cannot be used (no library)"


def test_datasets_are_compared_with_their_stamps(tmp_path):
    assert [finding.text for finding in checks._datasets(tmp_path)] == [
        "none prepared yet: a run of `mini` or `synthetic` synthesises its own"
    ]
    folder = make_dataset(tmp_path)
    assert "never verified" in next(checks._datasets(tmp_path)).text
    write_stamp(folder, Stamp("2026-01-02T03:04:05Z", "a" * 64, True))
    good = next(checks._datasets(tmp_path))
    assert (good.level, good.text) == ("good", "mini: 0.50 h train; verified 2026-01-02T03:04:05Z")
    make_dataset(tmp_path, sha="b" * 64)
    assert "never verified" in next(checks._datasets(tmp_path)).text
    write_stamp(folder, Stamp("2026-01-02T03:04:05Z", "a" * 64, True))
    assert "prepared again" in next(checks._datasets(tmp_path)).text
    write_stamp(folder, Stamp("2026-01-02T03:04:05Z", "b" * 64, False))
    failed = next(checks._datasets(tmp_path))
    assert failed.level == "problem"
    assert failed.remedy == f"remove it (rm -r {folder} {description_path(folder)}) and prepare it again"
    make_dataset(tmp_path, sha="b" * 64)
    assert "never verified" in next(checks._datasets(tmp_path)).text
    description_path(folder).write_text("{")
    libri = make_dataset(tmp_path / "libri", name="LibriSpeech_dataset")
    write_stamp(libri, Stamp("2026-01-02T03:04:05Z", "a" * 64, False))
    assert next(checks._datasets(libri.parent)).remedy == "start its download again, which repairs it"
    broken = next(checks._datasets(tmp_path))
    assert broken.level == "problem"
    assert broken.remedy


def test_the_remedy_verifies_exactly_that_dataset(tmp_path):
    """Its command, pasted into a shell as printed."""
    mine = tiny_corpus(tmp_path / "my data" / "mine (2)").folder
    (finding,) = checks._datasets(mine.parent)
    assert finding.level == "warning"
    screen = doctor.screen([finding])
    (command,) = (line.split("`")[1] for line in screen.splitlines() if "verify_dataset.sh" in line)
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert "verifying mine (2)" in done.stderr, done.stderr
    (finding,) = checks._datasets(mine.parent)
    assert "never verified" not in finding.text


@pytest.fixture
def closed(tmp_path):
    """A folder, and a check with the folder read-only, even for root."""
    folder = tmp_path / "closed"
    folder.mkdir()

    def examined(expression):
        code = f"from pathlib import Path; from benchmark.doctor import checks; f = checks.{expression}; "
        code += "print(f.level, f.text, f.remedy, sep='\\n')"
        mount = (
            'mount --bind -o ro "$0" "$0" 2>/dev/null || { mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"; }'
        )
        command = [sys.executable, "-c", code]
        if os.geteuid() == 0:
            command = ["unshare", "-m", "sh", "-c", f'{mount}; exec "$@"', str(folder), *command]
        else:
            folder.chmod(0o555)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        folder.chmod(0o755)
        if "unshare" in done.stderr:
            pytest.skip(f"needs the right to mount a folder read-only: {done.stderr.strip()}")
        return done.stdout.splitlines()

    examined.folder = folder
    return examined


def test_a_read_only_data_folder_must_hold_what_a_run_needs(closed):
    look = f"_data_folder(Path({str(closed.folder)!r}), 'mini')"
    level, text, remedy = closed(look)
    assert level == "problem" and "cannot be written" in text
    assert f"`{sys.executable} -m datasets synthesise mini --data-dir {closed.folder}`" in remedy
    tiny_corpus(closed.folder / "mine")
    level, text, remedy = closed(look)
    assert level == "warning" and "holds mine, but not `mini`" in text
    tiny_corpus(closed.folder / "mini")
    assert closed(look) == ["good", f"read-only, and holds mini: {closed.folder}", "None"]


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user: root may read every folder")
def test_a_folder_without_permission_is_a_problem(tmp_path):
    (tmp_path / "locked" / "in").mkdir(parents=True)
    (tmp_path / "locked").chmod(0o000)
    for folder in (tmp_path / "locked", tmp_path / "locked" / "in"):
        findings = [*checks._datasets(folder), checks._data_folder(folder, "mini")]
        assert findings[-1].level == "problem"
        assert "DATA_DIR" in findings[-1].remedy
    (tmp_path / "locked").chmod(0o700)


def test_a_read_only_results_folder_is_a_problem(closed):
    sizes = "needed_bytes=1, wanted_bytes=1, wanted_for=''"
    level, _, remedy = closed(f"_disk('results folder', Path({str(closed.folder)!r}), {sizes})")
    assert (level, remedy) == ("problem", "choose another folder with RESULTS_DIR")


def test_disks_that_are_too_small_or_read_only_are_problems(tmp_path):
    sizes = {"wanted_for": "LibriSpeech"}
    huge = checks._disk("data folder", tmp_path, needed_bytes=1 << 60, wanted_bytes=1 << 61, **sizes)
    assert (huge.level, "DATA_DIR" in huge.remedy) == ("problem", True)
    large = checks._disk("results folder", tmp_path, needed_bytes=1, wanted_bytes=1 << 60, **sizes)
    assert (large.level, "RESULTS_DIR" in large.remedy) == ("warning", True)
    assert checks._disk("data folder", tmp_path / "a" / "b", needed_bytes=1, wanted_bytes=1, **sizes).level == "good"
    (tmp_path / "file").write_text("")
    closed = checks._disk("data folder", tmp_path / "file" / "x", needed_bytes=1, wanted_bytes=1, **sizes)
    assert closed.level == "problem"


def test_little_memory_or_one_core_is_reported(monkeypatch):
    monkeypatch.setattr(checks.limits, "machine_memory_bytes", lambda: 64 * GIB)
    for limit, free, level, words in (
        (2, 2, "problem", "Slurm: `--mem`"),
        (64, 2, "problem", "larger machine"),
        (64, 8, "warning", "full-size variants"),
        (64, 40, "good", "40.0 GiB available of 64.0 GiB"),
    ):
        monkeypatch.setattr(checks.limits, "memory_bytes", lambda limit=limit: limit * GIB)
        monkeypatch.setattr(checks.limits, "available_bytes", lambda free=free: free * GIB)
        finding = checks._memory()
        assert finding.level == level
        assert words in f"{finding.text} {finding.remedy}"
    monkeypatch.setattr(checks.limits, "available_bytes", lambda: None)
    assert checks._memory().level == "warning"
    monkeypatch.setattr(checks.limits, "usable_cores", lambda: 1.0)
    assert checks._cores().level == "warning"


def test_a_limited_address_space_is_reported():
    code = "from benchmark.doctor import checks as doctor_checks; print(*doctor_checks._address_space(), sep='\\n')"
    shell = 'ulimit -v 20971520; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert "at most 20.0 GiB for each process" in done.stdout, done.stderr
    assert "a new job or session" in done.stdout, "a hard limit cannot be raised"


def test_a_high_or_unknown_load_is_a_warning():
    levels = [checks._load(Load(taken, 2.0)).level for taken in (0.1, 0.6, None)]
    assert levels == ["good", "warning", "warning"]


def test_the_report_wraps_hostile_and_long_text():
    findings = [
        Finding("problem", "dataset", "name\x1b[31m\nwith " + "words " * 40, "repair " * 30),
        Finding("good", "load", "0.1"),
    ]
    text = doctor.screen(findings)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    long = f"`sh verify_dataset.sh '/a/folder/{'with many words' * 5}'`"
    assert long in doctor.screen([Finding("warning", "dataset", "x", f"now run {long} and look")]), "it can be pasted"
    assert text.endswith("Problems to fix before a run: 1 (see the remedies above).")
    assert doctor.screen(findings[1:]).endswith("This machine can run the benchmark.")
    assert "\033[32mgood" in doctor.screen(findings[1:], colour=True)


@pytest.mark.parametrize(("gigabytes", "level"), [(16, "warning"), (24, "good")])
def test_a_gpu_too_small_for_synthetic_is_reported(gigabytes, level):
    quiet = SimpleNamespace(
        info=SimpleNamespace(
            index=0, mig_parent_uuid=None, mig_enabled=False, name="Tesla T4", gpm_supported=False,
            memory_total_bytes=gigabytes * 10**9,
        ),
        lost=False,
        read=lambda at_s: {"memory_used_bytes": 0, "utilization_pct": 0.0},
    )  # fmt: skip
    finding = gpu_checks.gpu_finding(quiet)
    assert finding.level == level
    if level == "warning":
        assert "longest batches of `synthetic` need" in finding.remedy and "NPROC" in finding.remedy


def test_a_run_on_a_gpu_needs_more_disk_space(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "ask_torch", lambda: {"version": "2", "built_for": "13", "gpus": ["a"], "nccl": "2"})
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5 << 30))
    findings = by_subject(checks.examine(tmp_path, tmp_path))
    assert "a run needs 8 GiB" in findings["data folder"].remedy
    assert "a run needs 10 GiB" in findings["results folder"].remedy
    tiny_corpus(tmp_path / "synthetic")
    assert by_subject(checks.examine(tmp_path, tmp_path))["data folder"].level == "warning"
