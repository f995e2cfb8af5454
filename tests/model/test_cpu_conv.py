"""The CPU convolution compared with PyTorch's: outputs, all gradients, and when the network uses it."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch
from torch import nn

from benchmark.params import load_variant
from datasets.geometry import FEWEST_FRAMES
from reference_model.model import cpu_conv
from reference_model.model.network import DeepSpeech2
from tests.support.corpus import tiny_params

FIRST, SECOND = ((1, (41, 11), (2, 2)), (3, (21, 11), (2, 1)))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
@pytest.mark.parametrize("frames", [11, 12, 13, 14, 15, 40, 41])
@pytest.mark.parametrize(("channels", "kernel", "stride"), [FIRST, SECOND, (2, (3, 4), (1, 3))])
def test_it_computes_the_same_as_pytorchs_convolution(channels, kernel, stride, frames, dtype, bound):
    torch.manual_seed(frames)
    conv = nn.Conv2d(channels, 5, kernel, stride=stride, dtype=dtype)
    x = torch.randn(2, channels, 45, frames, dtype=dtype, requires_grad=True)
    sources = [x, *conv.parameters()]
    ours, theirs = cpu_conv.convolve(x, conv), conv(x)
    gradient = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs, atol=bound, rtol=bound)
    for one, other in zip(
        torch.autograd.grad(ours, sources, gradient), torch.autograd.grad(theirs, sources, gradient), strict=True
    ):
        torch.testing.assert_close(one, other, atol=bound, rtol=bound)


@pytest.mark.parametrize("frames", [FEWEST_FRAMES, 60, 61, 62, 63])
def test_a_network_trains_the_same_with_it_and_without(frames):
    torch.manual_seed(0)
    network = DeepSpeech2(tiny_params().model, 161).double()
    values, lengths = torch.randn(2, 161, frames, dtype=torch.float64), torch.tensor([frames, FEWEST_FRAMES])
    outcomes = []
    for is_faster in (True, False):
        with (
            mock.patch("reference_model.model.cpu_conv.is_faster", return_value=is_faster),
            mock.patch("reference_model.model.cpu_conv.convolve", side_effect=cpu_conv.convolve) as used,
        ):
            logits, _ = network(values, lengths)
        assert used.call_count == 2 * is_faster
        outcomes.append([logits, *torch.autograd.grad(logits.square().sum(), list(network.parameters()))])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-8)


def test_it_is_used_only_for_training_in_full_precision():
    network, values, frames = DeepSpeech2(tiny_params().model, 161), torch.randn(2, 161, 60), torch.tensor([60, 50])
    with (
        mock.patch("reference_model.model.cpu_conv.is_faster", return_value=True),
        mock.patch("reference_model.model.cpu_conv.convolve", side_effect=AssertionError) as used,
    ):
        with torch.autocast("cpu", torch.bfloat16):
            network(values, frames)
        with torch.no_grad():
            network(values, frames)
        network.eval()(values, frames)
    assert not used.called


@pytest.mark.parametrize(
    ("variant", "capability", "used"),
    [("mini", "AVX512", True), ("mini", "AVX2", False), ("librispeech", "AVX512", False)],
)
def test_it_is_used_for_convolutions_that_fill_half_of_the_vectors(variant, capability, used):
    params = dataclasses.replace(load_variant(variant).model, rnn_hidden=8)
    network = DeepSpeech2(params, 161)
    with mock.patch("torch.backends.cpu.get_cpu_capability", return_value=capability):
        assert [cpu_conv.is_faster(layer) for layer in network.conv if isinstance(layer, nn.Conv2d)] == [used, used]
