"""The doctor's screen, on this machine, beside a library that poses as NVML, and on machines with something amiss."""

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
CODE = "import sys; from benchmark.doctor.doctor import main; sys.exit(main(sys.argv[1:]))"
TORCH_ON_CPU = {"version": "2.11.0", "built_for": "13.0", "gpus": [], "nccl": None}
LOOK = """
import dataclasses, json
from benchmark.doctor.gpu_checks import gpu_findings
seen = {"built_for": "13.0", "gpus": [], "nccl": None}
print(json.dumps([dataclasses.asdict(finding) for finding in gpu_findings(seen)]))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return build(tmp_path_factory.mktemp("nvml"))


def data_set(folder, name="mini", sha="a" * 64):
    (folder / name).mkdir(parents=True, exist_ok=True)
    split = Split("m.jsonl", "m.csv", 10, 1800.0, 3)
    dataset = Dataset(folder / name, name, "librispeech", {"train": split}, TreeDigest(sha, 1, 2, 3), {})
    write_description(dataset)
    return folder / name


def by_subject(findings):
    return {finding.subject: finding for finding in findings}


def gpu_findings(driver, **settings):
    """What the doctor says of GPUs beside a library that poses as NVML and behaves as `settings` say."""
    return [Finding(**fields) for fields in json.loads(run_python(LOOK, driver, **settings).stdout)]


@pytest.fixture(params=[None, "docker", "podman", "apptainer", "kubernetes"])
def container(request, monkeypatch):
    monkeypatch.setattr(hardware, "container", lambda: request.param)
    return request.param


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No container, and no trace of a driver."""
    monkeypatch.setattr(hardware, "container", lambda: None)
    monkeypatch.setattr(hardware, "PROC", tmp_path / "proc")


def test_the_screen_of_this_machine_is_readable_and_honest(tmp_path):
    variables = os.environ | {"DATA_DIR": str(tmp_path / "new" / "data"), "RESULTS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=variables, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    # A command or a path is not broken; whether it fits depends on where the checkout lies.
    assert max(len(line) for line in lines if "/" not in line) <= 80
    assert "\033" not in done.stdout, "colours are for terminals"
    levels = {line.split()[0] for line in lines[:-2] if not line.startswith(" ")}
    assert levels <= {"good", "warning", "problem"}
    assert done.returncode == ("problem" in levels)
    for subject in (
        "Python",
        "PyTorch",
        "CPU cores",
        "memory",
        "data folder",
        "results folder",
        "file caches",
        "data sets",
    ):
        assert f" {subject} " in done.stdout
    assert not (tmp_path / "new").exists(), "the doctor looks and touches nothing"


def test_gpus_that_pytorch_cannot_see_are_a_problem(driver, tmp_path):
    variables = environment(driver) | {"DATA_DIR": str(tmp_path), "RESULTS_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, "--json"], cwd=ROOT, env=variables, capture_output=True, text=True
    )
    findings = by_subject(Finding(**fields) for fields in json.loads(done.stdout))
    assert done.returncode == 1
    assert findings["NVIDIA driver"].text.startswith("575.57.08")
    assert "NVIDIA H200, 140 GiB" in findings["GPU 1"].text
    assert findings["GPU 0"].level == "warning"
    assert "in use" in findings["GPU 0"].text
    assert findings["CUDA"].level == "problem"


def test_a_card_without_a_figure_for_its_memory_is_busy_all_the_same(driver):
    busy = by_subject(gpu_findings(driver, gpus=1, unified=1, busy=60))["GPU 0"]
    assert (busy.level, busy.text) == ("warning", "NVIDIA H200, memory unknown: in use (memory unknown, 60 % busy)")
    held = by_subject(gpu_findings(driver, gpus=1, unified=1, busy=0, others=2))["GPU 0"]
    assert (held.level, held.text) == (
        "warning",
        "NVIDIA H200, memory unknown: in use (memory unknown, 0 % busy, processes: 2)",
    )
    quiet = by_subject(gpu_findings(driver, gpus=1, unified=1, busy=0))["GPU 0"]
    assert (quiet.level, quiet.text) == ("good", "NVIDIA H200, memory unknown")


def test_a_card_that_tells_nothing_of_its_use_is_not_taken_for_free(driver):
    silent = by_subject(gpu_findings(driver, gpus=1, unified=1, busy=-1))["GPU 0"]
    assert silent.level == "warning"
    assert silent.text.endswith("neither memory in use nor load can be read")
    full = by_subject(gpu_findings(driver, gpus=1, busy=-1))["GPU 0"]
    assert full.text == "NVIDIA H200, 140 GiB: in use (10.0 GiB, load unknown)"


def test_a_driver_without_a_gpu_for_this_process_is_not_good(driver):
    findings = by_subject(gpu_findings(driver, gpus=0))
    assert findings["GPU"].level == "warning"
    assert "names no GPU to this process" in findings["GPU"].text
    assert "CUDA" not in findings


def test_a_gpu_that_another_job_holds_is_not_to_be_reset(driver, monkeypatch):
    closed = by_subject(gpu_findings(driver, bad_handle=4))["GPU"]
    assert closed.level == "problem"
    assert "it may belong to another job or container" in closed.remedy and "reset" not in closed.remedy
    assert "nvidia-smi -r" in by_subject(gpu_findings(driver, bad_handle=15))["GPU"].remedy


def test_a_driver_that_cannot_be_asked_is_told_with_its_reason(driver):
    (finding,) = gpu_findings(driver, init=18)
    assert finding.level == "warning"
    assert "version mismatch" in finding.text
    assert "modprobe nvidia" in finding.remedy and "--gpus" not in finding.remedy


GIVES = {
    "docker": "`--gpus all`",
    "podman": "`--device nvidia.com/gpu=all`",
    "apptainer": "`--nv`",
    "kubernetes": "`nvidia.com/gpu: 1`",
}


def test_each_container_has_its_own_way_to_bring_gpus_in(container):
    for code in (gpu_remedies.LIBRARY_NOT_FOUND, gpu_remedies.OPERATING_SYSTEM, gpu_remedies.NO_PERMISSION):
        remedy = gpu_remedies.for_nvml(code)
        if container:
            assert GIVES[container] in remedy
        else:
            assert not any(option in remedy for option in ("--gpus", "--nv", "nvidia.com"))


def test_an_updated_driver_is_loaded_anew_and_then_the_container_started_anew(container):
    remedy = gpu_remedies.for_nvml(gpu_remedies.VERSION_MISMATCH)
    assert "rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia" in remedy
    assert remedy.endswith("then start the container anew" if container else "or restart the machine")
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
def test_each_error_of_nvml_has_its_remedy(bare, code, words):
    assert words in gpu_remedies.for_nvml(code)


def test_a_container_that_lost_its_devices_is_started_anew(monkeypatch):
    monkeypatch.setattr(hardware, "container", lambda: "docker")
    assert gpu_remedies.for_nvml(gpu_remedies.UNKNOWN).startswith("start the container anew")


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
def test_what_pytorch_says_decides_the_remedy(bare, monkeypatch, why, words):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert words in gpu_remedies.for_torch(TORCH_ON_CPU | {"why": why})
    assert "without CUDA" in gpu_remedies.for_torch(TORCH_ON_CPU | {"why": why, "built_for": None})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_remedies.for_torch(TORCH_ON_CPU | {"why": why}) == "unset CUDA_VISIBLE_DEVICES"


def test_a_torch_that_breaks_is_told_by_its_last_line(monkeypatch):
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
def test_what_torch_sees_is_held_against_the_driver(seen, gpus, level):
    finding = gpu_checks.cuda(seen, gpus)
    assert finding.level == level
    assert (finding.remedy is None) == (level == "good")


def test_a_card_without_a_driver_is_noticed(bare, monkeypatch):
    error = gpu_checks.NvmlUnavailable("NVML cannot be used", OSError("no library"))
    error.code = gpu_remedies.LIBRARY_NOT_FOUND
    monkeypatch.setattr(gpu_checks, "has_gpu_devices", lambda: False)
    monkeypatch.setattr(hardware, "nvidia_devices_on_bus", lambda: 0)
    assert gpu_checks.no_driver(error).level == "good"
    monkeypatch.setattr(hardware, "nvidia_devices_on_bus", lambda: 1)
    finding = gpu_checks.no_driver(error)
    assert (finding.level, finding.remedy) == ("warning", "install NVIDIA's driver")
    assert finding.text == "1 on the bus, but NVML cannot be used (no library)"


def test_data_sets_are_held_against_their_stamps(tmp_path):
    assert [finding.text for finding in checks._datasets(tmp_path)] == [
        "none prepared yet: a run of `mini` or `synthetic` makes its own"
    ]
    folder = data_set(tmp_path)
    assert "never verified" in next(checks._datasets(tmp_path)).text
    write_stamp(folder, Stamp("2026-01-02T03:04:05Z", "a" * 64, True))
    good = next(checks._datasets(tmp_path))
    assert (good.level, good.text) == ("good", "mini: 0.50 h train; verified 2026-01-02T03:04:05Z")
    data_set(tmp_path, sha="b" * 64)
    assert "never verified" in next(checks._datasets(tmp_path)).text
    write_stamp(folder, Stamp("2026-01-02T03:04:05Z", "a" * 64, True))
    assert "prepared anew" in next(checks._datasets(tmp_path)).text
    write_stamp(folder, Stamp("2026-01-02T03:04:05Z", "b" * 64, False))
    failed = next(checks._datasets(tmp_path))
    assert failed.level == "problem"
    assert failed.remedy == f"remove it (rm -r {folder} {description_path(folder)}) and prepare it again"
    data_set(tmp_path, sha="b" * 64)
    assert "never verified" in next(checks._datasets(tmp_path)).text
    description_path(folder).write_text("{")
    libri = data_set(tmp_path / "libri", name="LibriSpeech_dataset")
    write_stamp(libri, Stamp("2026-01-02T03:04:05Z", "a" * 64, False))
    assert next(checks._datasets(libri.parent)).remedy == "start its download again, which mends it"
    broken = next(checks._datasets(tmp_path))
    assert broken.level == "problem"
    assert broken.remedy


def test_the_remedy_verifies_that_very_data_set(tmp_path):
    """Its command, pasted into a shell as it stands on the screen."""
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
    """A folder, and a way to close it to its owner, be that root or not."""
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


def test_a_read_only_data_folder_is_judged_by_what_it_holds(closed):
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
def test_a_folder_that_nobody_lets_us_into_is_a_problem(tmp_path):
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


def test_disks_too_small_or_closed_are_problems(tmp_path):
    sizes = {"wanted_for": "LibriSpeech"}
    huge = checks._disk("data folder", tmp_path, needed_bytes=1 << 60, wanted_bytes=1 << 61, **sizes)
    assert (huge.level, "DATA_DIR" in huge.remedy) == ("problem", True)
    large = checks._disk("results folder", tmp_path, needed_bytes=1, wanted_bytes=1 << 60, **sizes)
    assert (large.level, "RESULTS_DIR" in large.remedy) == ("warning", True)
    assert checks._disk("data folder", tmp_path / "a" / "b", needed_bytes=1, wanted_bytes=1, **sizes).level == "good"
    (tmp_path / "file").write_text("")
    closed = checks._disk("data folder", tmp_path / "file" / "x", needed_bytes=1, wanted_bytes=1, **sizes)
    assert closed.level == "problem"


def test_little_memory_or_one_core_is_told(monkeypatch):
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


def test_a_limited_address_space_is_told():
    code = "from benchmark.doctor import checks as doctor_checks; print(*doctor_checks._address_space(), sep='\\n')"
    shell = 'ulimit -v 20971520; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert "at most 20.0 GiB for each process" in done.stdout, done.stderr
    assert "another job or session" in done.stdout, "what `ulimit` took away it does not give back"


def test_a_load_that_disturbs_or_is_unknown_is_no_good_one():
    levels = [checks._load(Load(taken, 2.0)).level for taken in (0.1, 0.6, None)]
    assert levels == ["good", "warning", "warning"]


def test_the_screen_wraps_hostile_and_long_text():
    findings = [
        Finding("problem", "data set", "name\x1b[31m\nwith " + "words " * 40, "mend " * 30),
        Finding("good", "load", "0.1"),
    ]
    text = doctor.screen(findings)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    long = f"`sh verify_dataset.sh '/a/folder/{'with many words' * 5}'`"
    assert long in doctor.screen([Finding("warning", "data set", "x", f"now run {long} and look")]), "it can be pasted"
    assert text.endswith("To mend before a run: 1 (see the remedies above).")
    assert doctor.screen(findings[1:]).endswith("This machine can run the benchmark.")
    assert "\033[32mgood" in doctor.screen(findings[1:], colour=True)


@pytest.mark.parametrize(("gigabytes", "level"), [(16, "warning"), (24, "good")])
def test_a_card_too_small_for_synthetic_is_told(gigabytes, level):
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


def test_a_gpus_run_needs_more_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "ask_torch", lambda: {"version": "2", "built_for": "13", "gpus": ["a"], "nccl": "2"})
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5 << 30))
    findings = by_subject(checks.examine(tmp_path, tmp_path))
    assert "a run needs 8 GiB" in findings["data folder"].remedy
    assert "a run needs 10 GiB" in findings["results folder"].remedy
    tiny_corpus(tmp_path / "synthetic")
    assert by_subject(checks.examine(tmp_path, tmp_path))["data folder"].level == "warning"
