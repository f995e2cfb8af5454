"""Runs of the real trainer: killed and resumed, a run ends with the same weights as an uninterrupted one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from benchmark.mllog import parse_line, read_log
from benchmark.record import RunRecord, read_record
from datasets.checksums.digest import digest_tree
from datasets.dataset import write_description
from reference_model.checkpoints.checkpoint_files import checkpoint_path
from reference_model.checkpoints.training_state import load_checkpoint
from tests.support.corpus import tiny_corpus, tiny_params
from tests.support.fake_trainer import fill_the_disk
from tests.support.harness import ROOT, alive, small_disk


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a dataset and a parameter file whose target is never reached."""
    folder = tmp_path_factory.mktemp("place")
    dataset = tiny_corpus(folder / "data" / "tiny")
    write_description(dataclasses.replace(dataset, digest=digest_tree(dataset.folder, 1)))
    tiny_params(folder / "tiny.yaml", variant="tiny", data__folder="tiny", train__max_epochs=2)
    return folder


def start(place: Path, results: Path, *arguments: str, **changes: str | None) -> subprocess.Popen[bytes]:
    """Start a run of one CPU thread; `changes` are environment variables, None unsets one."""
    variables: dict[str, str | None] = {
        "DATA_DIR": str(place / "data"),
        "RESULTS_DIR": str(results),
        "SEED": "5",
        "DEVICE": "cpu",
        "DROP_CACHES": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    environment = {name: value for name, value in (os.environ | variables | changes).items() if value is not None}
    line = [sys.executable, "-m", "benchmark", "run", *(arguments or ("--params", str(place / "tiny.yaml")))]
    return subprocess.Popen(line, env=environment, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def folder_and_record(results: Path) -> tuple[Path, RunRecord]:
    (folder,) = results.glob("tiny/*")
    return folder, read_record(folder)


def test_a_run_killed_with_its_harness_and_resumed_ends_with_the_same_weights(place, tmp_path):
    whole = start(place, tmp_path / "whole")
    stdout, stderr = whole.communicate(timeout=200)
    assert whole.returncode == 1, stderr.decode()
    assert all(line.startswith(b":::MLLOG ") for line in stdout.splitlines())
    whole_folder, whole_record = folder_and_record(tmp_path / "whole")
    assert (whole_record.status, whole_record.run.epochs) == ("aborted", 2)

    killed = start(place, tmp_path / "killed")
    assert killed.stdout is not None
    for line in killed.stdout:
        event = parse_line(line)
        if event.key == "accelerators":
            (trainer,) = (child.pid for child in psutil.Process(killed.pid).children())
        if event.key == "epoch_start" and event.epoch_num == 2:
            killed.send_signal(signal.SIGKILL)
            break
    killed.communicate(timeout=200)
    folder, record = folder_and_record(tmp_path / "killed")
    assert record.status == "unfinished"

    resumed = start(place, tmp_path / "killed", "--resume", str(folder), PYTORCH_ALLOC_CONF="backend:native")
    stdout, stderr = resumed.communicate(timeout=200)
    assert resumed.returncode == 1, stderr.decode()
    assert not alive(trainer)
    folder, record = folder_and_record(tmp_path / "killed")
    assert (record.status, record.run.resumed_epochs) == ("aborted", (1,))
    assert (record.run.threads, record.run.omp_num_threads, record.run.pytorch_alloc_conf) == (1, "1", None)
    assert "resumed after epoch 1 with PYTORCH_ALLOC_CONF=backend:native" in record.notes
    assert [(e.wer, e.cer, e.train_loss) for e in record.epochs] == [
        (e.wer, e.cer, e.train_loss) for e in whole_record.epochs
    ]
    ours, theirs = (load_checkpoint(checkpoint_path(run_dir, 2)) for run_dir in (folder, whole_folder))
    assert all(torch.equal(ours.model[name], theirs.model[name]) for name in theirs.model)

    events, bad = read_log(folder / "result.txt")
    keys = [event.key for event in events]
    assert not bad and stdout == (folder / "result.txt").read_bytes()
    assert keys.count("run_start") == keys.count("run_stop") == keys.count("resumed") == 1
    assert [event.metadata["cpu_threads"] for event in events if event.key == "resumed"] == [1]
    times = {event.key: event.time_ms for event in events}
    assert record.run.run_s == (times["run_stop"] - times["run_start"]) / 1000
    assert json.loads((folder / "record.json").read_text())["files"].keys() >= {"result.txt", "telemetry.csv"}


def threads_of_torch(variable: str) -> int:
    """PyTorch's threads under that OMP_NUM_THREADS: MKL does not take more than there are cores."""
    line = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    environment = os.environ | {"OMP_NUM_THREADS": variable}
    return int(subprocess.run(line, env=environment, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("variable", ["2", None])
def test_the_record_has_the_cpu_threads_and_the_variables_that_change_a_runs_time(place, tmp_path, variable):
    threads = threads_of_torch(variable) if variable else 1
    tiny_params(tmp_path / "tiny.yaml", variant="tiny", data__folder="tiny", train__max_epochs=1)
    variables = {"OMP_NUM_THREADS": variable, "PYTORCH_ALLOC_CONF": None, "PYTORCH_CUDA_ALLOC_CONF": "backend:native"}
    run = start(place, tmp_path / "runs", "--params", str(tmp_path / "tiny.yaml"), **variables)
    stdout, stderr = run.communicate(timeout=200)
    assert run.returncode == 1, stderr.decode()
    events = [parse_line(line) for line in stdout.splitlines()]
    keys = [event.key for event in events]
    assert [event.value for event in events if event.key == "cpu_threads"] == [threads]
    assert keys.index("init_start") < keys.index("cpu_threads") < keys.index("init_stop")

    folder, record = folder_and_record(tmp_path / "runs")
    assert (record.run.threads, record.run.omp_num_threads, record.run.drop_caches) == (threads, variable, False)
    assert (record.run.pytorch_alloc_conf, record.run.pytorch_cuda_alloc_conf) == (None, "backend:native")
    written = json.loads((folder / "record.json").read_text())["run"]
    assert (written["threads"], written["omp_num_threads"]) == (threads, variable)


def interfere(process: subprocess.Popen[bytes], key: str, epoch: int, action: Callable[[], object]) -> tuple[int, str]:
    """Call `action` at this line of the log and wait for the end: the exit status and the last line on stderr."""
    assert process.stdout is not None
    for line in process.stdout:
        event = parse_line(line)
        if event.key == key and event.epoch_num == epoch:
            action()
            break
    _, stderr = process.communicate(timeout=200)
    return process.returncode, stderr.decode().splitlines()[-1]


def test_a_dataset_that_changes_during_a_run_ends_it_and_the_file_is_named(place, tmp_path):
    own = tmp_path / "place"
    shutil.copytree(place, own)
    changed = own / "data" / "tiny" / "train" / "train-003.flac"
    other = own / "data" / "tiny" / "train" / "train-004.flac"
    status, last_line = interfere(start(own, tmp_path), "epoch_stop", 1, lambda: shutil.copyfile(other, changed))
    assert status == 2
    assert last_line.startswith(f"error: {changed}: ") and "verify_dataset.sh" in last_line
    _, record = folder_and_record(tmp_path)
    assert (record.status, record.run.epochs) == ("failed", 1)


@pytest.mark.root("mount a small file system")
def test_a_disk_that_is_full_at_a_checkpoint_costs_only_that_epoch(place, tmp_path):
    results = tmp_path / "runs"
    with small_disk(results, "2m"):

        def fill() -> None:
            fill_the_disk(results / "filler")

        status, last_line = interfere(start(place, results), "eval_start", 2, fill)
        assert status == 2
        assert "cannot write the checkpoint" in last_line or "No space left on device" in last_line
        folder, record = folder_and_record(results)
        assert record.status == "failed"
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["epoch_01.pt"]

        (results / "filler").unlink()
        resumed = start(place, results, "--resume", str(folder))
        _, stderr = resumed.communicate(timeout=200)
        assert resumed.returncode == 1, stderr.decode()
        record = folder_and_record(results)[1]
        assert (record.status, record.run.epochs, record.run.resumed_epochs) == ("aborted", 2, (1,))
