"""One optimizer step compared with written-out definitions of the closed model, its loss, gradient clipping and SGD."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.params import Params, load_variant
from common.errors import UserError
from reference_model.data.data_loader import Batch, Order, Recordings, loader, training_order
from reference_model.model.features import Features
from reference_model.model.network import DeepSpeech2
from reference_model.training.distributed import World
from reference_model.training.optim import build_optimizer, learning_rate
from reference_model.training.step import Readback, TrainState, TrainStep, train_epoch
from tests.support.corpus import tiny_corpus

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("data") / "tiny")


def closed(**optimizer: float) -> Params:
    """The closed variant, with a network small enough for a test; everything else is the reference's."""
    params = load_variant("librispeech")
    return dataclasses.replace(
        params,
        model=dataclasses.replace(params.model, conv_channels=2, rnn_hidden=16),
        optimizer=dataclasses.replace(params.optimizer, **optimizer),
    )


def batches_of(params: Params, corpus, epoch: int) -> list[Batch]:
    recordings = Recordings(corpus.manifest("train"), params.augment, seed=1)
    order = Order()
    order.set(epoch, training_order(params, recordings.samples, seed=1, epoch=epoch))
    return list(loader(recordings, order, workers=0, pin=False))


def step_of(params: Params, network: nn.Module) -> TrainStep:
    optimizer = build_optimizer(params.optimizer, network.parameters())
    return TrainStep(params, network, Features(params.features), optimizer, CPU, World(0, 0, 1))


class PlainReference(nn.Module):
    """The reference's network layer by layer, without masks: norms see padding too."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, channels, (41, 11), stride=(2, 2)),
            nn.BatchNorm2d(channels),
            nn.Hardtanh(0, 20),
            nn.Conv2d(channels, channels, (21, 11), stride=(2, 1)),
            nn.BatchNorm2d(channels),
            nn.Hardtanh(0, 20),
        )
        self.rnns = nn.ModuleList([nn.GRU(21 * channels, hidden), nn.GRU(hidden, hidden), nn.GRU(hidden, hidden)])
        self.norm = nn.BatchNorm1d(hidden)
        self.fc = nn.Linear(hidden, 29, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        x = self.conv(features[:, None])
        batch, channels, bins, frames = x.shape
        x = x.reshape(batch, channels * bins, frames).permute(2, 0, 1)
        for rnn in self.rnns:
            x, _ = rnn(x)
        frames, batch, hidden = x.shape
        return self.fc(self.norm(x.reshape(frames * batch, hidden))).view(frames, batch, 29)


def sgd_by_definition(weights: list[Tensor], gradients: list[Tensor], momenta: list[Tensor], rate: float) -> None:
    """Clip to a norm of 400, then SGD with Nesterov momentum 0.9 and no weight decay (Sutskever et al. 2013, in PyTorch's form)."""
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    scale = min(1.0, 400.0 / (float(norm) + 1e-6))
    for weight, gradient, momentum in zip(weights, gradients, momenta, strict=True):
        momentum.mul_(0.9).add_(gradient * scale)
        weight.sub_(rate * (gradient * scale + 0.9 * momentum))


@pytest.mark.parametrize("rate", [1e-4, 1e-3])
def test_the_closed_variant_trains_as_the_reference_is_defined(corpus, rate):
    """Three steps over two epochs: the same losses, weights and running statistics as from the plain definitions.

    At the higher rate the steps are large enough for a wrong gradient to show in the weights at once.
    """
    params = closed(learning_rate=rate)
    torch.manual_seed(3)
    network = DeepSpeech2(params.model, 161)
    plain = PlainReference(2, 16)
    for ours, theirs in zip(network.state_dict().values(), plain.state_dict().values(), strict=True):
        assert ours.shape == theirs.shape
        theirs.copy_(ours)
    step, features = step_of(params, network), Features(params.features)
    weights = list(plain.parameters())
    momenta = [torch.zeros_like(weight) for weight in weights]
    first, second = batches_of(params, corpus, 1), batches_of(params, corpus, 2)
    for epoch, batch in ((1, first[0]), (1, first[2]), (2, second[1])):
        loss, finite = step(batch, learning_rate(params.optimizer, epoch, 0, 1))
        assert finite

        values, frames = features(batch.waveforms, batch.samples)
        log_probabilities = plain(values).log_softmax(2)
        output_frames = (frames - 11) // 2 + 1 - 10
        labels = batch.labels.split(batch.label_lengths.tolist())
        plain_loss = sum(
            functional.ctc_loss(log_probabilities[:count, i], labels[i], count, torch.tensor(len(labels[i])), 0, "sum")
            for i, count in enumerate(output_frames)
        )
        torch.testing.assert_close(loss, plain_loss.detach(), rtol=1e-4, atol=0)
        gradients = torch.autograd.grad(plain_loss / 8, weights)
        with torch.no_grad():
            sgd_by_definition(weights, list(gradients), momenta, rate / 1.1 ** (epoch - 1))
        for (name, ours), theirs in zip(network.state_dict().items(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(
                ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
            # Continue from the same weights: rounding that moves an activation across Hardtanh's bounds changes a
            # gradient.
            theirs.copy_(ours)


def with_nan_samples(batch: Batch) -> Batch:
    return dataclasses.replace(batch, waveforms=batch.waveforms * float("nan"))


def with_more_labels_than_frames(batch: Batch) -> Batch:
    """CTC has no path for it: the loss is infinite, which the MLPerf reference displayed as 0 and still trained on."""
    first = int(batch.label_lengths[0])
    labels = torch.cat([torch.full((999,), 2, dtype=batch.labels.dtype), batch.labels[first:]])
    return dataclasses.replace(
        batch, labels=labels, label_lengths=torch.cat([torch.tensor([999]), batch.label_lengths[1:]])
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("corrupt", [with_nan_samples, with_more_labels_than_frames])
def test_a_step_that_is_not_finite_leaves_weights_and_optimizer_unchanged(corpus, optimizer, corrupt):
    params = closed(name=optimizer)
    network = DeepSpeech2(params.model, 161)
    step = step_of(params, network)
    good, other, *_ = batches_of(params, corpus, 1)
    _, finite = step(good, 1e-3)
    assert finite
    before = [weight.detach().clone() for weight in network.parameters()]
    state = [
        {name: item.clone() for name, item in entry.items() if isinstance(item, Tensor)}
        for entry in step.optimizer.state.values()
    ]
    _, finite = step(corrupt(other), 1e-3)
    assert not finite
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
    for old, new in zip(state, step.optimizer.state.values(), strict=True):
        assert all(torch.equal(item, new[name]) for name, item in old.items())


@pytest.mark.parametrize("place", [0, 1, -1])
def test_an_epoch_stops_at_a_step_that_is_not_finite_and_names_it(corpus, place):
    params = closed()
    batches = batches_of(params, corpus, 1)
    batches[place] = with_nan_samples(batches[place])
    number = place % len(batches) + 1
    step = step_of(params, DeepSpeech2(params.model, 161))
    with pytest.raises(UserError, match=rf"epoch 1, step {number}: .*not finite"):
        train_epoch(step, batches, 1, len(batches), TrainState(), lambda done, note: None)
    assert all(torch.isfinite(weight).all() for weight in step.network.parameters())


def test_a_first_step_that_is_not_finite_does_not_affect_the_second(corpus):
    """The second step is queued before the first is checked: it must be the same as without the first."""
    params = closed()
    good, other, *_ = batches_of(params, corpus, 1)
    weights = []
    for batches in ((good,), (with_nan_samples(other), good)):
        torch.manual_seed(0)
        network = DeepSpeech2(params.model, 161)
        step = step_of(params, network)
        for batch in batches:
            step(batch, 1e-3)
        weights.append(list(network.parameters()))
    assert all(torch.equal(plain, after) for plain, after in zip(*weights, strict=True))


def test_each_loss_is_read_after_the_next_step_is_queued(corpus, monkeypatch):
    """On a GPU, reading waits for that step while the device runs the next one."""
    params = closed()
    batches = batches_of(params, corpus, 1)
    step = step_of(params, DeepSpeech2(params.model, 161))
    course: list[str] = []
    queue, read, start_copy = TrainStep.__call__, Readback.read, Readback.__init__
    monkeypatch.setattr(TrainStep, "__call__", lambda *given: (course.append("step"), queue(*given))[1])
    monkeypatch.setattr(Readback, "__init__", lambda *given: (course.append("copy"), start_copy(*given))[1])
    monkeypatch.setattr(Readback, "read", lambda readback: (course.append("read"), read(readback))[1])
    train_epoch(step, batches, 1, len(batches), TrainState(), lambda done, note: None)
    assert course == ["step", "copy", *(["step", "copy", "read"] * (len(batches) - 1)), "read"]


def test_a_batch_of_weight_zero_has_no_loss_and_no_gradient(corpus):
    params = closed()
    network = DeepSpeech2(params.model, 161)
    step = step_of(params, network)
    before = [weight.detach().clone() for weight in network.parameters()]
    loss, finite = step(dataclasses.replace(batches_of(params, corpus, 1)[0], weight=0.0), 1.0)
    assert (float(loss), bool(finite)) == (0.0, True)
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
