"""No precision is lowered in silence: gradients of a whole step in each precision against float64, within stated bounds.

Bounds are relative norms of the difference over all weights. float32 rounds at 6e-8 and sums some thousand products; TF32 keeps
10 bits of a factor's mantissa (5e-4), bf16 keeps 7 (4e-3); a few layers multiply that by about ten.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional

from benchmark.params import load_variant
from reference_model.model import DeepSpeech2
from reference_model.train import set_precision

BOUNDS = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 1e-1}
"""||gradient - float64's|| / ||float64's||."""


def variant(precision: str):
    params = load_variant("librispeech")
    small = dataclasses.replace(params.model, conv_channels=4, rnn_hidden=64)
    return dataclasses.replace(params, model=small, train=dataclasses.replace(params.train, precision=precision))


def gradient(model: DeepSpeech2, values: torch.Tensor, bf16: bool) -> torch.Tensor:
    """The whole gradient of the CTC loss, flat, in float64 on the CPU."""
    model.zero_grad()
    frames = torch.tensor([values.shape[2]] * len(values), device=values.device)
    labels = torch.arange(1, 9, device=values.device).repeat(len(values))
    with torch.autocast(values.device.type, torch.bfloat16, enabled=bf16):
        logits, lengths = model(values, frames)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    counts = torch.tensor([8] * len(values))
    functional.ctc_loss(logits.log_softmax(2), labels, lengths, counts, reduction="sum").backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double().cpu()


def error_of(precision: str, device: str) -> float:
    torch.manual_seed(0)
    params = variant(precision)
    exact = DeepSpeech2(params.model, 161).double()
    values = torch.randn(4, 161, 120, dtype=torch.float64)
    reference = gradient(copy.deepcopy(exact), values, False)
    set_precision(precision)
    try:
        found = gradient(exact.float().to(device), values.float().to(device), precision == "bf16")
    finally:
        set_precision("fp32")
    assert torch.isfinite(found).all()
    return float((found - reference).norm() / reference.norm())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_on_a_cpu_keep_their_precisions_bound(precision):
    assert error_of(precision, "cpu") < BOUNDS[precision]


def test_bf16_is_told_from_fp32_by_these_bounds():
    """Were bf16 used where fp32 is asked for, the bound above would show it."""
    assert error_of("bf16", "cpu") > BOUNDS["fp32"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_gradients_on_a_gpu_keep_their_precisions_bound(precision):
    error = error_of(precision, "cuda")
    assert error < BOUNDS[precision]
    assert precision == "fp32" or error > BOUNDS["fp32"]


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_tf32_is_allowed_exactly_where_the_variant_says_so(precision, allowed):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not allowed
    set_precision(precision)
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == allowed
    set_precision("fp32")
