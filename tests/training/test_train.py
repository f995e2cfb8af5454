"""The trainer: determinism, exact resume, several processes, and what ends a run."""

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
from reference_model.checkpoints.checkpoint_files import checkpoint_path
from reference_model.checkpoints.training_state import load_checkpoint
from reference_model.training import training_run
from tests.conftest import ROOT
from tests.support.corpus import tiny_corpus
from tests.support.harness import alive, wait_for
from tests.support.training import Finished, arguments, start, start_ranks, train

PORTS = itertools.count(20_000 + os.getpid() % 20_000)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("data") / "tiny").folder


def torchrun(argv: list[str]) -> list[str]:
    """The command line of two ranks under torchrun."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    return [
        sys.executable,
        *launcher,
        "--rdzv-endpoint",
        f"127.0.0.1:{next(PORTS)}",
        "-m",
        "reference_model.train",
        *argv,
    ]


@pytest.fixture(scope="module")
def baseline(corpus, tmp_path_factory) -> tuple[Path, Finished]:
    """A training of three epochs that never reaches its target."""
    run_dir = tmp_path_factory.mktemp("baseline")
    done = train(arguments(corpus, run_dir))
    assert done.status == 1, done.stderr
    return run_dir, done


def test_the_log_holds_every_key_once_and_in_order(baseline):
    _, done = baseline
    keys, events = done.keys, done.events
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
    assert done.values("train_samples") == [24]
    assert done.values("eval_samples") == [7]
    assert done.values("trained_samples") == [72]
    assert done.values("gru_dtype") == ["float32"]
    assert events[-1].metadata["status"] == "aborted"
    assert [event.time_ms for event in events] == sorted(event.time_ms for event in events)
    assert done.losses[2] < done.losses[0]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(baseline, corpus, tmp_path):
    run_dir, done = baseline
    again = train(arguments(corpus, tmp_path / "again"))
    other = train(arguments(corpus, tmp_path / "other", seed=2, train__max_epochs=1))
    assert again.losses == done.losses
    assert again.values("eval_accuracy") == done.values("eval_accuracy")
    assert other.losses != done.losses[:1]
    first, second = (load_checkpoint(checkpoint_path(folder, 3)).model for folder in (run_dir, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_killed_and_resumed_ends_with_the_same_weights(baseline, corpus, tmp_path):
    run_dir, done = baseline
    trainer = start(arguments(corpus, tmp_path), tmp_path / "output")
    trainer.wait_for_line('"epoch_start"', '"epoch_num": 2')
    trainer.process.kill()
    assert trainer.wait().status == -signal.SIGKILL
    resumed = train(arguments(corpus, tmp_path, "--resume", str(checkpoint_path(tmp_path, 1))))
    assert resumed.status == 1, resumed.stderr
    assert resumed.keys[:2] == ["resumed", "epoch_start"]
    assert resumed.values("resumed") == [1]
    assert resumed.losses == done.losses[1:]
    expected, found = (load_checkpoint(checkpoint_path(folder, 3)) for folder in (run_dir, tmp_path))
    assert found.trained_samples == expected.trained_samples == 72
    assert all(torch.equal(expected.model[name], found.model[name]) for name in expected.model)
    for key, state in expected.optimizer["state"].items():
        assert all(torch.equal(value, found.optimizer["state"][key][name]) for name, value in state.items())


@pytest.mark.parametrize("changes", [{"seed": 9}, {"optimizer__learning_rate": 0.5}], ids=["seed", "parameters"])
def test_resume_with_other_parameters_or_seed_is_refused(baseline, corpus, tmp_path, changes):
    run_dir, _ = baseline
    done = train(arguments(corpus, tmp_path, "--resume", str(checkpoint_path(run_dir, 1)), **changes))
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "epoch_01.pt" in done.stderr


def test_reaching_the_target_ends_the_run_with_success(corpus, tmp_path):
    done = train(arguments(corpus, tmp_path, train__target_wer=100.0))
    assert done.status == 0
    assert [event.epoch_num for event in done.events if event.key == "eval_stop"] == [1]
    assert done.events[-1].metadata["status"] == "success"

    # Killed after its last checkpoint and before run_stop, a resumed run only has to log its end.
    resume = str(checkpoint_path(tmp_path, 1))
    resumed = train(arguments(corpus, tmp_path, "--resume", resume, train__target_wer=100.0))
    assert resumed.status == 0
    assert resumed.keys == ["resumed", "trained_samples", "run_stop"]
    assert resumed.values("trained_samples") == [24]
    end = resumed.events[-1].metadata
    assert end == end | {"status": "success", "epoch_num": 1}


# ---------------------------------------------------------------------------------------------------------------------
# Several processes

SYNCHRONIZED = {
    "model__sync_batch_norm": True,
    # Not AdamW: it would amplify rounding noise to full steps on the biases that BatchNorm cancels.
    "optimizer__name": "sgd",
    "optimizer__learning_rate": 1e-3,
    "augment__tempo_min": 0.85,
    "augment__tempo_max": 1.15,
    "augment__spec_time_masks": 1,
    "augment__spec_time_width_max_s": 0.2,
    "train__max_epochs": 2,
}


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory) -> tuple[Path, Finished]:
    """One process's training with SYNCHRONIZED."""
    run_dir = tmp_path_factory.mktemp("alone")
    done = train(arguments(corpus, run_dir, **SYNCHRONIZED))
    assert done.status == 1, done.stderr
    return run_dir, done


def under_torchrun(argv: list[str], folder: Path) -> Finished:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(torchrun(argv), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    return Finished(done.returncode, done.stdout, done.stderr)


def as_four_ranks(argv: list[str], folder: Path) -> Finished:
    leader, *others = [rank.wait() for rank in start_ranks(argv, 4, folder)]
    assert [(other.status, other.stdout) for other in others] == [(0, "")] * 3
    return leader


@pytest.mark.parametrize(("size", "launch"), [(2, under_torchrun), (4, as_four_ranks)], ids=["2", "4"])
def test_processes_share_a_batch_to_the_same_losses(alone, corpus, tmp_path, size, launch):
    """Same global batch, BatchNorm synchronized, tempo and masks on: one process or several, to float tolerance."""
    alone_dir, expected = alone
    found = launch(arguments(corpus, tmp_path / "run", **SYNCHRONIZED), tmp_path)
    assert found.status == 0, found.stderr
    assert found.events[-1].metadata["status"] == "aborted"
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-4)
    assert found.values("number_of_processes") == [size]
    assert found.values("trained_samples") == expected.values("trained_samples") == [48]
    assert [event.metadata["utterances"] for event in found.events if event.key == "eval_accuracy"] == [7, 7]
    assert found.keys == expected.keys
    first, second = (load_checkpoint(checkpoint_path(folder, 2)).model for folder in (alone_dir, tmp_path / "run"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=2e-3, atol=2e-4)


def test_ranks_train_on_a_last_batch_with_fewer_utterances_than_ranks(tmp_path):
    """LibriSpeech's 281,241 utterances leave one for the last batch of 8: it is neither skipped nor computed twice."""
    corpus = tiny_corpus(tmp_path / "tiny", train=9).folder
    options = {"model__sync_batch_norm": False, "optimizer__name": "sgd", "optimizer__learning_rate": 1e-3}
    argv = arguments(corpus, tmp_path / "run", train__max_epochs=1, **options)
    done, _ = (rank.wait() for rank in start_ranks(argv, 2, tmp_path))
    assert done.status == 0, done.stderr
    assert done.values("trained_samples") == [9]
    (stats,) = done.values("tracked_stats")
    assert stats["steps"] == 3
    assert stats["utterances_per_s"] * stats["train_s"] == pytest.approx(9, rel=0.01)


def test_more_processes_than_a_batch_has_utterances_are_refused_before_the_clock_starts(corpus, tmp_path):
    argv = arguments(corpus, tmp_path / "run", train__batch_size=1)
    for done in [rank.wait() for rank in start_ranks(argv, 2, tmp_path)]:
        assert done.status == 2
        assert "error: 2 processes cannot share a batch of 1 utterances - use at most 1" in done.stderr
        assert mllog.RUN_START not in done.keys


def test_a_killed_rank_ends_the_run(corpus, tmp_path):
    process = subprocess.Popen(
        torchrun(arguments(corpus, tmp_path, train__max_epochs=10)),
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


# ---------------------------------------------------------------------------------------------------------------------
# Faults


def test_a_loss_that_is_not_finite_stops_the_run(corpus, tmp_path):
    changes = {"optimizer__learning_rate": 90.0, "optimizer__warmup_steps": 0, "optimizer__name": "sgd"}
    done = train(arguments(corpus, tmp_path, optimizer__clip_norm=1e30, train__max_epochs=10, **changes))
    assert done.status == 2
    assert "not finite" in done.stderr
    assert "not finite" in done.values("run_aborted_reason")[0]
    assert done.keys[-1] == "run_stop" and done.events[-1].metadata["status"] == "aborted"


def test_audio_that_cannot_be_read_in_mid_epoch_is_named(tmp_path):
    corpus = tiny_corpus(tmp_path / "tiny")
    manifest = corpus.manifest("train")
    damaged = manifest.audio_path(manifest.utterances[9])
    damaged.write_bytes(b"no audio at all")
    done = train(arguments(corpus.folder, tmp_path / "run"))
    assert done.status == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and str(damaged) in done.stderr
    assert done.keys[-1] == "run_stop" and done.events[-1].metadata["status"] == "aborted"


def test_an_utterance_too_short_for_its_text_is_refused_before_the_clock_starts(tmp_path):
    corpus = tiny_corpus(tmp_path / "tiny")
    manifest_path = corpus.folder / corpus.splits["train"].manifest
    lines = manifest_path.read_text().splitlines()
    text = lines[0].split('"text":"')[1].split('"')[0]
    manifest_path.write_text("\n".join([lines[0].replace(text, text * 20), *lines[1:]]) + "\n")
    done = train(arguments(corpus.folder, tmp_path / "run"))
    assert done.status == 2
    assert "too short" in done.stderr
    assert mllog.RUN_START not in done.keys


def assert_dead_worker_is_reported(done: Finished) -> None:
    assert done.status == 2
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "a data loader worker died" in message and "memory" in message
    assert "Traceback" not in done.stderr
    assert done.events[-1].metadata["status"] == "aborted"


def test_a_killed_data_loader_worker_is_reported(corpus, tmp_path):
    trainer = start(arguments(corpus, tmp_path, "--workers", "1", train__max_epochs=10), tmp_path / "output")
    trainer.wait_for_line("epoch_stop")
    psutil.Process(trainer.process.pid).children()[0].kill()
    assert_dead_worker_is_reported(trainer.wait())


def test_a_dead_worker_signal_in_the_middle_of_a_step_is_reported(corpus, tmp_path, monkeypatch):
    """PyTorch raises it in a signal handler, wherever the process happens to be."""

    def signal_handler(*arguments):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(training_run.TrainStep, "__call__", signal_handler)
    assert_dead_worker_is_reported(train(arguments(corpus, tmp_path)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_reported_in_one_line(corpus, tmp_path):
    done = train(arguments(corpus, tmp_path, "--device", "cuda"))
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "no GPU" in done.stderr


def test_soundfile_reads_what_the_corpus_wrote(corpus):
    """Guards the helper: a tiny corpus that held silence would make every test above pass for nothing."""
    audio, rate_hz = soundfile.read(next((corpus / "train").glob("*.flac")))
    assert rate_hz == 16_000
    assert np.abs(audio).max() > 0.2


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (lambda *run: torch.empty(1 << 50), "error: out of memory ("),
        (
            lambda *run: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore")),
            "error: out of GPU memory (CUDA",
        ),
    ],
    ids=["host", "GPU"],
)
@pytest.mark.parametrize("place", ["_train", "choose_device"])
def test_out_of_memory_is_reported_in_one_line(monkeypatch, corpus, tmp_path, fail, message, place):
    monkeypatch.setattr(training_run, place, fail)
    done = train(arguments(corpus, tmp_path))
    assert done.status == 2
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


def test_a_bug_is_not_reported_as_out_of_memory(monkeypatch, corpus, tmp_path):
    monkeypatch.setattr(training_run, "_train", lambda *run: _raise(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(arguments(corpus, tmp_path))


def _raise(error: Exception) -> None:
    raise error
