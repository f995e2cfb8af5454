"""One call of PyTorch's GRU over the weights of one or more layers, in the precision that the variant asks for.

A variant in bf16 runs under autocast, and autocast always gives cuDNN's GRU fp16 (read in PyTorch 2.11's
AutocastRNN.cpp): gradients below 6e-8 would vanish, and values above 65,504 would end the run, because nothing scales
the loss. On a GPU the GRU therefore runs here outside autocast, in bf16 itself: its weights are cast once per step into
one flat buffer in cuDNN's layout, and their gradients come back in fp32.

cuDNN runs a GRU in bf16 from PyTorch 2.11's builds on, on GPUs of compute capability 8.0 or higher. Elsewhere PyTorch
would run it frame by frame and keep a copy of all weights for each frame (136 GB at batch 8). There GRUs run in fp32
instead, with matrix products in TF32 where the GPU supports it (runtime.set_precision).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reference_model.model.gru_graphs import GruGraphs

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""A GRU's weights in PyTorch's order, for each layer and direction."""


class Gru:
    """A GRU of several layers, or of two directions, whose weights belong to the `nn.GRU` modules of a network.

    `layers` are modules of one layer each, the lowest first. `directions` are the directions to run: `""` (forward),
    `"_reverse"`, or both, whose outputs are then concatenated. `"_reverse"` alone applies the backward direction's
    weights forward in time: the caller reverses the batch. A Gru holds no weights, and so adds no names to the network.
    """

    def __init__(self, layers: Sequence[nn.GRU], directions: tuple[str, ...] = ("",)) -> None:
        self._layers, self._directions = tuple(layers), directions
        self._bf16: list[Tensor] = []
        self._graphs = GruGraphs()

    def weights(self) -> list[Tensor]:
        """The weights in PyTorch's order: layer by layer, and within a layer direction by direction."""
        return [
            getattr(layer, f"{name}_l0{direction}")
            for layer in self._layers
            for direction in self._directions
            for name in NAMES
        ]

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        """`x` (longest, batch, inputs) to (longest, batch, hidden * directions), from an initial state of zeros.

        Under bf16 autocast on a GPU the result is bf16, or fp32 where PyTorch cannot give cuDNN a GRU in bf16.
        """
        weights = self.weights()
        in_bf16 = wants_bf16(x)
        with torch.autocast("cuda", enabled=False) if in_bf16 else nullcontext():
            if in_bf16 and bf16_in_cudnn(x.device, weights[1].shape[1]):
                x, weights = x.bfloat16(), self._in_bf16(weights)
                # Backwards in time, a GRU would see padding before the utterance's end.
                if training and torch.is_grad_enabled() and len(self._directions) == 1:
                    y = self._graphs(x, weights, len(self._layers))
                    if y is not None:
                        return y
            elif in_bf16:
                x = x.float()
            start = x.new_zeros(len(self._layers) * len(self._directions), x.shape[1], weights[1].shape[1])
            both = len(self._directions) == 2
            return torch.gru(x, start, weights, True, len(self._layers), 0.0, training, both, False)[0]

    def flatten_weights(self) -> None:
        """Move the weights into one GPU buffer in cuDNN's order, so that cuDNN need not copy them at each call.

        nn.GRU does this for its own weights, one module at a time and both directions together. Drops the bf16 copies,
        which may be on another device.
        """
        self._bf16, self._graphs = [], GruGraphs()
        _flatten(self.weights(), len(self._layers), len(self._directions))

    def _in_bf16(self, weights: list[Tensor]) -> list[Tensor]:
        """The current weights in bf16, in one buffer that is reused from call to call."""
        if not self._bf16:
            # Copies made in inference mode could not be written to in training.
            with torch.inference_mode(False):
                self._bf16 = [weight.detach().bfloat16() for weight in weights]
                _flatten(self._bf16, len(self._layers), len(self._directions))
        return list(_CastWeights.apply(self._bf16, *weights))


class _CastWeights(torch.autograd.Function):
    """Copies fp32 weights into their bf16 copies; the copies' gradients, cast to fp32, are the weights' gradients."""

    @staticmethod
    def forward(ctx: Any, copies: list[Tensor], *weights: Tensor) -> tuple[Tensor, ...]:
        torch._foreach_copy_(copies, list(weights))
        return tuple(copy.detach() for copy in copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(gradient.float() for gradient in gradients)


@torch.no_grad()
def _flatten(weights: list[Tensor], layers: int, directions: int) -> None:
    """Move the weights of a GRU on a GPU into one buffer in cuDNN's order.

    This is what nn.GRU.flatten_parameters calls; that function itself refuses bf16.
    """
    if weights[0].is_cuda and torch._use_cudnn_rnn_flatten_weight():
        from torch.backends.cudnn.rnn import get_cudnn_mode

        inputs, hidden = weights[0].shape[1], weights[1].shape[1]
        torch._cudnn_rnn_flatten_weight(
            weights, len(NAMES), inputs, get_cudnn_mode("GRU"), hidden, 0, layers, False, directions == 2
        )


def wants_bf16(x: Tensor) -> bool:
    """Whether autocast to bf16 is enabled on the GPU that holds `x`."""
    return x.is_cuda and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16


def bf16_in_cudnn(device: torch.device, hidden: int) -> bool:
    """Whether PyTorch runs a GRU of width `hidden` in bf16 through cuDNN on this GPU.

    Found by running one, once for each GPU and width: for narrow GRUs PyTorch asks cuDNN for another algorithm.
    """
    return _bf16_in_cudnn(torch.cuda.current_device() if device.index is None else device.index, hidden)


@functools.cache
def _bf16_in_cudnn(index: int, hidden: int) -> bool:
    shapes = ((3 * hidden, hidden),) * 2 + ((3 * hidden,),) * 2
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cuda", enabled=False):
        like = torch.zeros(2, 1, hidden, device=torch.device("cuda", index), dtype=torch.bfloat16)
        weights = [like.new_zeros(shape) for shape in shapes]
        try:
            _flatten(weights, 1, 1)
            weights = [weight.requires_grad_() for weight in weights]
            y = torch.gru(like, like[:1], weights, True, 1, 0.0, True, False, False)[0]
            y.sum().backward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # cuDNN refuses where the library is older than PyTorch expects.
            return False
    return y.grad_fn is not None and "Cudnn" in y.grad_fn.name()


def gru_dtype(device: torch.device, hidden: int) -> torch.dtype:
    """The data type that GRUs of width `hidden` on `device` compute in under the current autocast.

    Found by running one on a tensor of the type that a convolution would pass to it.
    """
    x = (torch.zeros(1, 1, device=device) @ torch.zeros(1, 1, device=device)).unsqueeze(0)
    if wants_bf16(x):
        return torch.bfloat16 if bf16_in_cudnn(device, hidden) else torch.float32
    weights = [torch.zeros(3, *shape, device=device) for shape in ((1,), (1,), (), ())]
    _flatten(weights, 1, 1)
    return torch.gru(x, torch.zeros_like(x), weights, True, 1, 0.0, False, False, False)[0].dtype
