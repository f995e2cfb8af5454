"""No precision is lowered silently: gradients of a whole step in each precision against float64, within stated bounds.

Bounds are relative norms of the difference over all weights, derived from the unit roundoff u of the factors of matrix
products: 2^-24 in fp32, 2^-11 in TF32, 2^-8 in bf16.

There are two sources of error. Where every Hardtanh is on the same side as in float64, rounding errors accumulate: sums
of n terms have an error of about sqrt(n) u in fp32, n up to 1,500 here, and six products in a row, one of which is
recurrent over 45 frames, multiply that by about sqrt(50): 2e-5 in fp32, for which the bound is 1e-4. But the
convolutions' values, of variance 1 after BatchNorm, have a density of 0.4 at a Hardtanh's kink at 0. A relative error
of about u moves a share of 0.3 u of all values across the kink, and their gradients become 0 or stop being 0: twice
that share of the gradient's square, since half of all values pass. Two such layers give sqrt(u) of its norm, 0.022 in
TF32 and 0.063 in bf16. The convolutions hold most of the gradient, and the GRUs' error is only about 4 u, so the bound
there is twice sqrt(u). In fp32 none of these 70,000 values is expected to cross the kink (a chance of one in a
hundred), but a single one would cause 5e-3: on a GPU, where the library chooses the order of sums, the median of three
draws is compared.
"""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from torch.nn import functional

from benches.training.train_step import make_batch, make_step
from benchmark.params import Params, load_variant
from reference_model.model.gru import gru_dtype
from reference_model.model.network import DeepSpeech2, prefers_channels_last
from reference_model.runtime import set_precision

BOUNDS = {"fp32": 1e-4, "tf32": 2 * 2**-5.5, "bf16": 2 * 2**-4}
"""||gradient - float64's|| / ||float64's||."""
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def variant(precision: str, hidden: int = 64, name: str = "librispeech") -> Params:
    params = load_variant(name)
    small = dataclasses.replace(params.model, conv_channels=4, rnn_hidden=hidden)
    return dataclasses.replace(params, model=small, train=dataclasses.replace(params.train, precision=precision))


def gradient(model: DeepSpeech2, values: torch.Tensor, bf16: bool) -> torch.Tensor:
    """The flattened gradient of the CTC loss in float64 on the CPU; lengths are in host memory, as in training."""
    frames = torch.tensor([values.shape[2]] * len(values))
    labels = torch.arange(1, 9, dtype=torch.int32, device=values.device).repeat(len(values))
    with torch.autocast(values.device.type, torch.bfloat16, enabled=bf16):
        logits, lengths = model(values, frames)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    counts = torch.tensor([8] * len(values))
    functional.ctc_loss(logits.log_softmax(2), labels, lengths, counts, reduction="sum").backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double().cpu()


def error_of(precision: str, device: str, seed: int = 0) -> float:
    """On a GPU with GRUs of 256: for 64, cuDNN uses a special kernel that does not exist for the closed model's 2560."""
    torch.manual_seed(seed)
    params = variant(precision, 64 if device == "cpu" else 256)
    exact = DeepSpeech2(params.model, 161).double()
    channels_last = prefers_channels_last(torch.device(device), precision)
    model = DeepSpeech2(params.model, 161, channels_last).to(device)
    model.load_state_dict(exact.state_dict())
    values = torch.randn(4, 161, 120, dtype=torch.float64)
    reference = gradient(exact, values, False)
    set_precision(precision)
    try:
        found = gradient(model, values.float().to(device), precision == "bf16")
    finally:
        set_precision("fp32")
    assert torch.isfinite(found).all()
    return float((found - reference).norm() / reference.norm())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_on_a_cpu_stay_within_their_precisions_bound(precision, record_property):
    error = error_of(precision, "cpu")
    record_property("error", error)
    record_property("bound", BOUNDS[precision])
    assert error < BOUNDS[precision]


def test_these_bounds_distinguish_bf16_from_fp32():
    """If bf16 were used instead of fp32, the bound above would be exceeded."""
    assert error_of("bf16", "cpu") > BOUNDS["fp32"]


@CUDA
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_gradients_on_a_gpu_stay_within_their_precisions_bound(precision, record_property):
    errors = sorted(error_of(precision, "cuda", seed) for seed in range(3))
    record_property("error", errors[1])
    record_property("bound", BOUNDS[precision])
    record_property("largest_of_three", errors[2])
    assert errors[1] < BOUNDS[precision]
    assert precision == "fp32" or errors[1] > BOUNDS["fp32"]


@CUDA
@pytest.mark.parametrize("name", ["librispeech", "librispeech_5bi", "mini"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_grus_weights_are_contiguous_on_a_gpu(name, precision):
    """Otherwise PyTorch warns and compacts them at each call; gru_dtype must not warn either."""
    params = variant(precision, 256, name)
    set_precision(precision)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.set_warn_always(True)
        try:
            trainer = make_step(params, torch.device("cuda"))
            for _ in range(2):
                trainer(make_batch(4, 2.0)[0], 1e-4)
            with trainer.autocast():
                gru_dtype(torch.device("cuda"), 256)
        finally:
            torch.set_warn_always(False)
    assert not [str(each.message) for each in caught if "contiguous chunk" in str(each.message)]


@pytest.mark.parametrize(
    ("precision", "products", "cudnn"), [("fp32", False, False), ("tf32", True, True), ("bf16", False, True)]
)
def test_tf32_is_allowed_exactly_where_the_precision_says_so(precision, products, cudnn):
    """In bf16 cuDNN has no fp32 work to lower, and without this permission would keep GRUs from the tensor cores."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not products
    set_precision(precision)
    assert torch.backends.cuda.matmul.allow_tf32 == products
    assert torch.backends.cudnn.allow_tf32 == cudnn
    set_precision("fp32")
