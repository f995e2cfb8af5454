"""Packages of the MLPerf reference and of TBD: read as data, the same logits as a hand-built network, every fault named."""

from __future__ import annotations

import json
import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from common.errors import UserError
from reference_model.checkpoint import main
from reference_model.checkpoints.loading import load_trained
from reference_model.checkpoints.training_state import save_checkpoint
from reference_model.inference.engines import TorchEngine
from tests.training.test_checkpoint import make_checkpoint

CPU = torch.device("cpu")
LABELS = ["_", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", " "]


class ByHand(nn.Module):
    """The reference's network by its definition, with its names and none of our code."""

    def __init__(self, hidden: int = 24, layers: int = 3, bidirectional: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 32, (41, 11), stride=(2, 2)), nn.BatchNorm2d(32), nn.Hardtanh(0, 20),
            nn.Conv2d(32, 32, (21, 11), stride=(2, 1)), nn.BatchNorm2d(32), nn.Hardtanh(0, 20),
        )  # fmt: skip

        def layer(inputs: int) -> nn.Module:
            module = nn.Module()
            module.rnn = nn.GRU(inputs, hidden, bidirectional=bidirectional)
            return module

        self.rnns = nn.Sequential(*(layer(672 if number == 0 else hidden) for number in range(layers)))
        wrapped = nn.Module()
        wrapped.module = nn.Sequential(nn.BatchNorm1d(hidden), nn.Linear(hidden, 29, bias=False))
        self.fc = nn.Sequential(wrapped)

    def forward(self, features):
        x = self.conv(features[:, None])
        x = x.view(x.shape[0], 672, x.shape[3]).permute(2, 0, 1)
        for layer in self.rnns:
            x, _ = layer.rnn(x)
            if layer.rnn.bidirectional:
                x = x.view(*x.shape[:2], 2, -1).sum(2)
        frames, batch, hidden = x.shape
        return self.fc[0].module(x.reshape(-1, hidden)).view(frames, batch, 29)


def package(network: nn.Module, prefix: str = "", **changes) -> dict:
    """A package as the reference's DeepSpeech.serialize makes it, with its history."""
    state = OrderedDict((prefix + name, value) for name, value in network.state_dict().items())
    return {
        "version": "0.0.1",
        "hidden_size": 24,
        "hidden_layers": 3,
        "rnn_type": "gru",
        "audio_conf": {"sample_rate": 16000, "window_size": 0.02, "window_stride": 0.01, "window": "hamming",
                       "noise_dir": None, "noise_prob": 0.4, "noise_levels": (0.0, 0.5)},
        "labels": LABELS,
        "state_dict": state,
        "optim_dict": torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9).state_dict(),
        "epoch": 20,
        "iteration": None,
        "loss_results": torch.zeros(20),
        "wer_results": [np.float64(33.7), np.float32(1.5)],
        "meta": None,
    } | changes  # fmt: skip


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = ByHand()
    network(torch.randn(4, 161, 80))  # BatchNorm's statistics are no longer zeros and ones
    return network.eval()


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("old", [False, True])
def test_the_same_logits_as_a_network_built_by_hand(network, tmp_path, prefix, old, capsys):
    torch.save(package(network, prefix), tmp_path / "deepspeech_20.pth.tar", _use_new_zipfile_serialization=not old)
    assert main(["import", str(tmp_path / "deepspeech_20.pth.tar"), "--out", str(tmp_path / "ds.safetensors")]) == 0
    assert "3 unidirectional GRU layers of 24" in capsys.readouterr().out
    features, frames = torch.randn(3, 161, 200), torch.tensor([200, 200, 200])
    with torch.no_grad():
        expected = network(features).log_softmax(2)
    for name in ("deepspeech_20.pth.tar", "ds.safetensors"):
        found, _ = TorchEngine(load_trained(tmp_path / name), CPU, "fp32")(features, frames)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    about = json.loads((tmp_path / "ds.json").read_text())
    assert about["model"]["rnn_hidden"] == 24 and about["epoch"] == 20 and len(about["labels"]) == 29


def test_the_bidirectional_network_of_the_readme(tmp_path):
    torch.manual_seed(0)
    network = ByHand(hidden=12, layers=5, bidirectional=True).eval()
    torch.save(package(network, hidden_size=12, hidden_layers=5), tmp_path / "five.pth")
    features = torch.randn(1, 161, 150)
    found, _ = TorchEngine(load_trained(tmp_path / "five.pth"), CPU, "fp32")(features, torch.tensor([150]))
    with torch.no_grad():
        torch.testing.assert_close(found, network(features).log_softmax(2), rtol=0, atol=1e-5)


def wrapped_by_ddp(network):
    """The weight names of DistributedDataParallel, which needs a process group only for training."""
    made = nn.Module()
    made.module = network
    return made


def compiled_in_part(network):
    network.rnns = torch.compile(network.rnns)
    network.fc[0] = torch.compile(network.fc[0])
    return network


def recomputed_in_part(network):
    network.rnns[1].rnn = checkpoint_wrapper(wrapped_by_ddp(network.rnns[1].rnn))
    return network


def in_lightning(network):
    made = nn.Module()
    made.model = torch.compile(network)
    return made


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        compiled_in_part,
        recomputed_in_part,
        in_lightning,
        lambda network: torch.compile(wrapped_by_ddp(network)),
        lambda network: wrapped_by_ddp(torch.compile(network)),
    ],
)
@pytest.mark.parametrize("container", [None, "state_dict", "model_state_dict", "model", "net", "module"])
def test_weights_of_a_wrapped_network_are_read(network, tmp_path, wrap, container):
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    state = wrap(network).state_dict()
    torch.save({container: state, "epoch": 7, "optimizer": {"state": {}}} if container else state, tmp_path / "w.pt")
    trained = load_trained(tmp_path / "w.pt")
    assert trained.epoch == (7 if container else None)
    assert trained.weights.keys() == expected.keys()
    assert all(torch.equal(trained.weights[name], value) for name, value in expected.items())


def test_names_that_could_mean_two_things_are_refused(network, tmp_path):
    state = network.state_dict()
    torch.save(state | {"_orig_mod.conv.0.bias": torch.zeros(32)}, tmp_path / "twice.pt")
    refused(tmp_path / "twice.pt", "conv.0.bias and _orig_mod.conv.0.bias are both the weight conv.0.bias")
    torch.save({"model": state, "net": state}, tmp_path / "two.pt")
    refused(tmp_path / "two.pt", r"several networks \(model, net\)")


def test_our_checkpoints_are_exported_as_safetensors(tmp_path):
    ours = make_checkpoint()
    save_checkpoint(ours, tmp_path / "epoch_03.pt")
    assert main(["import", str(tmp_path / "epoch_03.pt")]) == 0
    back = load_trained(tmp_path / "epoch_03.safetensors")
    assert (back.wer, back.epoch, back.variant) == (41.5, 3, "mini")
    assert all(torch.equal(back.weights[name], value) for name, value in ours.model.items())


@pytest.mark.parametrize("change", [{"schema_version": 3}, {"epoch": "three"}, {"optimizer": None}])
def test_a_damaged_checkpoint_of_ours_is_not_read_as_another_trainers(tmp_path, change):
    """Its parameters state what another trainer's file does not: the features of its network."""
    save_checkpoint(make_checkpoint(), tmp_path / "epoch_03.pt")
    tree = torch.load(tmp_path / "epoch_03.pt", weights_only=True)
    torch.save(tree | change, tmp_path / "epoch_03.pt")
    refused(tmp_path / "epoch_03.pt", "of version 3|is damaged")


def refused(path, message):
    with pytest.raises(UserError, match=message) as caught:
        load_trained(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS[::-1]}, "labels"),
        ({"rnn_type": "lstm"}, "lstm"),
        ({"hidden_size": 800}, "hidden_size"),
        ({"hidden_layers": 5}, "hidden_layers"),
        ({"state_dict": {}}, "state_dict"),
        ({"state_dict": {"conv.0.weight": 3}}, "state_dict"),
        ({"state_dict": {"a.weight": torch.zeros(2)}}, "DeepSpeech2's .* but a.weight"),
        ({"audio_conf": {"window": "hann"}}, "hann"),
        ({"audio_conf": {"sample_rate": 8000}}, "16000"),
        ({"audio_conf": {"window_size": "long"}}, "audio_conf"),
    ],
)
def test_unsupported_packages_are_named(network, tmp_path, changes, message):
    torch.save(package(network, **changes), tmp_path / "odd.pth")
    refused(tmp_path / "odd.pth", message)


def test_missing_misshapen_unknown_and_broken_weights_are_named(network, tmp_path):
    for name, change, message in (
        ("less", lambda s: s.pop("fc.0.module.1.weight"), "fc.0.module.1.weight is missing"),
        ("other", lambda s: s.update({"fc.0.module.1.weight": torch.zeros(29, 7)}), "shape"),
        ("more", lambda s: s.update({"lookahead.weight": torch.zeros(3)}), "lookahead.weight is not part of"),
        (
            "renamed",
            lambda s: s.update({f"dense.{name}": s.pop(f"fc.0.module.0.{name}") for name in ("weight", "bias")}),
            r"fc.0.module.0.weight is missing \(and 1 more\); the weight dense.bias is not part of .* \(and 1 more\)",
        ),
        ("lstm", lambda s: s.update({"rnns.0.rnn.weight_hh_l0": torch.zeros(96, 24)}), "LSTM"),
        ("nan", lambda s: s.update({"fc.0.module.1.weight": torch.full((29, 24), torch.nan)}), "not numbers"),
    ):
        made = package(network)
        change(made["state_dict"])
        torch.save(made, tmp_path / f"{name}.pth")
        refused(tmp_path / f"{name}.pth", message)


def test_truncated_hostile_and_foreign_files_are_refused_and_run_nothing(network, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save(package(network, meta=Hostile()), tmp_path / "hostile.pth")
    refused(tmp_path / "hostile.pth", "more than plain data")
    assert not (tmp_path / "ran").exists()
    torch.save(package(network), tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "short.pth", "not a complete checkpoint")
    torch.save([1, 2], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "state_dict")
    main(["import", str(tmp_path / "whole.pth"), "--out", str(tmp_path / "whole.safetensors")])
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-9])
    refused(tmp_path / "cut.safetensors", "not a complete safetensors file")
    refused(tmp_path / "none.safetensors", "no such")
