"""The doctor's screen, on this machine, beside a library that poses as NVML, and on machines with something amiss."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_nvml import build, environment

from benchmark import ask_torch, doctor, doctor_checks
from benchmark.doctor_checks import Finding
from datasets.dataset import Dataset, Split, Stamp, TreeDigest, description_path, write_description, write_stamp
from tests.corpus import tiny_corpus

ROOT = Path(__file__).resolve().parents[1]
CODE = "import sys; from benchmark.doctor import main; sys.exit(main(sys.argv[1:]))"
TORCH_ON_CPU = {"version": "2.11.0", "built_for": "13.0", "gpus": [], "nccl": None}


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


def test_the_screen_of_this_machine_is_readable_and_honest(tmp_path):
    variables = os.environ | {"DATA_DIR": str(tmp_path / "new" / "data"), "RESULTS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=variables, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert max(map(len, lines)) <= 80
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


def test_a_torch_that_breaks_is_told_by_its_last_line(monkeypatch):
    monkeypatch.setattr(ask_torch, "_ASK_TORCH", "raise ImportError('libcudart is missing')")
    seen = ask_torch.ask_torch()
    finding = doctor_checks._torch(seen)
    assert finding.level == "problem"
    assert "libcudart is missing" in finding.text
    assert "setup.sh" in finding.remedy
    monkeypatch.setattr(ask_torch, "_ASK_TORCH", "import os; os.kill(os.getpid(), 11)")
    assert "signal 11" in ask_torch.ask_torch()["error"]
    monkeypatch.setattr(ask_torch, "_ASK_TORCH", "import time; time.sleep(60)")
    monkeypatch.setattr(ask_torch, "TIMEOUT_S", 0.3)
    assert "no answer" in ask_torch.ask_torch()["error"]


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
    finding = doctor_checks._cuda(seen, gpus)
    assert finding.level == level
    assert (finding.remedy is None) == (level == "good")


def test_a_card_without_a_driver_is_noticed(monkeypatch):
    monkeypatch.setattr(doctor_checks.hardware, "nvidia_devices_on_bus", lambda: 1)
    monkeypatch.setattr(doctor_checks.hardware, "container", lambda: None)
    assert "install NVIDIA's driver" in doctor_checks._no_driver("no library").remedy
    monkeypatch.setattr(doctor_checks.hardware, "container", lambda: "docker")
    assert "--gpus all" in doctor_checks._no_driver("no library").remedy


def test_data_sets_are_held_against_their_stamps(tmp_path):
    assert [finding.text for finding in doctor_checks._datasets(tmp_path)] == [
        "none prepared yet: a run of `mini` or `synthetic` makes its own"
    ]
    folder = data_set(tmp_path)
    assert "never verified" in next(doctor_checks._datasets(tmp_path)).text
    write_stamp(folder, Stamp("2026-01-02T03:04:05Z", "a" * 64, True))
    good = next(doctor_checks._datasets(tmp_path))
    assert (good.level, good.text) == ("good", "mini: 0.50 h train; verified 2026-01-02T03:04:05Z")
    data_set(tmp_path, sha="b" * 64)
    assert "never verified" in next(doctor_checks._datasets(tmp_path)).text
    write_stamp(folder, Stamp("2026-01-02T03:04:05Z", "a" * 64, True))
    assert "prepared anew" in next(doctor_checks._datasets(tmp_path)).text
    write_stamp(folder, Stamp("2026-01-02T03:04:05Z", "b" * 64, False))
    failed = next(doctor_checks._datasets(tmp_path))
    assert failed.level == "problem"
    assert failed.remedy == f"remove it (rm -r {folder} {description_path(folder)}) and prepare it again"
    data_set(tmp_path, sha="b" * 64)
    assert "never verified" in next(doctor_checks._datasets(tmp_path)).text
    description_path(folder).write_text("{")
    libri = data_set(tmp_path / "libri", name="LibriSpeech_dataset")
    write_stamp(libri, Stamp("2026-01-02T03:04:05Z", "a" * 64, False))
    assert next(doctor_checks._datasets(libri.parent)).remedy == "start its download again, which mends it"
    broken = next(doctor_checks._datasets(tmp_path))
    assert broken.level == "problem"
    assert broken.remedy


def test_disks_too_small_or_closed_are_problems(tmp_path):
    sizes = {"wanted_for": "LibriSpeech"}
    huge = doctor_checks._disk("data folder", tmp_path, needed_bytes=1 << 60, wanted_bytes=1 << 61, **sizes)
    assert (huge.level, "DATA_DIR" in huge.remedy) == ("problem", True)
    large = doctor_checks._disk("results folder", tmp_path, needed_bytes=1, wanted_bytes=1 << 60, **sizes)
    assert (large.level, "RESULTS_DIR" in large.remedy) == ("warning", True)
    assert (
        doctor_checks._disk("data folder", tmp_path / "a" / "b", needed_bytes=1, wanted_bytes=1, **sizes).level
        == "good"
    )
    (tmp_path / "file").write_text("")
    closed = doctor_checks._disk("data folder", tmp_path / "file" / "x", needed_bytes=1, wanted_bytes=1, **sizes)
    assert closed.level == "problem"


def test_little_memory_or_one_core_is_told(monkeypatch):
    monkeypatch.setattr(doctor_checks.hardware, "memory_limit_bytes", lambda: 2 * 1024**3)
    assert doctor_checks._memory().level == "problem"
    monkeypatch.setattr(doctor_checks.hardware, "usable_cores", lambda: 1.0)
    assert doctor_checks._cores().level == "warning"


def test_the_screen_wraps_hostile_and_long_text():
    findings = [
        Finding("problem", "data set", "name\x1b[31m\nwith " + "words " * 40, "mend " * 30),
        Finding("good", "load", "0.1"),
    ]
    text = doctor.screen(findings)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
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
    finding = doctor_checks._gpu(quiet)
    assert finding.level == level
    if level == "warning":
        assert "longest batches of `synthetic` need" in finding.remedy and "NPROC" in finding.remedy


def test_a_gpus_run_needs_more_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(
        doctor_checks, "ask_torch", lambda: {"version": "2", "built_for": "13", "gpus": ["a"], "nccl": "2"}
    )
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5 << 30))
    findings = by_subject(doctor_checks.examine(tmp_path, tmp_path))
    assert "a run needs 8 GiB" in findings["data folder"].remedy
    assert "a run needs 10 GiB" in findings["results folder"].remedy
    tiny_corpus(tmp_path / "synthetic")
    assert by_subject(doctor_checks.examine(tmp_path, tmp_path))["data folder"].level == "warning"
