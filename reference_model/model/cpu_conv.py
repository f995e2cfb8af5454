"""A convolution with few channels for training on a CPU: computes two output frames at once, as twice as many channels.

A CPU convolution processes as many output channels at once as a vector register holds numbers. With eight channels and
vectors of sixteen, half of each register is unused. Here two neighbouring frames are computed as the channels of one,
by a kernel that is one stride wider and holds the weights twice, with zeros where a frame's own kernel does not reach:
the same sums, in half the time. Where the input has several channels, its frames are paired as well, for the same
reason in the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def is_faster(conv: nn.Conv2d) -> bool:
    """Whether `conv`'s output channels fill at most half of this CPU's vector registers."""
    return conv.out_channels <= 8 and torch.backends.cpu.get_cpu_capability() == "AVX512"


def convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """`conv(x)` for `x` (batch, channels, bins, frames), for a `conv` without padding or dilation."""
    assert conv.bias is not None
    weight, stride = conv.weight, conv.stride[1]
    frames = (x.shape[3] - weight.shape[3]) // stride + 1
    pairs = (frames + 1) // 2
    # One kernel for the first frame of a pair and one, a stride later, for the second; the number of columns is even.
    even = (weight.shape[3] + stride) % 2
    weight = torch.cat([functional.pad(weight, (0, stride + even)), functional.pad(weight, (stride, even))])
    x = functional.pad(x, (0, 2 * stride * (pairs - 1) + weight.shape[3] - x.shape[3]))
    step = 2 * stride
    if x.shape[1] > 1:
        x, weight, step = _in_pairs(x), _in_pairs(weight), stride
    y = functional.conv2d(x, weight, conv.bias.repeat(2), (conv.stride[0], step))
    y = y.unflatten(1, (2, -1)).permute(0, 2, 3, 4, 1)
    return y.flatten(3)[..., :frames]


def _in_pairs(x: Tensor) -> Tensor:
    """(a, channels, b, columns) to (a, 2 * channels, b, columns / 2): channels of even columns, then of odd ones."""
    return x.unflatten(3, (-1, 2)).permute(0, 4, 1, 2, 3).flatten(1, 2).contiguous()
