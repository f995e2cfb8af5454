"""Checkpoints: everything saved is loaded again, writes are atomic, and no file can make us run its code."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from reference_model.checkpoints.checkpoint_files import checkpoint_path
from reference_model.checkpoints.loading import load_trained
from reference_model.checkpoints.training_state import Checkpoint, load_checkpoint, save_checkpoint
from reference_model.model.network import DeepSpeech2
from reference_model.training.optim import build_optimizer, learning_rate
from tests.support.corpus import tiny_params


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


def test_everything_that_is_saved_is_loaded_again(tmp_path):
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
def test_a_truncated_file_is_refused(tmp_path, share):
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


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> list[bytes]:
    """A complete checkpoint as PyTorch writes it, one in PyTorch's old format, and the pickled contents of the first."""
    path = tmp_path_factory.mktemp("forms") / "epoch_01.pt"
    save_checkpoint(make_checkpoint(), path)
    old = io.BytesIO()
    torch.save(torch.load(path, weights_only=True), old, _use_new_zipfile_serialization=False)
    return [path.read_bytes(), old.getvalue(), _contents(path.read_bytes())]


def _contents(whole: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _with_contents(whole: bytes, contents: bytes) -> bytes:
    """`whole` with other pickled contents and matching checksums: damage that its container does not show."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(out, "w") as changed:
        for name in archive.namelist():
            changed.writestr(name, contents if name.endswith("data.pkl") else archive.read(name))
    return out.getvalue()


@settings(max_examples=150, deadline=None)
@given(form=st.integers(0, 2), place=st.floats(0, 1), cut=st.integers(0, 40), junk=st.binary(max_size=40))
def test_any_damage_is_a_user_error_or_harmless(forms, tmp_path_factory, form, place, cut, junk):
    at = int(place * len(forms[form]))
    data = forms[form][:at] + junk + forms[form][at + cut :]
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(_with_contents(forms[0], data) if form == 2 else data)
    for load in (load_checkpoint, load_trained):
        with contextlib.suppress(UserError):
            load(path)


@pytest.mark.parametrize("name", ["epoch", "model", "optimizer"])
def test_a_checkpoint_without_a_value_is_refused_with_its_name(tmp_path, name):
    path = tmp_path / "epoch_01.pt"
    save_checkpoint(make_checkpoint(), path)
    tree = torch.load(path, weights_only=True)
    for changed in (tree | {name: "0"}, {key: value for key, value in tree.items() if key != name}):
        torch.save(changed, path)
        with pytest.raises(UserError, match=rf"epoch_01\.pt: {name}: the checkpoint of this trainer is damaged"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("version", "message"),
    [(3, "of version 3; this program reads versions up to 2"), ("two", "its schema_version is 'two'"), (None, "not a")],
)
def test_a_checkpoint_of_a_later_version_is_refused_with_its_version(tmp_path, version, message):
    path = tmp_path / "epoch_01.pt"
    save_checkpoint(make_checkpoint(), path)
    tree = torch.load(path, weights_only=True) | {"schema_version": version, "format": version}
    torch.save({key: value for key, value in tree.items() if value is not None}, path)
    with pytest.raises(UserError, match=message):
        load_checkpoint(path)


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
