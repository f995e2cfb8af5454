"""A GRU for training on a CPU, whose backward pass does all work that is not recurrent for all frames at once.

The same function as PyTorch's GRU (Cho et al. 2014, with the reset gate after the product, as in cuDNN), and the same
gradients:

    r, z = sigmoid(W_r x + b_r + V_r h + c_r), sigmoid(W_z x + b_z + V_z h + c_z)
    n    = tanh(W_n x + b_n + r * (V_n h + c_n))
    h'   = n + z * (h - n)

PyTorch's backward pass on a CPU adds to each weight's gradient at every frame, reading and writing 3 * hidden * hidden
values each time. Only the gradient of `h` is recurrent; here each weight's gradient is one matrix product over all
frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LARGE = 200_000
"""From this many weights on (hidden 259), a product of a few rows with them is faster with oneDNN's packed layout.

At hidden 512 and 8 rows a product takes 134 instead of 212 microseconds, at 1024 it takes 664 instead of 1200, and at
128 and 16 rows 29 instead of 22.
"""


def gru(x: Tensor, weights: Sequence[Tensor], reverse_index: Tensor | None = None) -> Tensor:
    """`x` (frames, batch, inputs) through a GRU that starts from zeros, to (frames, batch, hidden).

    `weights` are `weight_ih`, `weight_hh`, `bias_ih` and `bias_hh` of nn.GRU. With `reverse_index` there are eight
    weights: those of the backward direction follow, and the outputs of the two directions are summed. `reverse_index`
    (frames * batch,) is, for each position of the backward direction, the row of `x` flattened to (frames * batch,
    inputs); applied twice it must give the original order. On a CPU, in float32 or float64; differentiable once.
    """
    return _Gru.apply(x, reverse_index, *weights)


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, reverse_index: Tensor | None, *weights: Tensor) -> Tensor:
        frames, batch, _ = x.shape
        hidden = weights[1].shape[1]
        rows = _directions(x, reverse_index)
        # The frames of a direction are contiguous, so that a product over all of them is one call.
        gates = x.new_empty(len(rows), frames, batch, 3 * hidden)  # r, z, V_n h + c_n
        new = x.new_empty(len(rows), frames, batch, hidden)  # n
        states = x.new_zeros(len(rows), frames + 1, batch, hidden)
        for direction, each in enumerate(rows):
            weight_ih, _, bias_ih, bias_hh = weights[4 * direction : 4 * direction + 4]
            rz, hn = gates[direction].flatten(0, 1).split([2 * hidden, hidden], 1)
            torch.addmm((bias_ih + bias_hh)[: 2 * hidden], each, weight_ih[: 2 * hidden].t(), out=rz)
            hn.copy_(bias_hh[2 * hidden :])
            torch.addmm(bias_ih[2 * hidden :], each, weight_ih[2 * hidden :].t(), out=new[direction].flatten(0, 1))
        add_products = [_product_adder(weight.t(), batch) for weight in weights[1::4]]
        rz, (r, z, hn) = gates[..., : 2 * hidden], gates.split(hidden, 3)
        together = (each.unbind(1) for each in (rz, r, z, hn, new, states[:, :-1], states[:, 1:]))
        for into, of, rz_, r_, z_, hn_, new_, old, state in zip(
            _by_frame(gates), _by_frame(states[:, :-1]), *together, strict=True
        ):
            for add_product, into_, of_ in zip(add_products, into, of, strict=True):
                add_product(into_, of_)
            rz_.sigmoid_()
            new_.addcmul_(r_, hn_).tanh_()
            torch.lerp(new_, old, z_, out=state)
        ctx.save_for_backward(x, reverse_index, gates, new, states, *weights)
        return _sum_rows(states[:, 1:].flatten(1, 2), reverse_index).unflatten(0, (frames, batch))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, reverse_index, gates, new, states, *weights = ctx.saved_tensors
        frames, batch, _ = x.shape
        hidden = weights[1].shape[1]
        r, z, hn = gates.split(hidden, 3)
        # A gate's gradient before its sigmoid or tanh is the gradient of h' times a factor that is known before the
        # loop.
        slopes = torch.empty_like(gates).unflatten(3, (3, hidden))
        slope = torch.addcmul(x.new_ones(()), new, new, value=-1).mul_(1 - z)
        torch.mul(slope, hn, out=slopes[..., 0, :]).mul_(r).mul_(1 - r)
        torch.sub(states[:, :-1], new, out=slopes[..., 1, :]).mul_(z).mul_(1 - z)
        torch.mul(slope, r, out=slopes[..., 2, :])

        gradient = torch.stack(_directions(gradients[0], reverse_index)).unflatten(1, (frames, batch))
        sums = torch.empty_like(slopes)  # the gradients of V h + c
        flat = sums.flatten(3)
        add_products = [_product_adder(weight, batch) for weight in weights[1::4]]
        together = [each.unbind(1) for each in (gradient, gradient.unsqueeze(3), z, slopes, sums)]
        into, of = _by_frame(gradient), _by_frame(flat)
        # From the last frame to the first, `gradient` becomes the total gradient of h'.
        for frame in range(frames - 1, -1, -1):
            gradient_, wide, z_, slopes_, sums_ = (each[frame] for each in together)
            torch.mul(wide, slopes_, out=sums_)
            if frame:
                together[0][frame - 1].addcmul_(gradient_, z_)
                for add_product, into_, of_ in zip(add_products, into[frame - 1], of[frame], strict=True):
                    add_product(into_, of_)

        slope.mul_(gradient)
        found: list[Tensor | None] = []
        gradient_x = x.new_empty(len(gradient), frames * batch, x.shape[2])
        for direction, each in enumerate(_directions(x, reverse_index)):
            of_sums = flat[direction].flatten(0, 1)
            of_weight_hh, of_bias_hh = of_sums.t() @ states[direction, :-1].flatten(0, 1), of_sums.sum(0)
            # W x + b differs from V h + c in the third gate only.
            of_sums[:, 2 * hidden :] = slope[direction].flatten(0, 1)
            found += [of_sums.t() @ each, of_weight_hh, of_sums.sum(0), of_bias_hh]
            torch.mm(of_sums, weights[4 * direction], out=gradient_x[direction])
        return _sum_rows(gradient_x, reverse_index).view_as(x), None, *found


def _product_adder(weight: Tensor, rows: int) -> Callable[[Tensor, Tensor], object]:
    """`add(into, x)` adds `x` (rows, inputs) times `weight` (inputs, outputs) to `into` (rows, outputs)."""
    # Not part of PyTorch's public interface: versions other than the pinned one may lack it.
    packable = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if weight.numel() < LARGE or weight.dtype != torch.float32 or not packable:
        return lambda into, x: into.addmm_(x, weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous(), rows)
    product = torch.ops.mkldnn._linear_pointwise
    return lambda into, x: into.add_(product(x, packed, None, "none", [], ""))


def _by_frame(values: Tensor) -> list[tuple[Tensor, ...]]:
    """`values` (directions, frames, ...) as a list over frames of tuples over directions."""
    return list(zip(*(direction.unbind(0) for direction in values.unbind(0)), strict=True))


def _directions(x: Tensor, reverse_index: Tensor | None) -> list[Tensor]:
    """`x` (frames, batch, values) as rows (frames * batch, values) in each direction's order."""
    rows = x.flatten(0, 1)
    return [rows] if reverse_index is None else [rows, rows.index_select(0, reverse_index)]


def _sum_rows(rows: Tensor, reverse_index: Tensor | None) -> Tensor:
    """`rows` (directions, frames * batch, values), each in its direction's order, summed in the order of the first."""
    return rows[0] if reverse_index is None else rows[1].index_select(0, reverse_index).add_(rows[0])
