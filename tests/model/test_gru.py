"""Calls of PyTorch's GRU, which runs everywhere except in CPU training, and its weights in bf16."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from reference_model.model.gru import Gru, bf16_in_cudnn, gru_dtype
from reference_model.runtime import set_precision


def layers_of(count: int = 2, bidirectional: bool = False) -> list[nn.GRU]:
    torch.manual_seed(0)
    return [nn.GRU(5 if number == 0 else 4, 4, bidirectional=bidirectional) for number in range(count)]


def test_a_stack_of_layers_agrees_with_single_layers():
    first, second = layers_of()
    x = torch.randn(6, 3, 5)
    torch.testing.assert_close(Gru([first, second])(x, False), second(first(x)[0])[0])


def test_directions_agree_with_pytorchs():
    (layer,) = layers_of(1, bidirectional=True)
    x = torch.randn(6, 3, 5)
    both = layer(x)[0]
    torch.testing.assert_close(Gru([layer], ("", "_reverse"))(x, False), both)
    torch.testing.assert_close(Gru([layer])(x, False), both[..., :4])
    torch.testing.assert_close(Gru([layer], ("_reverse",))(x.flip(0), False).flip(0), both[..., 4:])


def in_bf16(gru: Gru, x: torch.Tensor) -> torch.Tensor:
    """What a call does under autocast on a GPU, here on the CPU."""
    weights = gru._in_bf16(gru.weights())
    return torch.gru(x.bfloat16(), x.new_zeros(2, x.shape[1], 4).bfloat16(), weights, True, 2, 0.0, True, False, False)[
        0
    ]


def test_bf16_weights_are_cast_at_each_call_into_the_same_memory():
    layers = layers_of()
    gru, x = Gru(layers), torch.randn(6, 3, 5)
    first = in_bf16(gru, x)
    places = [each.data_ptr() for each in gru._bf16]
    with torch.no_grad():
        for weight in gru.weights():
            weight.mul_(2)
    second = in_bf16(gru, x)
    assert [each.data_ptr() for each in gru._bf16] == places
    assert not torch.equal(first, second)
    fresh = in_bf16(Gru(layers), x)
    assert torch.equal(second, fresh)


def test_gradients_of_bf16_weights_are_in_fp32():
    layers = layers_of()
    gru, x = Gru(layers), torch.randn(6, 3, 5, requires_grad=True)
    for _ in range(2):  # a second step, into the same memory
        for weight in gru.weights():
            weight.grad = None
        y = in_bf16(gru, x)
        y.float().square().sum().backward()
    plain = copy.deepcopy(layers)
    plain[1](plain[0](x)[0])[0].square().sum().backward()
    for weight, exact in zip(gru.weights(), Gru(plain).weights(), strict=True):
        assert weight.grad.dtype == torch.float32
        # bf16 keeps 8 bits: a rounding error of 4e-3, about ten times in a row.
        assert (weight.grad - exact.grad).norm() < 0.05 * exact.grad.norm()


def test_bf16_weights_made_in_evaluation_can_be_trained():
    gru, x = Gru(layers_of()), torch.randn(6, 3, 5)
    with torch.inference_mode():
        in_bf16(gru, x)
    in_bf16(gru, x).sum().backward()
    assert all(weight.grad is not None for weight in gru.weights())


def test_gru_dtype_follows_autocast():
    device = torch.device("cpu")
    assert gru_dtype(device, 8) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert gru_dtype(device, 8) == torch.bfloat16


def test_gru_dtype_draws_no_random_number():
    """A run's weights and orders must not depend on earlier queries."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    gru_dtype(torch.device("cpu"), 8)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("hidden", [256, 1024, 2560])
def test_on_a_gpu_the_bf16_gru_is_cudnns_and_its_weights_are_contiguous(hidden):
    if torch.cuda.get_device_capability() < (8, 0) or torch.backends.cudnn.version() < 91300:
        pytest.skip("needs cuDNN 9.13 and compute capability 8.0")
    device = torch.device("cuda")
    layers = [nn.GRU(5 if number == 0 else hidden, hidden).to(device) for number in range(2)]
    gru, x = Gru(layers), torch.randn(6, 3, 5, device=device)
    gru.flatten_weights()
    set_precision("bf16")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert bf16_in_cudnn(device, hidden)
            with torch.autocast("cuda", torch.bfloat16):
                y = gru(x, True)
                assert gru_dtype(device, hidden) == torch.bfloat16
            assert "Cudnn" in y.grad_fn.name()
            assert gru(x, True).dtype == torch.float32
    finally:
        set_precision("fp32")
    assert y.dtype == torch.bfloat16
    plain = layers[1](layers[0](x)[0])[0]
    assert (y.float() - plain).norm() < 0.05 * plain.norm()
