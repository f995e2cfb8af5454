"""One timed run as its user sees it: command, log, record, folder. See test_run_faults for faults."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time

import pytest

from benchmark.harness import display
from benchmark.mllog import read_log
from benchmark.record import read_record
from datasets.dataset import Stamp, read_dataset, write_stamp
from tests.support.harness import EPOCH, ROOT, TRAINER, Bench, finish, keys, make_dataset, make_params


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


HEAD = [
    *("submission_benchmark", "submission_org", "submission_division", "submission_status", "submission_platform"),
    *("variant", "dataset", "params_sha256", "cache_clear", "init_start"),
]


def test_a_run_that_reaches_its_target(bench):
    done = bench.run(plan={"epoch_s": 0.6}, new_interpreter=True)
    assert done.status == 0, done.stderr
    logged = keys(done.stdout)  # fails if stdout has anything but log lines
    assert logged[: len(HEAD)] == HEAD
    assert logged[logged.index("run_start") :] == [
        *("run_start", *EPOCH, *EPOCH, *EPOCH),
        *("trained_samples", "run_stop", "telemetry_summary"),
    ]
    assert done.stdout == bench.log()

    record = bench.record()
    assert (record.status, record.reason, record.seed, record.variant) == ("success", None, 7, "tiny")
    assert [epoch.wer for epoch in record.epochs] == [60, 40, 20]
    assert (record.run.best_wer, record.run.final_wer, record.run.epochs) == (20, 20, 3)
    events, bad = read_log(bench.folders()[0] / "result.txt")
    times = {event.key: event.time_ms for event in events}
    assert not bad
    assert record.run.run_s == (times["run_stop"] - times["run_start"]) / 1000
    assert record.run.minutes == (times["run_stop"] - times["run_start"]) / 60 / 1000
    assert record.run.device == "cpu"
    assert record.telemetry["trainer"]["rss_bytes"]["max"] == record.run.peak_memory_bytes > 0
    assert set(record.files) == {"result.txt", "params.yaml", "telemetry.csv", "trainer.err"}
    assert not list(bench.folders()[0].glob(".*")), "no temporary file stays"

    for epoch, wer in ((1, "60.00"), (2, "40.00"), (3, "20.00")):
        assert f"epoch {epoch} of 5: WER {wer} %" in done.stderr
    assert "target reached" in done.stderr and "MLPerf-style, unverified" in done.stderr
    assert max(map(len, done.stderr.splitlines()[-20:])) <= 80 or str(bench.folder) in done.stderr


def test_a_missed_target_is_an_aborted_run_and_exit_status_1(bench):
    done = bench.run(plan={"wers": [60.0]})
    assert done.status == 1
    record = bench.record()
    assert (record.status, record.run.epochs) == ("aborted", 5)
    events, _ = read_log(bench.folders()[0] / "result.txt")
    (run_stop,) = (event for event in events if event.key == "run_stop")
    assert run_stop.metadata["status"] == "aborted"
    assert "target missed: WER 60.00 % after epoch 5" in done.stderr


def test_what_is_logged_of_seed_data_and_submitter(bench):
    folder = bench.folder / "data" / "tiny"
    digest = read_dataset(folder).digest.tree_sha256
    write_stamp(folder, Stamp("2026-01-02T03:04:05+00:00", digest, passed=True))
    variables = {"SEED": "", "SUBMISSION_ORG": "Example", "SUBMISSION_DIVISION": "open", "SUBMISSION_STATUS": "cloud"}
    done = bench.run(env=variables | {"SUBMISSION_PLATFORM": "two boxes"})
    logged = {line["key"]: line["value"] for line in map(_json, done.stdout.splitlines())}
    assert logged["submission_benchmark"] == "deepspeech2"
    assert (logged["submission_org"], logged["submission_division"]) == ("Example", "open")
    assert (logged["submission_status"], logged["submission_platform"]) == ("cloud", "two boxes")
    assert logged["dataset"] == {
        "name": "tiny",
        "tree_sha256": digest,
        "verified_at": "2026-01-02T03:04:05+00:00",
    }
    assert logged["cache_clear"] is False
    record = bench.record()
    assert logged["seed"] == record.seed < 2**32
    assert record.dataset.verified and record.division == "open"
    assert logged["params_sha256"] == record.params_sha256


def test_a_variable_that_is_not_utf_8_is_recorded_as_text(bench):
    done = bench.run(env={"PYTORCH_ALLOC_CONF": "a\udcffb", "OMP_NUM_THREADS": ""})
    assert done.status == 0, done.stderr
    facts = bench.record().run
    assert (facts.pytorch_alloc_conf, facts.omp_num_threads) == ("a\ufffdb", "")


OWN_THREADS = """
import os, runpy
os.write(1, b':::MLLOG {{"time_ms": 1, "key": "cpu_threads", "value": {logged}, "metadata": {{}}}}\\n')
runpy.run_module("tests.support.fake_trainer", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("logged", "threads"), [("8", 8), ("0", None), ("true", None), ("2.5", None), ('"8"', None), ("1" * 30, None)]
)
def test_what_a_trainer_logs_as_its_threads_is_recorded_if_it_is_a_number_of_threads(bench, logged, threads):
    (bench.folder / "own.py").write_text(OWN_THREADS.format(logged=logged))
    done = bench.run(trainer="own", plan={"wers": [1.0], "epoch_s": 0}, env={"PYTHONPATH": f"{ROOT}:{bench.folder}"})
    assert done.status == 0, done.stderr
    assert bench.record().run.threads == threads


def test_a_stamp_of_other_content_or_of_a_failed_verification_does_not_count(bench):
    folder = bench.folder / "data" / "tiny"
    write_stamp(folder, Stamp("2026-01-02T03:04:05+00:00", read_dataset(folder).digest.tree_sha256, passed=False))
    bench.run(plan={"wers": [1.0], "epoch_s": 0})
    write_stamp(folder, Stamp("2026-01-02T03:04:05+00:00", "0" * 64, passed=True))
    bench.run(plan={"wers": [1.0], "epoch_s": 0})
    for run_dir in bench.folders():
        assert not read_record(run_dir).dataset.verified


def test_unset_seeds_differ(bench):
    for _ in range(2):
        bench.run(env={"SEED": ""}, plan={"wers": [1.0], "epoch_s": 0})
    first, second = (read_record(folder).seed for folder in bench.folders())
    assert first != second


def test_runs_started_in_the_same_second_get_different_folders(bench):
    processes = [bench.start(plan={"wers": [1.0], "epoch_s": 0}) for _ in range(3)]
    assert [finish(process).status for process in processes] == [0, 0, 0]
    assert len(bench.folders()) == 3
    for folder in bench.folders():
        assert re.fullmatch(r"[\w.-]+-cpu-\d{8}T\d{6}Z-s7(-\d)?", folder.name)
        assert read_record(folder).status == "success"


def test_the_run_folder_has_the_parameters_of_the_run(bench):
    bench.run()
    (folder,) = bench.folders()
    assert (folder / "params.yaml").read_text() == bench.params.read_text()


def test_noise_on_the_trainers_stdout_is_shown_and_not_logged(bench):
    done = bench.run(plan={"fault": "chatter"})
    assert done.status == 0
    logged = keys(done.stdout)
    assert "extra" in logged, "an event in the middle of a line is still one"
    for text in ("a library says hello", ":::MLLOG {broken", ":::PROGRESS {broken", "half a line, then", "bytes"):
        assert text in done.stderr
    assert "\x1b" not in done.stderr and "100%" in done.stderr
    assert b"red" in (bench.folders()[0] / "trainer.err").read_bytes()


def test_a_terminal_gets_a_bar_and_keeps_its_messages(bench):
    leader, follower = pty.openpty()
    process = bench.start(stderr=follower, plan={"epoch_s": 2.0, "fault": "chatter"})
    os.close(follower)
    shown = b""
    while True:
        try:
            data = os.read(leader, 1 << 16)
        except OSError:  # the other end is closed
            break
        shown += data
    stdout, _ = process.communicate()
    assert process.returncode == 0
    keys(stdout.decode())
    assert b"training, epoch 2" in shown and "━".encode() in shown
    assert b"epoch 2 of 5: WER 40.00 %" in shown and b"a library says hello" in shown


def test_the_bar_is_removed_for_a_log_line_on_the_same_terminal(monkeypatch):
    """`time sh run_and_time.sh | tee log`: tee writes where the bar is, a moment after the line was written."""
    drawn = []

    class Bar:
        def __init__(self, label: str, total: int, unit: str) -> None:
            self.label = label

        def __enter__(self) -> Bar:
            drawn.append(self.label)
            return self

        def __exit__(self, *_: object) -> None:
            drawn.append("removed")

        def update(self, done: int, note: str) -> None:
            pass

    monkeypatch.setattr(display, "Progress", Bar)
    screen = display.Display()
    raw = b':::PROGRESS {"phase": "train", "epoch": 1, "done": 0, "total": 6}'
    assert screen.progress(raw) and drawn == ["training, epoch 1"]
    screen.clear_for_log_line()
    assert screen.progress(raw) and drawn == ["training, epoch 1", "removed"], "no new bar yet"
    time.sleep(display.NO_BAR_AFTER_LINE_S)
    assert screen.progress(raw) and drawn == ["training, epoch 1", "removed", "training, epoch 1"]


# ---------------------------------------------------------------------------------------------------------------------
# Variant and dataset


def test_the_default_variant_is_librispeech_if_it_is_prepared_else_mini(bench):
    (bench.folder / "elsewhere").mkdir()
    # `synthesise` must not start: DATA_DIR cannot be written.
    done = bench.run("--trainer-module", TRAINER, trainer=None, env={"DATA_DIR": "/proc/nowhere"})
    assert done.status == 2
    assert "variant mini: VARIANT is not set, and there is no prepared LibriSpeech in /proc/nowhere" in done.stderr

    make_dataset(bench.folder / "data", "LibriSpeech_dataset")
    done = bench.run("--trainer-module", TRAINER, trainer=None)
    assert done.status == 0, done.stderr
    assert "variant librispeech: VARIANT is not set, and there is a prepared LibriSpeech in" in done.stderr
    assert bench.record().variant == "librispeech"


def test_an_incomplete_librispeech_is_not_chosen(bench):
    folder = make_dataset(bench.folder / "data", "LibriSpeech_dataset")
    folder.with_name("LibriSpeech_dataset.dataset.json").unlink()
    done = bench.run("--variant", "librispeech")
    assert done.status == 2
    assert "incomplete" in done.last_line and "script/download_dataset.sh" in done.last_line
    assert not bench.folders()


def test_a_missing_corpus_says_how_to_get_it(bench):
    make_params(bench.params, folder="mine")
    done = bench.run()
    assert done.status == 2 and done.stdout == ""
    assert re.fullmatch(r"error: .*data/mine: no dataset here - .*python -m datasets import.*", done.last_line)


@pytest.mark.parametrize("damage", ["missing", "empty", "longer", "extra", "manifest"])
def test_a_damaged_corpus_is_found_before_the_run(bench, damage):
    folder = bench.folder / "data" / "tiny"
    audio = folder / "train" / "3.flac"
    if damage == "missing":
        audio.unlink()
    elif damage == "extra":
        (folder / "train" / "stray").touch()
    elif damage == "manifest":
        manifest = folder / "tiny_train_manifest.jsonl"
        manifest.write_text(manifest.read_text().partition("\n")[2])
    else:
        audio.write_bytes(b"" if damage == "empty" else bytes(20_000))
    done = bench.run()
    assert done.status == 2 and done.stdout == ""
    assert str(folder) in done.last_line
    assert not bench.folders()


def test_an_unknown_variant_lists_the_known_ones(bench):
    done = bench.run("--variant", "maxi")
    assert done.status == 2
    assert "maxi" in done.last_line and "librispeech" in done.last_line


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(("SEED", "-1"), ("SEED", "4294967296"), ("SEED", "one"), ("SEED", "1.5"), ("SEED", "٣")),
        *(("DEVICE", "tpu"), ("NPROC", "0"), ("NPROC", "9" * 40), ("NNODES", "x"), ("NODE_RANK", "1")),
        *(("DROP_CACHES", "yes"), ("SUBMISSION_STATUS", "maybe"), ("SUBMISSION_DIVISION", "shut")),
    ],
)
def test_a_bad_variable_is_named(bench, variable, value):
    done = bench.run(env={variable: value})
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"error: {variable}: ")


def test_help_names_every_variable_and_needs_nothing_installed():
    command = [sys.executable, "-S", "-m", "benchmark", "run", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("VARIANT", "SEED", "DEVICE", "NPROC", "NNODES", "NODE_RANK", "MASTER_ADDR", "DATA_DIR", "RESULTS_DIR"):
        assert name in done.stdout


def test_the_users_working_directory_cannot_shadow_our_packages(bench):
    for name in ("common", "benchmark", "datasets", "tests"):
        (bench.folder / name).mkdir()
        (bench.folder / name / "__init__.py").write_text("raise RuntimeError('shadowed')\n")
    done = bench.run(env={"PYTHONSAFEPATH": "1"}, new_interpreter=True)
    assert done.status == 0, done.stderr


def test_the_script_needs_no_particular_working_directory(bench):
    environment = os.environ | bench.environment | {"PYTHON": sys.executable, "FAKE_TRAINER": "{}"}
    environment.pop("PYTHONPATH")
    command = [
        "sh",
        str(ROOT / "run_and_time.sh"),
        "--params",
        "tiny.yaml",
        "--trainer-module",
        "tests.support.fake_trainer",
    ]
    done = subprocess.run(command, cwd=bench.folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert keys(done.stdout)[0] == "submission_benchmark"


def _json(line: str) -> dict:
    return json.loads(line.removeprefix(":::MLLOG "))
