"""The inference benchmark: every argument has its effect, figures are consistent, padding changes nothing."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmark import mllog
from common.errors import UserError
from datasets.dataset import Dataset, Split, write_description
from reference_model import infer, untimed
from reference_model.checkpoints.checkpoint_files import checkpoint_path
from reference_model.checkpoints.loading import load_trained
from reference_model.checkpoints.training_state import load_checkpoint
from reference_model.inference.engine_choice import open_engine
from reference_model.inference.engines import TorchEngine
from reference_model.inference.inference_run import Plan, run
from reference_model.inference.latency import STAGES
from reference_model.model.features import Features
from reference_model.model.greedy import greedy
from results.compare import main as compare
from tests.conftest import ROOT
from tests.support.corpus import tiny_corpus, tiny_params
from tests.support.training import arguments, train, training_in_process

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Dataset, Path]:
    """A tiny corpus, and a RESULTS_DIR with a training on it as the variant mini."""
    top = tmp_path_factory.mktemp("infer")
    corpus = tiny_corpus(top / "tiny", train=48, val=9)
    run_dir = top / "runs" / "train" / "mini"
    changes = {"model__rnn_hidden": 32, "train__max_epochs": 2}
    train(arguments(corpus.folder, run_dir, "--epochs", "6", **changes))
    shutil.copy(checkpoint_path(run_dir, 6), checkpoint_path(run_dir, 20))
    return corpus, top / "runs"


@pytest.fixture
def infer_on(trained, tmp_path, monkeypatch):
    """Runs the benchmark on the tiny corpus; returns inference.json, and the rows of batches.csv and texts.csv."""
    corpus, runs = trained
    monkeypatch.setenv("RESULTS_DIR", str(runs))

    def call(*options: str, checkpoint: str = "20"):
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        common = ["--checkpoint", checkpoint, "--data", str(corpus.folder), "--device", "cpu", "--out", str(out)]
        assert infer.main([*common, "--variant", "mini", *options]) == 0
        rows = [list(csv.DictReader((out / name).open())) for name in ("batches.csv", "texts.csv")]
        return json.loads((out / "inference.json").read_text()), *rows

    return call


def test_untimed_training_can_go_beyond_target_and_last_epoch(trained):
    _, runs = trained
    assert load_checkpoint(checkpoint_path(runs / "train" / "mini", 6)).epoch == 6


def test_the_score_is_the_one_that_training_logged(trained, infer_on):
    corpus, runs = trained
    report, batches, texts = infer_on()
    assert report["score"]["wer"] == load_checkpoint(checkpoint_path(runs / "train" / "mini", 20)).wer
    assert report["score"]["wer"] == report["model"]["trained_wer"]
    assert report["utterances"] == len(batches) == len(texts) == len(corpus.manifest("val")) == 9
    assert report["options"]["warmup"] == 3


def test_epoch_chooses_the_checkpoint(infer_on):
    first, last = (infer_on(checkpoint=epoch)[0] for epoch in ("1", "20"))
    assert first["model"]["file"] == "epoch_01.pt"
    assert first["model"]["sha256"] != last["model"]["sha256"]
    assert first["score"] != last["score"]


def test_the_newest_run_of_the_variant_is_found(trained, infer_on):
    _, runs = trained
    newer = checkpoint_path(runs / "mini" / "host-cpu-20260101T000000Z-s1", 3)
    newer.parent.mkdir(parents=True)
    shutil.copy(checkpoint_path(runs / "train" / "mini", 5), newer)
    try:
        assert infer_on(checkpoint="3")[0]["model"]["epoch"] == 5
    finally:
        shutil.rmtree(runs / "mini")


def test_hold_index_runs_one_clip_repeatedly(trained, infer_on):
    corpus, _ = trained
    report, batches, texts = infer_on("--hold-index", "4", "--trials", "5")
    assert len(batches) == 5
    assert {row["utterance"] for row in texts} == {"4"}
    clip_s = corpus.manifest("val").utterances[4].duration_s
    assert report["audio_s"] == pytest.approx(5 * clip_s, abs=1e-3)
    assert infer_on("--hold-index", "4")[0]["batches"] == 9


def test_hold_seconds_divides_the_times_and_keeps_the_raw_ones(infer_on):
    report, batches, _ = infer_on("--hold-seconds", "2.5")
    latencies = [float(row["latency_s"]) for row in batches]
    assert report["times"]["latency_s"]["mean_s"] == pytest.approx(np.mean(latencies))
    assert report["times_divided"]["latency_s"]["p99_s"] == pytest.approx(np.percentile(latencies, 99) / 2.5)


def test_trials_limits_the_batches(infer_on):
    report, batches, _ = infer_on("--trials", "4")
    assert report["batches"] == len(batches) == 4
    report, batches, texts = infer_on("--trials", "2", "--scenario", "offline", "--batch-size", "3")
    assert (len(batches), len(texts)) == (2, 6)


@pytest.mark.parametrize(
    ("batch_size", "streams", "threads"),
    [("3", 2, 1), ("9", 1, 2)],
    ids=["as many batches at once as there are threads", "one batch has all threads"],
)
def test_the_offline_scenario_shares_the_threads_among_batches(infer_on, batch_size, streams, threads):
    report, batches, _ = infer_on("--threads", "2", "--scenario", "offline", "--batch-size", batch_size)
    assert (report["options"]["streams"], report["options"]["threads"]) == (streams, threads)
    assert [int(row["batch"]) for row in batches] == list(range(-(-9 // int(batch_size))))
    assert infer_on("--threads", "2")[0]["options"]["streams"] == 1


def test_a_failure_in_one_of_several_streams_ends_the_run(infer_on, trained):
    corpus, _ = trained
    manifest = corpus.manifest("val")
    broken = manifest.audio_path(manifest.utterances[4])
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(UserError, match="audio"):
            infer_on("--threads", "2", "--scenario", "offline", "--batch-size", "3")
    finally:
        broken.write_bytes(whole)


def test_percentiles_are_numpys_and_the_stages_sum_to_the_total(infer_on):
    report, batches, _ = infer_on()
    for name in ("latency_s", *STAGES):
        values = [float(row[name]) for row in batches]
        figures = report["times"][name]
        expected = np.percentile(values, (50, 90, 99)).tolist()
        assert [figures["p50_s"], figures["p90_s"], figures["p99_s"]] == pytest.approx(expected)
    stages_s = sum(report["times"][name]["sum_s"] for name in STAGES)
    assert stages_s == pytest.approx(report["times"]["latency_s"]["sum_s"], rel=0.02)
    assert report["times"]["latency_s"]["sum_s"] <= report["wall_s"]
    assert report["utterances_per_s"] == pytest.approx(9 / report["wall_s"])
    assert report["real_time_factor"] == pytest.approx(report["wall_s"] / report["audio_s"])


@pytest.mark.parametrize("changes", [{}, {"mask_padding": False}, {"bidirectional": False, "mask_padding": False}])
def test_a_batch_gives_each_utterance_the_text_it_gets_alone(trained, changes):
    """Whether the network was trained with masks or without, in one direction or two."""
    corpus, runs = trained
    known = load_trained(checkpoint_path(runs / "train" / "mini", 20))
    weights = {k: v for k, v in known.weights.items() if changes.get("bidirectional", True) or "_reverse" not in k}
    known = dataclasses.replace(known, model=dataclasses.replace(known.model, **changes), weights=weights)
    engine, features = TorchEngine(known, CPU, "fp32"), Features(known.features)
    manifest = corpus.manifest("train")
    offline = Plan(scenario="offline", batch_size=7, warmup=0)
    plans = Plan(warmup=0), offline, dataclasses.replace(offline, streams=3, warmup=2)
    alone, together, streams = (run(engine, features, greedy, manifest, plan) for plan in plans)
    assert alone.texts == together.texts == streams.texts
    assert [took.batch for took in streams.times] == [took.batch for took in together.times] == list(range(7))
    assert [took.clip_s for took in streams.times] == [took.clip_s for took in together.times]
    assert [index for index, _ in together.texts] == list(range(48))
    assert len({text for _, text in alone.texts}) > 10


def test_an_utterance_too_short_for_the_network_gives_an_empty_text(trained):
    _, runs = trained
    engine = TorchEngine(load_trained(checkpoint_path(runs / "train" / "mini", 20)), CPU, "fp32")
    for lengths in ((3,), (3, 90)):
        values, frames = engine(torch.randn(len(lengths), 161, max(lengths)), torch.tensor(lengths))
        assert frames[0] == 0
        assert greedy(values, frames)[0] == ""


def script(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "DEVICE": "cpu"} | environment
    command = ["sh", str(ROOT / "script" / name), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_test_sh_20_libri(trained, tmp_path, monkeypatch):
    """The README's command on a LibriSpeech of nine utterances: it runs on the part called test-clean."""
    corpus, runs = trained
    folder = tmp_path / "data" / "LibriSpeech_dataset"
    shutil.copytree(corpus.folder, folder)
    val = corpus.splits["val"]
    splits = {"test": Split(val.manifest, "", val.utterances, val.duration_s, 1)}
    archives: dict[str, object] = {"test-clean": "0" * 64}
    write_description(Dataset(folder, "LibriSpeech", "flac", splits, corpus.digest, {"archives": archives}))
    variables = {"RESULTS_DIR": str(tmp_path / "runs"), "DATA_DIR": str(tmp_path / "data")}
    shutil.copytree(runs / "train" / "mini", tmp_path / "runs" / "train" / "librispeech")
    done = script("test.sh", "20", "libri", "-1", "1", "-1", **variables)
    assert done.returncode == 0, done.stderr
    for word in ("WER", "CER", "mean", "p50", "p90", "p99", "utterances/s", "audio-seconds/s", "real time"):
        assert word in done.stdout
    found = list((tmp_path / "runs" / "inference").glob("*/inference.json"))
    assert len(found) == 1
    report = json.loads(found[0].read_text())
    assert report["dataset"]["split"] == "test"
    assert report["score"]["wer"] == report["model"]["trained_wer"]
    assert set(report["telemetry"]) >= {"gpus", "host", "trainer"}

    write_description(Dataset(folder, "LibriSpeech", "flac", splits, corpus.digest, {"archives": {"test-other": ""}}))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="clean_test"):
        infer.main(["--checkpoint", "20", "--data", "libri", "--device", "cpu"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("19", "DATA", "-1", "1", "-1"), "there are epochs 01, 02"),
        (("20", "nowhere", "-1", "1", "-1"), "no dataset"),
        (("20", "DATA", "9", "1", "-1"), "count from 0 to 8"),
        (("20", "DATA", "-1", "0", "-1"), "HOLD_SEC"),
        (("20", "DATA", "-1", "1", "0"), "N_TRIALS"),
        (("20", "DATA", "-1", "1", "-1", "--batch-size", "4"), "offline"),
        (("20", "DATA", "-1", "1", "-1", "--lm", "x.arpa"), "--decoder beam"),
        (
            ("20", "DATA", "-1", "1", "-1", "--decoder", "beam", "--lm-weight", "nan"),
            "--lm-weight: must be a finite number",
        ),
        (("20", "DATA", "-1", "1", "-1", "--engine", "onnx", "--precision", "bf16"), "ONNX Runtime runs in fp32"),
    ],
)
def test_wrong_arguments_are_reported(trained, arguments, message, monkeypatch):
    corpus, runs = trained
    monkeypatch.setenv("RESULTS_DIR", str(runs))
    values = [str(corpus.folder) if a == "DATA" else a for a in arguments]
    names = ("checkpoint", "data", "hold-index", "hold-seconds", "trials")
    options = [f"--{name}={value}" for name, value in zip(names, values, strict=False)]
    with pytest.raises(UserError, match=message):
        infer.main([*options, *values[5:], "--variant", "mini", "--device", "cpu"])


def test_test_sh_needs_all_five_arguments():
    done = script("test.sh", "20", "mini")
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


def test_a_manifest_of_two_columns_runs_in_its_own_order(trained, infer_on, tmp_path):
    corpus, _ = trained
    manifest = corpus.manifest("val")
    chosen = [manifest.utterances[i] for i in (5, 1, 7)]
    lines = []
    for number, utterance in enumerate(chosen):
        (tmp_path / f"{number}.txt").write_text(utterance.text.lower())
        lines.append(f"{manifest.audio_path(utterance)},{number}.txt\n")
    (tmp_path / "mine.csv").write_text("".join(lines))
    report, _, texts = infer_on("--data", str(tmp_path / "mine.csv"), "--scenario", "offline")
    assert [row["reference"] for row in texts] == [utterance.text for utterance in chosen]
    assert report["dataset"]["tree_sha256"] is None


def test_train_sh_starts_resumes_and_keeps_the_previous_training(trained, tmp_path, monkeypatch, capsys):
    corpus, _ = trained
    tiny_params(tmp_path / "params.yaml")
    options = ["--params", str(tmp_path / "params.yaml"), "--data", str(corpus.folder)]
    variables = {"RESULTS_DIR": str(tmp_path / "runs"), "SEED": "5"}
    done = script("train.sh", "new", *options, **variables, EPOCHS="1")
    assert done.returncode == 1, done.stderr
    events = [mllog.parse_line(line.encode()) for line in done.stdout.splitlines()]
    assert all(isinstance(event, mllog.Event) for event in events), done.stdout
    folder = tmp_path / "runs" / "train" / "mini"
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["epoch_01.pt"]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setenv("EPOCHS", "3")
    capsys.readouterr()
    with training_in_process():
        assert untimed.main(["1", *options]) == 1
    events = [mllog.parse_line(line) for line in capsys.readouterr().out.encode().splitlines()]
    assert [e.epoch_num for e in events if e.key == "eval_stop"] == [2, 3]
    assert load_checkpoint(checkpoint_path(folder, 3)).seed == 5
    with pytest.raises(UserError, match="there are epochs 01, 02, 03"):
        untimed.main(["8", *options])
    monkeypatch.setenv("EPOCHS", "1")
    with training_in_process():
        untimed.main(["new", *options])
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["epoch_01.pt"]
    assert len(list(folder.parent.glob("mini-until-*/checkpoints/epoch_03.pt"))) == 1


def test_compare_shows_inference_runs_in_a_table_of_their_own(infer_on, tmp_path, capsys):
    infer_on()
    capsys.readouterr()
    assert compare([str(tmp_path), "--width", "130"]) == 0
    text = capsys.readouterr().out
    assert "Inference runs" in text and "p99 ms" in text and "single x1" in text and "MLPerf-style" in text
    assert compare([str(tmp_path), "--format", "json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["rows"] == [] and tree["inference"][0]["utterances"] == 9
    assert compare([str(tmp_path), "--format", "csv"]) == 0
    assert next(csv.DictReader(capsys.readouterr().out.splitlines()))["batch_size"] == "1"
    for width in (20, 60, 80):
        compare([str(tmp_path), "--width", str(width)])
        table = [line for line in capsys.readouterr().out.splitlines() if "file:" not in line]
        assert max(map(len, table)) <= max(width, 60)
    broken = next(tmp_path.glob("out-*/inference.json"))
    broken.write_text("{")
    assert compare([str(tmp_path)]) == 2
    assert "not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weight: weight.tolist(), "not a plain tensor"),
        (lambda weight: weight.to_sparse(), "not a plain tensor"),
        (lambda weight: weight * float("nan"), "not numbers"),
        (lambda weight: weight[:1], "shape"),
    ],
)
def test_damaged_weights_are_refused(trained, tmp_path, damage, message):
    from reference_model.checkpoints.loading import import_file

    _, runs = trained
    tree = torch.load(checkpoint_path(runs / "train" / "mini", 20), weights_only=True)
    tree["model"]["fc.0.module.1.weight"] = damage(tree["model"]["fc.0.module.1.weight"])
    torch.save(tree, tmp_path / "damaged.pt")
    with pytest.raises(UserError, match=message):
        open_engine(tmp_path / "damaged.pt", "auto", CPU)
    with pytest.raises(UserError, match=message):
        import_file(tmp_path / "damaged.pt", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_empty_audio_in_a_manifest_is_named(trained, infer_on, tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    (tmp_path / "text.txt").write_text("a")
    (tmp_path / "mine.csv").write_text("none.wav,text.txt\n")
    with pytest.raises(UserError, match=r"mine\.csv:1: .*is empty"):
        infer_on("--data", str(tmp_path / "mine.csv"))
