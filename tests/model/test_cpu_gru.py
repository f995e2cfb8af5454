"""The CPU GRU compared with PyTorch's: outputs, all gradients, and when the network uses it."""

from __future__ import annotations

import dataclasses
import math
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmark.params import load_variant
from reference_model.model import cpu_gru
from reference_model.model.cpu_gru import gru
from reference_model.model.layers import Padding, RecurrentLayer, Stack
from reference_model.model.network import DeepSpeech2
from tests.support.corpus import tiny_params

BOUNDS = {torch.float64: 1e-10, torch.float32: 2e-5}
"""Largest difference from PyTorch's GRU, absolute and relative, over a few tens of frames."""
LENGTHS = [[1], [9], [40, 40, 40], [1, 1], [12, 7, 1], [30, 12, 30, 2]]
"""Frames of the utterances, for one batch each."""


def same(ours: list[Tensor], theirs: list[Tensor], dtype: torch.dtype) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=BOUNDS[dtype], rtol=BOUNDS[dtype])


def outcome(y: Tensor, gradient: Tensor, sources: list[Tensor]) -> list[Tensor]:
    """`y`, and the gradients of its sources for the output gradient `gradient`."""
    return [y.detach(), *torch.autograd.grad(y, sources, gradient)]


@pytest.fixture(params=["few weights", "many weights"])
def products(request, monkeypatch):
    """Both ways of multiplying a frame with the weights, regardless of the number of weights."""
    monkeypatch.setattr(cpu_gru, "LARGE", 0 if request.param == "many weights" else math.inf)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("frames", "batch"), [(1, 1), (1, 4), (9, 1), (60, 3)])
def test_three_layers_equal_pytorchs(frames, batch, dtype):
    torch.manual_seed(frames)
    whole = nn.GRU(5, 6, num_layers=3, dtype=dtype)
    x = torch.randn(frames, batch, 5, dtype=dtype, requires_grad=True)
    weights = list(whole.parameters())
    y = x
    for layer in range(3):
        y = gru(y, weights[4 * layer : 4 * layer + 4])
    gradient = torch.randn_like(y)
    same(
        outcome(y, gradient, [x, *weights]),
        outcome(whole(x)[0], gradient, [x, *weights]),
        dtype,
    )


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_two_directions_within_utterances_own_lengths_equal_pytorchs_packed_gru(lengths, dtype):
    torch.manual_seed(len(lengths))
    whole = nn.GRU(5, 6, bidirectional=True, dtype=dtype)
    frames, longest = torch.tensor(lengths), max(lengths)
    x = torch.randn(longest, len(lengths), 5, dtype=dtype, requires_grad=True)
    packed = pack_padded_sequence(x, frames, enforce_sorted=False)
    theirs = pad_packed_sequence(whole(packed)[0])[0].unflatten(2, (2, 6)).sum(2)
    valid = (torch.arange(longest)[:, None] < frames)[..., None]
    ours = gru(x, list(whole.parameters()), Padding.of(frames, longest).reverse_index)
    gradient = torch.randn_like(theirs)
    # Frames past an utterance's end are ignored: their outputs have no gradient, and their inputs get none.
    sources = [x, *whole.parameters()]
    found = outcome(ours * valid, gradient * valid, sources)
    same(found, outcome(theirs * valid, gradient * valid, sources), dtype)
    assert not found[1][~valid.expand_as(x)].any()


@pytest.mark.parametrize("lengths", [[4], [3, 1]], ids=str)
def test_gradients_match_finite_differences(lengths):
    torch.manual_seed(0)
    whole = nn.GRU(3, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(max(lengths), len(lengths), 3, dtype=torch.float64, requires_grad=True)
    reverse_index = Padding.of(torch.tensor(lengths), max(lengths)).reverse_index
    weights = list(whole.parameters())
    assert torch.autograd.gradcheck(lambda x, *weights: gru(x, weights, reverse_index), (x, *weights))
    assert torch.autograd.gradcheck(lambda x, *weights: gru(x, weights), (x, *weights[:4]))


@pytest.mark.usefixtures("products")
def test_it_is_deterministic_and_changes_none_of_its_inputs():
    torch.manual_seed(0)
    whole = nn.GRU(40, 64, bidirectional=True)
    x = torch.randn(50, 4, 40, requires_grad=True)
    reverse_index = Padding.of(torch.tensor([50, 44, 30, 3]), 50).reverse_index
    sources = [x, *whole.parameters()]
    before = [source.detach().clone() for source in sources]
    y = gru(x, sources[1:], reverse_index)
    gradient = torch.randn_like(y)
    kept = gradient.clone()
    first = torch.autograd.grad(y, sources, gradient, retain_graph=True)
    again = torch.autograd.grad(y, sources, gradient)
    repeated = outcome(gru(x, sources[1:], reverse_index), gradient, sources)
    assert torch.equal(y, repeated[0]) and torch.equal(gradient, kept)
    for one, two, three in zip(first, again, repeated[1:], strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)
    assert all(torch.equal(old, source) for old, source in zip(before, sources, strict=True))


def test_non_contiguous_inputs_and_gradients():
    torch.manual_seed(0)
    whole = nn.GRU(5, 6)
    x = torch.randn(5, 3, 20, requires_grad=True)
    sources = [x, *whole.parameters()]
    view = x.permute(2, 1, 0)
    spread = torch.ones(()).expand(20, 3, 6)
    same(outcome(gru(view, sources[1:]), spread, sources), outcome(whole(view)[0], spread, sources), torch.float32)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_layer_trains_as_pytorchs_gru_does(bidirectional, padded):
    """With the CPU GRU and without it, padding is treated the same way, up to the last frame."""
    torch.manual_seed(0)
    layer = RecurrentLayer(5, 6, bidirectional, nn.BatchNorm1d(5)).double()
    x = torch.randn(12, 3, 5, dtype=torch.float64, requires_grad=True)
    padding = Padding.of(torch.tensor([12, 12, 4]), 12) if padded else None
    gradient = torch.randn(12, 3, 6, dtype=torch.float64)
    found = []
    for own in (True, False):
        with mock.patch("reference_model.model.layers.trains_on_cpu", return_value=own):
            found.append(outcome(layer(x, padding), gradient, [x, *layer.parameters()]))
    same(*found, torch.float64)


def closed() -> DeepSpeech2:
    return DeepSpeech2(dataclasses.replace(load_variant("librispeech").model, conv_channels=2, rnn_hidden=8), 161)


@pytest.mark.parametrize("make", [closed, lambda: DeepSpeech2(tiny_params().model, 161)], ids=["closed", "masked"])
def test_a_network_uses_it_only_for_training_in_full_precision(make):
    network, values, frames = make(), torch.randn(2, 161, 60), torch.tensor([60, 50])
    layers = len(network.rnns)
    with mock.patch("reference_model.model.cpu_gru.gru", side_effect=gru) as used:
        network(values, frames)
        assert used.call_count == layers
        with torch.autocast("cpu", torch.bfloat16):
            network(values, frames)
        with torch.no_grad():
            network(values, frames)
        network.eval()(values, frames)
        assert used.call_count == layers


def test_a_stack_has_the_same_values_in_training_and_in_evaluation():
    torch.manual_seed(0)
    layers = [RecurrentLayer(4 if number == 0 else 6, 6, False, None).double() for number in range(3)]
    x = torch.randn(8, 2, 4, dtype=torch.float64)
    with torch.no_grad():
        in_evaluation = Stack(layers)(x)
    torch.testing.assert_close(Stack(layers)(x), in_evaluation, atol=1e-10, rtol=1e-10)


def test_a_wide_layer_is_as_accurate_as_pytorchs():
    """At a width that uses oneDNN's weight layout: the error is at most twice that of PyTorch's GRU, against float64."""
    torch.manual_seed(0)
    whole = nn.GRU(64, 288)
    assert whole.weight_hh_l0.numel() > cpu_gru.LARGE
    exact = nn.GRU(64, 288, dtype=torch.float64)
    exact.load_state_dict(whole.state_dict())
    x, gradient = torch.randn(40, 3, 64), torch.randn(40, 3, 288)
    truth = outcome(exact(x.double())[0], gradient.double(), list(exact.parameters()))
    weights = list(whole.parameters())
    theirs = outcome(whole(x)[0], gradient, weights)
    for true, one, other in zip(truth, outcome(gru(x, weights), gradient, weights), theirs, strict=True):
        error, allowed = ((true - each).norm() for each in (one, other))
        assert error <= 2 * allowed + 1e-7 * true.norm()
