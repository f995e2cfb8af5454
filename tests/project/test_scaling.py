"""The scaling runs of `synthetic`: their parameters, their table and picture, and the trainers that must miss its target."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import runpy
from xml.etree import ElementTree

import pytest
import torch

from benches import curves
from benchmark import mllog
from benchmark.params import load_params, load_variant
from reference_model.checkpoints.checkpoint_files import checkpoint_path
from reference_model.checkpoints.training_state import load_checkpoint
from reference_model.model.features import Features
from reference_model.model.network import DeepSpeech2
from reference_model.training import step, training_run
from tests.conftest import ROOT
from tests.support.corpus import tiny_corpus, tiny_params
from tests.support.logs import FakeRun, written
from tests.support.training import arguments, train, training_in_process

SCALING = ROOT / "benches" / "scaling"
SCALED = {
    "variant", "division", "data.folder", "model.conv_channels", "model.rnn_hidden", "optimizer.learning_rate",
    "train.batch_size", "train.eval_batch_size", "train.precision",
}  # fmt: skip


@pytest.mark.parametrize("width", [160, 320, 640])
def test_a_narrow_run_differs_from_the_variant_in_its_size_alone(width):
    narrow, full = load_params(SCALING / f"width_{width}.yaml").flat(), load_variant("synthetic").flat()
    assert {key for key in full if narrow[key] != full[key]} == SCALED
    # The rate falls with the width.
    assert narrow["optimizer.learning_rate"] * narrow["model.rnn_hidden"] == pytest.approx(0.64)


def test_the_throughput_run_is_the_reference_network_for_two_epochs():
    throughput, reference = load_params(ROOT / "benches" / "throughput.yaml").flat(), load_variant("librispeech").flat()
    assert {key for key in reference if throughput[key] != reference[key]} == {
        "variant", "division", "data.folder", "train.batch_size", "train.eval_batch_size", "train.max_epochs",
        "train.target_wer", "train.precision",
    }  # fmt: skip


# The table and the picture


def test_logs_become_a_table_and_a_picture(tmp_path):
    mistaken = FakeRun(seed=2, word_edits=(1290, 1280)).write()
    line = json.loads(mistaken[0].split(":::MLLOG")[1])
    mistaken.insert(1, f":::MLLOG {json.dumps(line | {'key': 'mistake', 'value': 'wrong blank'})}")
    for name, lines in (("right", FakeRun(seed=1, word_edits=(1000, 290)).write()), ("wrong", mistaken)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.txt").write_bytes(written(lines))
    table, picture = tmp_path / "curves.csv", tmp_path / "curves.svg"
    assert curves.main([str(tmp_path), "--out", str(table), "--picture", str(picture)]) == 0
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [(row["seed"], row["mistake"], row["epoch"], row["status"]) for row in rows] == [
        ("1", "", "1", "success"), ("1", "", "2", "success"),
        ("2", "wrong blank", "1", "aborted"), ("2", "wrong blank", "2", "aborted"),
    ]  # fmt: skip
    assert int(rows[1]["steps"]) == 2 * int(rows[0]["steps"]) > 0 and float(rows[1]["wer"]) < 23 < float(rows[0]["wer"])
    svg = ElementTree.fromstring(picture.read_text())
    drawn = [each.get("class") for each in svg.iter() if each.tag.endswith("polyline")]
    assert drawn == ["curve s0", "curve s1"]
    assert "width 128, a mistake" in picture.read_text()


def test_missing_runs_and_incomplete_logs_are_reported(tmp_path, capsys):
    assert curves.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: there is no run here\n"
    (tmp_path / "result.txt").write_text("nothing\n")
    assert curves.main([str(tmp_path)]) == 2
    assert "result.txt: the log has no hyperparameters" in capsys.readouterr().err


def test_the_committed_curves_hold_what_the_docs_say():
    """Three runs each at widths 160 and 320 and one at 640 reached the target within 3 to 8 epochs; three mistakes missed it."""
    ends: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for row in csv.DictReader((SCALING / "curves.csv").open()):
        ends[row["hidden"], row["precision"], row["seed"], row["mistake"]] = row
    right = {key: row for key, row in ends.items() if key[1] == "fp32" and not key[3]}
    assert sorted(key[0] for key in right) == ["160"] * 3 + ["320"] * 3 + ["640"]
    for row in right.values():
        assert row["status"] == "success" and float(row["wer"]) <= 23.0 and 3 <= int(row["epoch"]) <= 8
    missed = {key[3] for key, row in ends.items() if key[3] and row["status"] == "aborted" and row["epoch"] == "8"}
    assert missed == {"wrong blank", "neighbours features", "shuffled transcripts"}
    assert min(float(row["wer"]) for key, row in ends.items() if key[3] in missed) > 90


# The mistakes


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("data") / "tiny").folder


OPTIONS = ("--workers", "0", "--epochs", "1")


@pytest.fixture(scope="module")
def correct_loss(corpus, tmp_path_factory) -> float:
    """The loss after one epoch of the correct trainer."""
    done = train(arguments(corpus, tmp_path_factory.mktemp("correct"), *OPTIONS, model__rnn_layers=2))
    return done.losses[0]


def train_with_mistake(module: str, argv: list[str], monkeypatch) -> list[mllog.Event]:
    """Train in this process with a module of benches.mistakes; returns the log's events."""
    # What the mistakes replace, registered so that it is restored.
    for owner, name in (
        (step, "BLANK"), (Features, "forward"), (step.TrainStep, "__call__"), (training_run, "DeepSpeech2"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr("sys.argv", ["trainer", *argv])
    out = io.StringIO()
    with training_in_process(), contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
        runpy.run_module(f"benches.mistakes.{module}", run_name="__main__")
    assert end.value.code == 1
    return [mllog.parse_line(line.encode()) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("module", ["wrong_blank", "neighbours_features", "shuffled_transcripts", "frozen_layer"])
def test_a_mistake_is_named_in_the_log_and_changes_the_training(corpus, correct_loss, tmp_path, monkeypatch, module):
    argv = arguments(corpus, tmp_path, *OPTIONS, model__rnn_layers=2)
    events = train_with_mistake(module, argv, monkeypatch)
    assert [event.value for event in events if event.key == curves.MISTAKE] == [module.replace("_", " ")]
    (stats,) = [event.value for event in events if event.key == mllog.TRACKED_STATS]
    assert stats["train_loss"] != correct_loss
    torch.manual_seed(1)
    initial = DeepSpeech2(tiny_params(model__rnn_layers=2).model, 161).state_dict()
    weights = load_checkpoint(checkpoint_path(tmp_path, 1)).model
    kept = {key.split(".")[1] for key in weights if key.startswith("rnns") and torch.equal(weights[key], initial[key])}
    assert kept == ({"1"} if module == "frozen_layer" else set())
