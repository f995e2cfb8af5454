"""Checkpoints: what is saved comes back, a crash leaves nothing half-made, and no file makes us run its code."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from datasets.errors import UserError
from reference_model.checkpoint_file import Checkpoint, checkpoint_path, load_checkpoint, save_checkpoint
from reference_model.model import DeepSpeech2
from reference_model.optim import build_optimizer, learning_rate
from tests.corpus import tiny_params


def make_checkpoint() -> Checkpoint:
    params = tiny_params()
    model = DeepSpeech2(params.model, 161)
    optimizer = build_optimizer(params.optimizer, model.parameters())
    model(torch.randn(2, 161, 50), torch.tensor([50, 40]))[0].sum().backward()
    optimizer.step()
    return Checkpoint(
        params=params.as_dict(),
        params_sha256=params.sha256,
        seed=7,
        epoch=3,
        step=18,
        trained_samples=72,
        wer=41.5,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
    )


def test_everything_comes_back(tmp_path):
    saved = make_checkpoint()
    path = checkpoint_path(tmp_path, 3)
    save_checkpoint(saved, path)
    loaded = load_checkpoint(path)
    assert path.name == "epoch_03.pt"
    assert [f.name for f in path.parent.iterdir()] == ["epoch_03.pt"]
    assert (loaded.params, loaded.seed, loaded.epoch, loaded.step, loaded.wer) == (saved.params, 7, 3, 18, 41.5)
    assert all(loaded.model[name].equal(value) for name, value in saved.model.items())
    for key, state in saved.optimizer["state"].items():
        assert all(torch.equal(loaded.optimizer["state"][key][name], value) for name, value in state.items())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95, 0.999])
def test_a_file_cut_short_is_refused(tmp_path, share):
    path = tmp_path / "epoch_01.pt"
    save_checkpoint(make_checkpoint(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=r"epoch_01\.pt"):
        load_checkpoint(path)


def test_a_hostile_file_is_refused_and_its_code_never_runs(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"format": 1, "model": Hostile()}, tmp_path / "new.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Hostile()))
    for name in ("new.pt", "old.pt"):
        with pytest.raises(UserError, match=name):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_files_of_other_kinds_are_refused(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name in ("other.pt", "text.pt", "missing.pt"):
        with pytest.raises(UserError, match=name):
            load_checkpoint(tmp_path / name)


def test_learning_rates_follow_their_schedules():
    closed = tiny_params(optimizer__schedule="anneal", optimizer__learning_rate=1e-4, optimizer__anneal=1.1).optimizer
    assert [learning_rate(closed, epoch, 99, 1000) for epoch in (1, 2, 3)] == pytest.approx(
        [1e-4, 1e-4 / 1.1, 1e-4 / 1.21]
    )
    warm = tiny_params(optimizer__warmup_steps=10, optimizer__learning_rate=1.0, optimizer__final_share=0.1).optimizer
    rates = [learning_rate(warm, 1, step, 110) for step in (0, 4, 9, 10, 60, 110, 500)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.55, 0.1, 0.1])
