"""ONNX export: the same outputs as PyTorch for any batch, the metadata, and the cost of quantisation."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch

from common.errors import UserError
from datasets.geometry import output_frames
from reference_model import export_onnx, infer
from reference_model.checkpoints.checkpoint_files import checkpoint_path
from reference_model.checkpoints.loading import load_trained
from reference_model.checkpoints.training_state import save_checkpoint
from reference_model.inference import engine_choice, onnx_conversion
from reference_model.inference.engine_choice import choose_engine, open_engine
from reference_model.inference.engines import OnnxEngine, TorchEngine, open_session, trained_from_onnx
from reference_model.inference.inference_run import Plan, run
from reference_model.model.features import Features
from reference_model.model.greedy import greedy
from tests.conftest import ROOT
from tests.support.corpus import tiny_corpus, tiny_params
from tests.support.training import train
from tests.training.test_checkpoint import make_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = checkpoint_path(tmp_path_factory.mktemp("export"), 3)
    save_checkpoint(make_checkpoint(), path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint):
    path = checkpoint.with_suffix(".onnx")
    assert export_onnx.main([str(checkpoint), "--out", str(path)]) == 0
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".onnx"] == [path.name]
    return path


@pytest.mark.parametrize("batch", range(1, 9))
def test_any_batch_gives_the_same_outputs_as_pytorch(checkpoint, exported, batch):
    rng = torch.Generator().manual_seed(batch)
    frames = torch.randint(31, 900, (batch,), generator=rng)
    features = torch.randn(batch, 161, int(frames.max()), generator=rng)
    features *= torch.arange(features.shape[2]) < frames[:, None, None]
    (expected, kept), (found, found_kept) = (
        engine(features, frames)
        for engine in (TorchEngine(load_trained(checkpoint), CPU, "fp32"), OnnxEngine(exported, CPU))
    )
    assert torch.equal(kept, found_kept)
    for row, length in enumerate(kept.tolist()):
        torch.testing.assert_close(found[:length, row], expected[:length, row], rtol=0, atol=1e-4)
    assert greedy(found, kept) == greedy(expected, kept)


@pytest.mark.parametrize(
    "changes",
    [
        {"bidirectional": False, "mask_padding": False},
        {"bidirectional": False, "mask_padding": False, "batch_norm_between": False, "rnn_hidden": 300},
        {"batch_norm_between": False, "mask_padding": False},
        {"rnn_layers": 3},
    ],
)
def test_other_shapes_of_the_network_export_too(tmp_path, changes):
    from reference_model.checkpoints.trained_network import Trained
    from reference_model.model.network import DeepSpeech2

    params = tiny_params(**{f"model__{name}": value for name, value in changes.items()})
    trained = Trained(params.model, params.features, "fp32", unlike_new(DeepSpeech2(params.model, 161)), "made", "0")
    assert onnx_conversion.export(trained, tmp_path / "m.onnx") <= 1e-4


def unlike_new(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights whose BatchNorms have statistics of data: those of a new network are the identity."""
    generator = torch.Generator().manual_seed(1)
    weights = network.state_dict()
    for name, tensor in weights.items():
        if name.endswith(("running_mean", "running_var")) or (".batch_norm." in name and tensor.is_floating_point()):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return weights


def test_few_feature_bins_are_padded_as_in_pytorch(tmp_path):
    """MFCC has fewer bins than the convolutions need."""
    from benchmark.params import FeatureParams
    from reference_model.checkpoints.trained_network import Trained
    from reference_model.model.network import DeepSpeech2

    params = tiny_params()
    cepstra = dataclasses.replace(params.features, kind="mfcc", mfcc_coefficients=40)
    assert isinstance(cepstra, FeatureParams)
    bins = Features(cepstra).bins
    assert bins == 40
    trained = Trained(params.model, cepstra, "fp32", DeepSpeech2(params.model, bins).state_dict(), "made", "0")
    assert onnx_conversion.export(trained, tmp_path / "m.onnx") <= 1e-4


def test_output_frames_are_the_networks_for_any_length(checkpoint, exported):
    frames = np.arange(1, 120)
    features = np.zeros((len(frames), 161, 119), np.float32)
    found = open_session(exported).run(["output_frames"], {"features": features, "frames": frames})[0]
    assert found.tolist() == [output_frames(int(n)) for n in frames]


def test_a_graph_that_is_not_what_its_metadata_say_is_refused(exported, tmp_path):
    """Another network's inputs under our metadata, and our inputs over weights of another shape."""
    renamed, cut = onnx.load(exported), onnx.load(exported)
    renamed.graph.input[0].name = "waveform"
    for node in renamed.graph.node:
        for number, name in enumerate(node.input):
            node.input[number] = "waveform" if name == "features" else name
    onnx.save(renamed, tmp_path / "renamed.onnx")
    with pytest.raises(UserError, match="inputs and outputs differ"):
        open_engine(tmp_path / "renamed.onnx", "auto", CPU)
    about = {p.key: p.value for p in cut.metadata_props}
    features = json.loads(about["features"]) | {"window_s": 0.04}
    onnx.helper.set_model_props(cut, about | {"features": json.dumps(features)})
    onnx.save(cut, tmp_path / "cut.onnx")
    opened = open_engine(tmp_path / "cut.onnx", "auto", CPU)
    bins = Features(opened.trained.features).bins
    with pytest.raises(UserError, match=r"cut\.onnx.*cannot run it"):
        opened.engine(torch.zeros(1, bins, 90), torch.tensor([90]))


def test_the_metadata_describe_the_network(checkpoint, exported):
    about, known = trained_from_onnx(exported), load_trained(checkpoint)
    assert (about.features, about.model, about.wer, about.epoch) == (known.features, known.model, known.wer, 3)
    assert about.source_sha256 == known.source_sha256
    properties = {p.key: p.value for p in onnx.load(exported).metadata_props}
    assert properties["labels"] == "_'ABCDEFGHIJKLMNOPQRSTUVWXYZ "
    assert onnx.load(exported).opset_import[0].version == onnx_conversion.OPSET


def test_a_file_that_differs_is_not_written(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_conversion, "largest_difference", lambda *_: float("nan"))
    assert export_onnx.main([str(checkpoint), "--out", str(tmp_path / "m.onnx")]) == 1
    assert "differ" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_check_sees_wrong_weights(checkpoint, exported, tmp_path):
    model = onnx.load(exported)
    weight = next(tensor for tensor in model.graph.initializer if "GRU" in tensor.name or len(tensor.dims) == 3)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.5
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    assert onnx_conversion.largest_difference(load_trained(checkpoint), tmp_path / "wrong.onnx") > 1e-4


def test_int8_reports_its_cost_in_wer(checkpoint, tmp_path, capsys):
    corpus = tiny_corpus(tmp_path / "tiny")
    out = tmp_path / "small.onnx"
    assert export_onnx.main([str(checkpoint), "--out", str(out), "--int8", "--data", str(corpus.folder)]) == 0
    assert "int8" in capsys.readouterr().out
    assert OnnxEngine(out, CPU).precision == "int8"
    features, frames = torch.randn(3, 161, 300), torch.tensor([300, 120, 200])
    expected, kept = TorchEngine(load_trained(checkpoint), CPU, "fp32")(features, frames)
    found, _ = OnnxEngine(out, CPU)(features, frames)
    difference = max(float((found[:n, i] - expected[:n, i]).abs().max()) for i, n in enumerate(kept.tolist()))
    assert 1e-5 < difference < 0.3
    properties = {p.key: p.value for p in onnx.load(out).metadata_props}
    assert float(properties["int8_wer"]) >= 0 and properties["int8_measured_on"] == "tiny"


def test_the_benchmark_runs_it_from_a_file_and_from_a_checkpoint(checkpoint, exported, tmp_path):
    corpus = tiny_corpus(tmp_path / "tiny")
    scores, reasons = [], []
    chosen = [(exported, ()), (checkpoint, ("--engine", "onnx")), (checkpoint, ("--engine", "torch")), (checkpoint, ())]
    for number, (path, options) in enumerate(chosen):
        out = tmp_path / f"out{number}"
        line = ["--checkpoint", str(path), "--data", str(corpus.folder), "--device", "cpu", "--out", str(out), *options]
        assert infer.main(line) == 0
        report = json.loads((out / "inference.json").read_text())
        assert report["options"]["engine"] == ("torch" if number == 2 else "onnx")
        reasons.append(report["options"]["engine_because"])
        scores.append((report["score"], (out / "texts.csv").read_text()))
    assert reasons == ["an ONNX file", "asked for", "asked for", "the faster one on a CPU"]
    assert scores.count(scores[0]) == 4


def test_the_default_engine_is_pytorch_where_onnx_runtime_is_not_the_faster_one(checkpoint, monkeypatch):
    trained = load_trained(checkpoint)
    assert choose_engine(trained, torch.device("cuda"), "fp32")[0] == "torch"
    assert choose_engine(trained, CPU, "bf16")[0] == "torch"
    large = {"rnns.0.rnn.weight_hh_l0": torch.empty(1 << 29, device="meta")}
    assert choose_engine(dataclasses.replace(trained, weights=large), CPU, "fp32")[0] == "torch"
    assert open_engine(checkpoint, "auto", CPU, "bf16").engine.precision == "bf16"
    monkeypatch.setattr(engine_choice.importlib.util, "find_spec", lambda name: None)
    opened = open_engine(checkpoint, "auto", CPU)
    assert opened.engine.name == "torch" and "not installed" in opened.reason


def test_other_files_are_refused(checkpoint, tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    onnx.save(model, tmp_path / "foreign.onnx")
    for name in ("text.onnx", "foreign.onnx", "missing.onnx"):
        with pytest.raises(UserError, match=name):
            open_engine(tmp_path / name, "onnx", CPU)
    with pytest.raises(UserError, match=r"\.onnx"):
        export_onnx.main([str(checkpoint), "--out", str(tmp_path / "model.bin")])


@pytest.mark.long
def test_letter_for_letter_on_the_mini_validation_set(tmp_path):
    """With a trained network: two epochs of mini on the synthesised corpus."""
    from reference_model.inference.locate import find_clips

    clips = find_clips("mini", None, ROOT / "data", print)
    folder = str(ROOT / "data" / "mini")
    command = ["--params", str(ROOT / "benchmark/variants/mini.yaml"), "--data", folder, "--run-dir", str(tmp_path)]
    train([*command, "--seed", "1", "--device", "cpu", "--epochs", "2"])
    trained = load_trained(checkpoint_path(tmp_path, 2))
    onnx_conversion.export(trained, tmp_path / "m.onnx")
    texts = []
    for engine, batch_size in ((TorchEngine(trained, CPU, "fp32"), 8), (OnnxEngine(tmp_path / "m.onnx", CPU), 5)):
        plan = Plan(scenario="offline", batch_size=batch_size, warmup=0)
        texts.append(run(engine, Features(trained.features), greedy, clips.manifest, plan))
    assert texts[0].texts == texts[1].texts
    assert texts[0].score(clips.manifest).wer == pytest.approx(trained.wer)
    assert np.isfinite(texts[0].wall_s)
