"""The layers of DeepSpeech2. Each one chooses its implementation: PyTorch's, or ours for training on a CPU.

`cpu_conv` and `cpu_gru` compute the same values and gradients as PyTorch's modules, faster, in fp32 training on a CPU.
In all other cases PyTorch's own implementations are used: `nn.Conv2d`, and the GRU as `gru.Gru` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reference_model.model import cpu_conv, cpu_gru
from reference_model.model.gru import Gru


def trains_on_cpu(module: nn.Module, x: Tensor) -> bool:
    """Whether `module` runs a training step in full precision on a CPU: the case that cpu_conv and cpu_gru are for."""
    on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return module.training and torch.is_grad_enabled() and on_cpu


class Padding(NamedTuple):
    """The valid frames of a padded batch (longest, batch, features).

    `rows` are the positions of valid frames in the batch flattened to (longest * batch, features). `reverse_index`
    (longest * batch,) holds the source row of each position when every utterance is reversed within its own length.
    """

    rows: Tensor
    reverse_index: Tensor

    @classmethod
    def of(cls, frames: Tensor, longest: int, device: torch.device | None = None) -> Padding:
        """The padding of utterances of `frames` (batch,) frames in a batch of `longest`, as tensors on `device`.

        Computed on the device of `frames`. With lengths in host memory this needs no GPU synchronization: the number of
        valid rows is known on the host, and page-locked memory is copied asynchronously.
        """
        device = device or frames.device
        position = torch.arange(longest, device=frames.device)[:, None]
        valid = position < frames
        reverse_index = torch.where(valid, frames - 1 - position, position) * len(frames)
        reverse_index += torch.arange(len(frames), device=frames.device)
        rows = valid.flatten().nonzero().squeeze(1)
        return cls(*(to_device(each, device) for each in (rows, reverse_index.flatten())))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`; a copy from host memory to a GPU is asynchronous, through page-locked memory."""
    if device.type == "cuda" and values.device.type == "cpu" and not values.is_pinned():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


class Convolution(nn.Conv2d):
    """`nn.Conv2d`, computed by cpu_conv where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` (batch, channels, bins, frames) to (batch, output channels, output bins, output frames)."""
        if trains_on_cpu(self, x) and cpu_conv.is_faster(self):
            return cpu_conv.convolve(x, self)
        return super().forward(x)


class SynchronizedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization over the batches of all ranks (`model.sync_batch_norm`), on any backend.

    PyTorch's SyncBatchNorm runs on GPUs only. Mean and variance are computed from sums over all ranks, and gradients
    flow through those sums.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        return

    def forward(self, x: Tensor) -> Tensor:
        """`x` (batch, features, ...) normalized; in training with the statistics of all ranks' batches."""
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce

        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        sums = all_reduce(torch.cat([x.float().sum(axes), x.float().square().sum(axes), count]))
        features, count = self.num_features, sums[-1]
        mean = sums[:features] / count
        variance = (sums[features:-1] / count - mean.square()).clamp_min(0)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale.view(shape) + (self.bias - mean * scale).view(shape)


class FrameWise(nn.Module):
    """Applies a module over (frames, features) to a batch; the reference's parameter names contain `module`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, padding: Padding | None = None) -> Tensor:
        """`x` (longest, batch, features) frame by frame; with `padding`, over valid frames only, and zero elsewhere."""
        flat = x.flatten(0, 1)
        if padding is None:
            return self.module(flat).unflatten(0, x.shape[:2])
        valid = self.module(flat.index_select(0, padding.rows))
        out = valid.new_zeros(flat.shape[0], valid.shape[1]).index_copy(0, padding.rows, valid)
        return out.unflatten(0, x.shape[:2])


class RecurrentLayer(nn.Module):
    """A GRU whose two directions are summed, after an optional BatchNorm (the first layer has none)."""

    def __init__(self, inputs: int, hidden: int, bidirectional: bool, batch_norm: nn.Module | None) -> None:
        super().__init__()
        if batch_norm is not None:
            self.batch_norm = FrameWise(batch_norm)
        self.rnn = nn.GRU(inputs, hidden, bidirectional=bidirectional)
        self._forward, self._backward = Gru([self.rnn]), Gru([self.rnn], ("_reverse",))
        self._both = Gru([self.rnn], ("", "_reverse"))

    def forward(self, x: Tensor, padding: Padding | None = None) -> Tensor:
        """`x` (longest, batch, inputs) to (longest, batch, hidden); `padding` gives each utterance its own end."""
        if hasattr(self, "batch_norm"):
            x = self.batch_norm(x, padding)
        if trains_on_cpu(self, x):
            return self._train_on_cpu(x, padding)
        if not self.rnn.bidirectional:
            return self._forward(x, self.training)
        if padding is None:
            return _sum_directions(self._both(x, self.training))
        # The backward direction runs forward over reversed utterances, and never sees what follows an utterance.
        # PyTorch's packed GRU would sort the batch on the host and wait for the GPU, keep cuDNN from its kernel for
        # small layers, and zero gradients on a CPU in time quadratic in the length.
        back = self._backward(_reverse(x, padding.reverse_index), self.training)
        return self._forward(x, self.training) + _reverse(back, padding.reverse_index)

    def _train_on_cpu(self, x: Tensor, padding: Padding | None) -> Tensor:
        if not self.rnn.bidirectional:
            return cpu_gru.gru(x, self._forward.weights())
        padding = padding or Padding.of(torch.full(x.shape[1:2], len(x)), len(x))
        return cpu_gru.gru(x, self._both.weights(), padding.reverse_index)

    def flatten_weights(self, padded: bool) -> None:
        """Lay the weights out in GPU memory as `forward` uses them, with `padding` or without."""
        if not self.rnn.bidirectional:
            self._forward.flatten_weights()
        elif padded:
            self._forward.flatten_weights()
            self._backward.flatten_weights()
        else:
            self._both.flatten_weights()


def _reverse(x: Tensor, reverse_index: Tensor) -> Tensor:
    return x.flatten(0, 1).index_select(0, reverse_index).view_as(x)


def _sum_directions(x: Tensor) -> Tensor:
    return x.unflatten(2, (2, -1)).sum(2)


class Stack:
    """Unidirectional layers with nothing between them, run as one multi-layer GRU.

    cuDNN can then work on several layers at once, each a few frames behind the one below.
    """

    def __init__(self, layers: Sequence[RecurrentLayer]) -> None:
        self._layers = tuple(layers)
        self._gru = Gru([layer.rnn for layer in layers])

    def __call__(self, x: Tensor) -> Tensor:
        """(longest, batch, inputs) to (longest, batch, hidden); layer by layer in training on a CPU."""
        first = self._layers[0]
        if trains_on_cpu(first, x):
            for layer in self._layers:
                x = layer(x)
            return x
        return self._gru(x, first.training)

    def flatten_weights(self) -> None:
        """See Gru."""
        self._gru.flatten_weights()
