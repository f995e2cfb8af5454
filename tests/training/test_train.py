"""The trainer as a process: determinism, exact resume, several processes, and what ends a run."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch

from benchmark import mllog
from reference_model import train as trainer
from reference_model.checkpoints.training_state import checkpoint_path, load_checkpoint
from tests.conftest import ROOT
from tests.support.corpus import tiny_corpus, tiny_params
from tests.support.harness import alive, wait_for

PORTS = itertools.count(20_000 + os.getpid() % 20_000)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("data") / "tiny").folder


def command(
    corpus: Path, run_dir: Path, *, seed: int = 1, processes: int = 1, resume: Path | None = None, **changes
) -> list[str]:
    run_dir.mkdir(exist_ok=True)
    tiny_params(run_dir / "params.yaml", **changes)
    launcher = [sys.executable]
    if processes > 1:
        ports = f"127.0.0.1:{next(PORTS)}"
        launcher += [
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(processes),
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            ports,
        ]
    line = [*launcher, "-m", "reference_model.train", "--params", run_dir / "params.yaml", "--data", corpus]
    line += ["--run-dir", run_dir, "--seed", seed, "--device", "cpu"]
    return [*map(str, line), *(["--resume", str(resume)] if resume else [])]


def train(corpus: Path, run_dir: Path, **options) -> tuple[int, list[mllog.Event], str]:
    """Exit status, log events and stderr of a whole training."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command(corpus, run_dir, **options), cwd=ROOT, env=environment, capture_output=True, timeout=240
    )
    events = [mllog.parse_line(line) for line in done.stdout.splitlines()]
    assert all(isinstance(event, mllog.Event) for event in events), done.stdout
    return done.returncode, events, done.stderr.decode()


def values(events: list[mllog.Event], key: str) -> list:
    return [event.value for event in events if event.key == key]


def losses(events: list[mllog.Event]) -> list[float]:
    return [stats["train_loss"] for stats in values(events, mllog.TRACKED_STATS)]


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> tuple[Path, list[mllog.Event]]:
    """A training of three epochs that never reaches its target."""
    run_dir = tmp_path_factory.mktemp("whole")
    status, events, stderr = train(corpus, run_dir)
    assert status == 1, stderr
    return run_dir, events


def test_the_log_holds_every_key_once_and_in_order(whole):
    _, events = whole
    keys = [event.key for event in events]
    epoch = ["epoch_start", "epoch_stop", "tracked_stats", "eval_start", "eval_accuracy", "eval_stop"]
    assert keys[0] == "init_start"
    assert keys[keys.index("init_stop") :] == ["init_stop", "run_start", *epoch * 3, "trained_samples", "run_stop"]
    once = [
        "seed",
        "train_samples",
        "eval_samples",
        "global_batch_size",
        "gradient_accumulation_steps",
        "hyperparameters",
    ]
    assert all(keys.count(key) == 1 and keys.index(key) < keys.index("init_stop") for key in once)
    assert [event.epoch_num for event in events if event.key == "eval_accuracy"] == [1, 2, 3]
    assert values(events, "train_samples") == [24]
    assert values(events, "eval_samples") == [7]
    assert values(events, "trained_samples") == [72]
    assert values(events, "gru_dtype") == ["float32"]
    assert events[-1].metadata["status"] == "aborted"
    assert [event.time_ms for event in events] == sorted(event.time_ms for event in events)
    assert losses(events)[2] < losses(events)[0]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(whole, corpus, tmp_path):
    run_dir, events = whole
    _, again, _ = train(corpus, tmp_path / "again")
    _, other, _ = train(corpus, tmp_path / "other", seed=2)
    assert losses(again) == losses(events)
    assert values(again, "eval_accuracy") == values(events, "eval_accuracy")
    assert losses(other) != losses(events)
    first, second = (load_checkpoint(checkpoint_path(folder, 3)).model for folder in (run_dir, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_killed_and_resumed_ends_with_the_same_weights(whole, corpus, tmp_path):
    run_dir, events = whole
    process = subprocess.Popen(
        command(corpus, tmp_path), cwd=ROOT, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    for line in process.stdout:
        event = mllog.parse_line(line)
        if event.key == "epoch_start" and event.epoch_num == 2:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    checkpoint = checkpoint_path(tmp_path, 1)
    status, resumed, stderr = train(corpus, tmp_path, resume=checkpoint)
    assert status == 1, stderr
    assert [event.key for event in resumed][:2] == ["resumed", "epoch_start"]
    assert values(resumed, "resumed") == [1]
    assert losses(resumed) == losses(events)[1:]
    expected, found = (load_checkpoint(checkpoint_path(folder, 3)) for folder in (run_dir, tmp_path))
    assert found.trained_samples == expected.trained_samples == 72
    assert all(torch.equal(expected.model[name], found.model[name]) for name in expected.model)
    for key, state in expected.optimizer["state"].items():
        assert all(torch.equal(value, found.optimizer["state"][key][name]) for name, value in state.items())


def test_resume_with_other_parameters_or_seed_is_refused(whole, corpus, tmp_path):
    run_dir, _ = whole
    for options in ({"seed": 9}, {"optimizer__learning_rate": 0.5}):
        status, events, stderr = train(corpus, tmp_path, resume=checkpoint_path(run_dir, 1), **options)
        assert status == 2
        assert events == []
        assert stderr.count("\n") == 1 and "epoch_01.pt" in stderr


def test_reaching_the_target_ends_the_run_with_success(corpus, tmp_path):
    status, events, _ = train(corpus, tmp_path, train__target_wer=100.0)
    assert status == 0
    assert [event.epoch_num for event in events if event.key == "eval_stop"] == [1]
    assert events[-1].metadata["status"] == "success"

    # Killed after its last checkpoint and before run_stop, it has nothing left to do but to say so.
    resumed = checkpoint_path(tmp_path, 1)
    status, events, _ = train(corpus, tmp_path, train__target_wer=100.0, resume=resumed)
    assert status == 0
    assert [event.key for event in events] == ["resumed", "trained_samples", "run_stop"]
    assert values(events, "trained_samples") == [24]
    assert events[-1].metadata == events[-1].metadata | {"status": "success", "epoch_num": 1}


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_a_batch_to_the_same_losses(corpus, tmp_path, processes):
    """Same global batch, BatchNorm synchronised, tempo and masks on: one process or several, to float tolerance."""
    options = {
        "model__sync_batch_norm": True,
        # Not AdamW: it would blow rounding noise up to full steps on the biases that BatchNorm cancels.
        "optimizer__name": "sgd",
        "optimizer__learning_rate": 1e-3,
        "augment__tempo_min": 0.85,
        "augment__tempo_max": 1.15,
        "augment__spec_time_masks": 1,
        "augment__spec_time_width_max_s": 0.2,
    }
    status, alone, stderr = train(corpus, tmp_path / "one", **options)
    assert status == 1, stderr
    status, together, stderr = train(corpus, tmp_path / "many", processes=processes, **options)
    assert status == 0, stderr
    assert together[-1].metadata["status"] == "aborted"
    np.testing.assert_allclose(losses(together), losses(alone), rtol=1e-4)
    assert values(together, "number_of_processes") == [processes]
    assert values(together, "trained_samples") == values(alone, "trained_samples") == [72]
    for event in together:
        if event.key == "eval_accuracy":
            assert event.metadata["utterances"] == 7
    assert [e.key for e in together] == [e.key for e in alone]
    first, second = (load_checkpoint(checkpoint_path(tmp_path / name, 3)).model for name in ("one", "many"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=2e-3, atol=2e-4)


def test_processes_train_on_the_rest_of_an_epoch_that_is_smaller_than_they_are_many(tmp_path):
    """LibriSpeech's 281,241 utterances leave one for the last batch of 8: nobody may pass it over, or compute it twice."""
    corpus = tiny_corpus(tmp_path / "tiny", train=9).folder
    options = {"model__sync_batch_norm": False, "optimizer__name": "sgd", "optimizer__learning_rate": 1e-3}
    status, events, stderr = train(corpus, tmp_path / "run", processes=2, train__max_epochs=1, **options)
    assert status == 0, stderr
    assert values(events, "trained_samples") == [9]
    (stats,) = values(events, "tracked_stats")
    assert stats["steps"] == 3
    assert stats["utterances_per_s"] * stats["train_s"] == pytest.approx(9, rel=0.01)


def test_a_loss_that_is_not_finite_stops_the_run(corpus, tmp_path):
    status, events, stderr = train(corpus, tmp_path, optimizer__learning_rate=90.0, optimizer__warmup_steps=0, train__max_epochs=10,
                                   optimizer__name="sgd", optimizer__clip_norm=1e30)  # fmt: skip
    assert status == 2
    assert "not finite" in stderr and "Traceback" not in stderr
    assert "not finite" in values(events, "run_aborted_reason")[0]
    assert events[-1].key == "run_stop" and events[-1].metadata["status"] == "aborted"


def test_audio_that_cannot_be_read_in_mid_epoch_is_named(tmp_path):
    corpus = tiny_corpus(tmp_path / "tiny")
    manifest = corpus.manifest("train")
    damaged = manifest.audio_path(manifest.utterances[9])
    damaged.write_bytes(b"no audio at all")
    status, events, stderr = train(corpus.folder, tmp_path / "run")
    assert status == 2
    assert stderr.splitlines()[-1].startswith("error: ") and str(damaged) in stderr
    assert events[-1].key == "run_stop" and events[-1].metadata["status"] == "aborted"


def test_an_utterance_too_short_for_its_text_is_refused_before_the_clock_starts(tmp_path):
    corpus = tiny_corpus(tmp_path / "tiny")
    manifest_path = corpus.folder / corpus.splits["train"].manifest
    lines = manifest_path.read_text().splitlines()
    text = lines[0].split('"text":"')[1].split('"')[0]
    manifest_path.write_text("\n".join([lines[0].replace(text, text * 20), *lines[1:]]) + "\n")
    status, events, stderr = train(corpus.folder, tmp_path / "run")
    assert status == 2
    assert "too short" in stderr
    assert mllog.RUN_START not in [event.key for event in events]


def test_a_killed_rank_ends_the_run(corpus, tmp_path):
    process = subprocess.Popen(
        command(corpus, tmp_path, processes=2, train__max_epochs=10),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    for line in process.stdout:
        if b"epoch_start" in line:
            break
    workers = [
        child.pid
        for child in psutil.Process(process.pid).children(recursive=True)
        if re.search(rf"reference_model.train .*{tmp_path}", " ".join(child.cmdline()))
    ]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode != 0
    assert b"Signal 9" in stderr or b"SIGKILL" in stderr
    wait_for(lambda: not any(map(alive, workers)))


def test_a_loader_process_that_is_killed_ends_the_run_in_words(corpus, tmp_path):
    process = subprocess.Popen(
        [*command(corpus, tmp_path, train__max_epochs=10), "--workers", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    for line in process.stdout:
        if b"epoch_stop" in line:
            break
    psutil.Process(process.pid).children()[0].kill()
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 2
    (said,) = [line for line in stderr.decode().splitlines() if line.startswith("error: ")]
    assert "a loader process died" in said and "memory" in said
    assert b"Traceback" not in stderr
    assert mllog.parse_line(stdout.splitlines()[-1]).metadata["status"] == "aborted"


ALARM = """
import sys
from common.errors import run_cli
from reference_model import train

def alarm(*arguments):
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

train.TrainStep.__call__ = alarm
sys.exit(run_cli(train.main))
"""


def test_an_alarm_of_a_dead_loader_process_in_the_midst_of_a_step_is_told_in_words(corpus, tmp_path):
    """PyTorch raises it in a signal handler, wherever the process happens to be."""
    arguments = command(corpus, tmp_path)[3:]
    done = subprocess.run([sys.executable, "-c", ALARM, *arguments], cwd=ROOT, capture_output=True, timeout=200)
    assert done.returncode == 2
    (said,) = [line for line in done.stderr.decode().splitlines() if line.startswith("error: ")]
    assert "a loader process died" in said and "memory" in said
    assert b"Traceback" not in done.stderr
    assert mllog.parse_line(done.stdout.splitlines()[-1]).metadata["status"] == "aborted"


def test_a_cuda_device_that_is_not_there_is_one_clear_line(corpus, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    line = [
        argument.replace("cpu", "cuda") if argument == "cpu" else argument for argument in command(corpus, tmp_path)
    ]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "no GPU" in done.stderr


def test_soundfile_reads_what_the_corpus_wrote(corpus):
    """Guards the helper: a tiny corpus that held silence would make every test above pass for nothing."""
    audio, rate_hz = soundfile.read(next((corpus / "train").glob("*.flac")))
    assert rate_hz == 16_000
    assert np.abs(audio).max() > 0.2


def test_more_processes_than_a_batch_has_utterances_are_refused_before_the_clock_starts(corpus, tmp_path):
    status, events, stderr = train(corpus, tmp_path, processes=2, train__batch_size=1)
    assert status != 0
    assert "error: 2 processes cannot share a batch of 1 utterances - use at most 1" in stderr
    assert mllog.RUN_START not in [event.key for event in events]


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        (lambda: torch.empty(1 << 50), "error: out of memory ("),
        (
            lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore")),
            "error: out of GPU memory (CUDA",
        ),
    ],
)
def test_memory_that_runs_out_is_one_line(monkeypatch, capsys, fail, said):
    monkeypatch.setattr(trainer, "main", fail)
    assert trainer._door() == 2
    told = capsys.readouterr().err
    assert told.startswith(said) and told.count("\n") == 1


def test_a_bug_is_not_taken_for_a_lack_of_memory(monkeypatch):
    monkeypatch.setattr(trainer, "main", lambda: _raise(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        trainer._door()


def _raise(error: Exception) -> None:
    raise error
