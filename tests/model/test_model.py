"""The network: size, parameter names, the effect of padding, and the loss compared with its definition."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmark.params import load_variant
from datasets.geometry import ctc_frames_needed, output_frames
from reference_model.model.alphabet import BLANK, LABELS, decode, encode
from reference_model.model.greedy import greedy
from reference_model.model.layers import Padding, RecurrentLayer, Stack
from reference_model.model.network import DeepSpeech2, parameter_count
from reference_model.training.optim import build_optimizer, match_weight_layout
from tests.support.corpus import tiny_params


@pytest.mark.parametrize(("variant", "count"), [("librispeech", 103_841_568), ("librispeech_5bi", 364_700_448)])
def test_parameter_counts_are_the_references(variant, count):
    with torch.device("meta"):
        model = DeepSpeech2(load_variant(variant).model, bins=161)
    assert parameter_count(model) == count


def test_names_and_shapes_are_the_references():
    with torch.device("meta"):
        shapes = {
            name: tuple(value.shape)
            for name, value in DeepSpeech2(load_variant("librispeech").model, 161).state_dict().items()
        }
    norm = ("weight", "bias", "running_mean", "running_var")
    expected = {
        "conv.0.weight": (32, 1, 41, 11),
        "conv.0.bias": (32,),
        "conv.3.weight": (32, 32, 21, 11),
        "conv.3.bias": (32,),
        "fc.0.module.1.weight": (29, 2560),
    }
    for prefix, features in (("conv.1", 32), ("conv.4", 32), ("fc.0.module.0", 2560)):
        expected |= {f"{prefix}.{name}": (features,) for name in norm} | {f"{prefix}.num_batches_tracked": ()}
    for layer, inputs in enumerate((672, 2560, 2560)):
        expected |= {
            f"rnns.{layer}.rnn.weight_ih_l0": (7680, inputs),
            f"rnns.{layer}.rnn.weight_hh_l0": (7680, 2560),
            f"rnns.{layer}.rnn.bias_ih_l0": (7680,),
            f"rnns.{layer}.rnn.bias_hh_l0": (7680,),
        }
    assert shapes == expected


def test_output_frames_are_those_of_the_network():
    model = DeepSpeech2(tiny_params().model, 161).eval()
    for frames in (31, 32, 33, 100, 101):
        logits, lengths = model(torch.randn(1, 161, frames), torch.tensor([frames]))
        assert logits.shape == (output_frames(frames), 1, 29)
        assert lengths.tolist() == [(frames - 11) // 2 + 1 - 10]


def test_mfcc_front_end_is_padded_to_fit():
    logits, _ = DeepSpeech2(tiny_params().model, 13)(torch.randn(2, 13, 60), torch.tensor([60, 50]))
    assert logits.shape == (output_frames(60), 2, 29)


@pytest.mark.parametrize("between", [True, False])
def test_masked_network_gives_each_utterance_the_same_alone_and_in_a_batch(between):
    torch.manual_seed(0)
    model = DeepSpeech2(tiny_params(model__batch_norm_between=between).model, 161).eval()
    frames = torch.tensor([120, 80, 33])
    values = torch.randn(3, 161, 120)
    for row, count in zip(values, frames, strict=True):
        row[:, count:] = 0
    together, lengths = model(values, frames)
    for index, (count, length) in enumerate(zip(frames, lengths, strict=True)):
        alone, _ = model(values[index : index + 1, :, :count], count[None])
        torch.testing.assert_close(together[:length, index], alone[:, 0], atol=1e-5, rtol=1e-5)
        assert not together[length:, index].any()


def test_two_directions_on_a_cpu_equal_pytorchs_packed_gru():
    torch.manual_seed(0)
    layer = RecurrentLayer(6, 5, bidirectional=True, batch_norm=None)
    frames = torch.tensor([9, 7, 2])
    x = torch.randn(9, 3, 6, requires_grad=True)
    ours = layer(x, Padding.of(frames, 9))
    packed = nn.utils.rnn.pack_padded_sequence(x, frames, enforce_sorted=False)
    theirs, _ = nn.utils.rnn.pad_packed_sequence(layer.rnn(packed)[0])
    theirs = theirs[..., :5] + theirs[..., 5:]
    valid = torch.arange(9)[:, None] < frames
    torch.testing.assert_close(ours[valid], theirs[valid])
    gradient = torch.randn_like(theirs) * valid[..., None]
    (ours_gradient,) = torch.autograd.grad(ours, x, gradient, retain_graph=True)
    (theirs_gradient,) = torch.autograd.grad(theirs, x, gradient)
    torch.testing.assert_close(ours_gradient, theirs_gradient)


def test_stacked_layers_equal_one_gru_of_three_layers():
    """There is nothing between the closed model's layers, so they are equal to one three-layer GRU."""
    torch.manual_seed(0)
    layers = [RecurrentLayer(4 if number == 0 else 6, 6, False, None) for number in range(3)]
    whole = nn.GRU(4, 6, num_layers=3)
    for number, layer in enumerate(layers):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(whole, f"{name}_l{number}").data = getattr(layer.rnn, f"{name}_l0").data
    x = torch.randn(8, 2, 4)
    torch.testing.assert_close(layers[2](layers[1](layers[0](x))), whole(x)[0])


def test_the_closed_models_layers_run_as_one_gru_with_the_same_values_and_gradients():
    torch.manual_seed(0)
    model = DeepSpeech2(dataclasses.replace(load_variant("librispeech").model, conv_channels=2, rnn_hidden=16), 161)
    values, frames = torch.randn(3, 161, 90), torch.tensor([90, 70, 60])
    outcomes = []
    together, layers = Stack.__call__, [layer for layer in model.rnns]
    for run in (together, lambda stack, x: functools.reduce(lambda x, layer: layer(x), layers, x)):
        with mock.patch.object(Stack, "__call__", autospec=True, side_effect=run) as used:
            logits, _ = model(values, frames)
        assert used.call_count == 1
        model.zero_grad()
        logits.square().sum().backward()
        outcomes.append((logits.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    (ours, our_gradients), (plain, plain_gradients) = outcomes
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-6)
    for one, other in zip(our_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def ctc_by_definition(log_probabilities: np.ndarray, labels: list[int]) -> float:
    """Negative log of the summed probability of all paths that spell `labels` (Graves et al. 2006), path by path."""
    frames, symbols = log_probabilities.shape
    total = 0.0
    for path in itertools.product(range(symbols), repeat=frames):
        merged = [symbol for symbol, _ in itertools.groupby(path)]
        if [symbol for symbol in merged if symbol != BLANK] == labels:
            total += math.exp(sum(log_probabilities[frame, symbol] for frame, symbol in enumerate(path)))
    return -math.log(total)


@pytest.mark.parametrize("labels", [[1], [1, 2], [1, 1], [2, 1, 2]])
def test_ctc_loss_agrees_with_the_definition(labels):
    torch.manual_seed(len(labels))
    log_probabilities = torch.randn(5, 1, 3, dtype=torch.float64).log_softmax(2)
    loss = functional.ctc_loss(
        log_probabilities,
        torch.tensor([labels]),
        torch.tensor([5]),
        torch.tensor([len(labels)]),
        BLANK,
        reduction="sum",
    )
    assert loss.item() == pytest.approx(ctc_by_definition(log_probabilities[:, 0].numpy(), labels), rel=1e-9)


def greedy_by_definition(best: list[int]) -> str:
    text, last = "", None
    for label in best:
        if label not in (last, BLANK):
            text += LABELS[label]
        last = label
    return text


def test_greedy_decoding_agrees_with_a_plain_loop():
    rng = np.random.default_rng(0)
    best = rng.integers(0, 4, (40, 300))
    frames = rng.integers(0, 41, 300)
    logits = functional.one_hot(torch.from_numpy(best), 29).float()
    expected = [greedy_by_definition(best[: frames[i], i].tolist()) for i in range(300)]
    assert greedy(logits, torch.from_numpy(frames)) == expected


def test_alphabet_round_trip_and_needed_frames():
    assert len(LABELS) == 29 and LABELS.index("'") == 1 and LABELS.index("A") == 2 and LABELS.index(" ") == 28
    assert decode(encode("IT'S ALL")) == "IT'S ALL"
    assert ctc_frames_needed(encode("ALL")) == 4


def test_channels_last_gives_the_same_values_and_gradients():
    outcomes = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        model = DeepSpeech2(tiny_params(model__conv_channels=12).model, 161, channels_last).double()
        logits, _ = model(torch.randn(3, 161, 90, dtype=torch.float64), torch.tensor([90, 70, 60]))
        logits.square().sum().backward()
        outcomes.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    for plain, ours in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize(("first", "then"), [(False, True), (True, False)])
def test_a_checkpoint_of_one_layout_can_be_resumed_in_the_other(name, first, then):
    """The fused optimizers require one layout for weights, gradients and state, and raise an error otherwise."""
    params = tiny_params(model__conv_channels=12, optimizer__name=name)
    values, frames = torch.randn(3, 161, 90, dtype=torch.float64), torch.tensor([90, 70, 60])

    def step(model: DeepSpeech2, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(values, frames)[0].square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    model = DeepSpeech2(params.model, 161, first).double()
    optimizer = build_optimizer(params.optimizer, model.parameters())
    step(model, optimizer)
    other = DeepSpeech2(params.model, 161, then).double()
    resumed = build_optimizer(params.optimizer, other.parameters())
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    match_weight_layout(resumed)
    for weight, state in resumed.state.items():
        strides = {value.stride() for value in state.values() if isinstance(value, torch.Tensor) and value.dim()}
        assert strides <= {weight.stride()}
    step(model, optimizer)
    step(other, resumed)
    for plain, ours in zip(model.parameters(), other.parameters(), strict=True):
        # The gradient of a bias before BatchNorm is rounding noise only, which AdamW scales up.
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-6)
