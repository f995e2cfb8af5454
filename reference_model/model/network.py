"""DeepSpeech2: two convolutions over time and frequency, a stack of GRUs, BatchNorm and a linear layer.

Shapes and parameter names are the MLPerf speech reference's, so that its checkpoints load by name. Nothing is padded in
time, so an utterance of T feature frames yields (T - 11) // 2 + 1 - 10 output frames whatever batch it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from benchmark.params import ModelParams
from datasets.geometry import KERNELS, SMALLEST_BINS, STRIDES, output_bins, output_frames
from reference_model.model import cpu_conv, cpu_gru
from reference_model.model.alphabet import LABELS
from reference_model.model.gru import Gru


class _Synchronised(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batches of all processes (`model.sync_batch_norm`), on any backend.

    PyTorch's own SyncBatchNorm runs on GPUs only. Mean and variance come from sums over all processes, through which the
    gradient flows as well.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        return

    def forward(self, x: Tensor) -> Tensor:
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


class Padding(NamedTuple):
    """Which frames of a batch (longest, batch, features) are an utterance's own.

    `rows` are the positions of valid frames in the batch flattened to
    (longest * batch, features); `turned` (longest * batch,) the row that stands at each place there when every utterance is
    turned round within its own length.
    """

    rows: Tensor
    turned: Tensor

    @classmethod
    def of(cls, frames: Tensor, longest: int, device: torch.device | None = None) -> Padding:
        """The padding of utterances of `frames` (batch,) frames in a batch of `longest`, for tensors on `device`.

        It is worked out where `frames` lies. From lengths in the host's memory that costs a GPU no wait: how many rows are
        valid need not be asked of it, and page-locked memory is copied behind the host's back.
        """
        device = device or frames.device
        position = torch.arange(longest, device=frames.device)[:, None]
        valid = position < frames
        turned = torch.where(valid, frames - 1 - position, position) * len(frames)
        turned += torch.arange(len(frames), device=frames.device)
        rows = valid.flatten().nonzero().squeeze(1)
        return cls(*(to_device(each, device) for each in (rows, turned.flatten())))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`; from the host's memory to a GPU without a wait, by way of page-locked memory."""
    if device.type == "cuda" and values.device.type == "cpu" and not values.is_pinned():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _trains_on_cpu(module: nn.Module, x: Tensor) -> bool:
    """Whether a reverse pass in full precision on a CPU is to be expected: cpu_gru and cpu_conv are for that."""
    on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return module.training and torch.is_grad_enabled() and on_cpu


class _Convolution(nn.Conv2d):
    """PyTorch's, by way of cpu_conv where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        if _trains_on_cpu(self, x) and cpu_conv.is_faster(self):
            return cpu_conv.convolve(x, self)
        return super().forward(x)


class FrameWise(nn.Module):
    """Holds a module that works on (frames, features); the name `module` is part of the reference's parameter names."""

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
    """BatchNorm (not before the first layer, and only if asked for), then a GRU whose two directions are summed."""

    def __init__(self, inputs: int, hidden: int, bidirectional: bool, batch_norm: nn.Module | None) -> None:
        super().__init__()
        if batch_norm is not None:
            self.batch_norm = FrameWise(batch_norm)
        self.rnn = nn.GRU(inputs, hidden, bidirectional=bidirectional)
        self._forward, self._backward = Gru([self.rnn]), Gru([self.rnn], ("_reverse",))
        self._both = Gru([self.rnn], ("", "_reverse"))

    def forward(self, x: Tensor, padding: Padding | None = None) -> Tensor:
        """`x` (longest, batch, inputs) to (longest, batch, hidden); with `padding`, each utterance ends at its own end."""
        if hasattr(self, "batch_norm"):
            x = self.batch_norm(x, padding)
        if _trains_on_cpu(self, x):
            if not self.rnn.bidirectional:
                return cpu_gru.gru(x, self._forward.weights())
            whole = padding or Padding.of(torch.full(x.shape[1:2], len(x)), len(x))
            return cpu_gru.gru(x, self._both.weights(), whole.turned)
        if not self.rnn.bidirectional:
            return self._forward(x, self.training)
        if padding is None:
            return _sum_directions(self._both(x, self.training))
        # The backward direction runs forward over utterances that are turned round. PyTorch's packed GRU would sort them on
        # the host and wait for the GPU, keep cuDNN from its kernel for small layers, and clear gradients in time quadratic in
        # the length on a CPU. What follows an utterance never reaches it.
        back = self._backward(_turn(x, padding.turned), self.training)
        return self._forward(x, self.training) + _turn(back, padding.turned)

    def lay_side_by_side(self, padded: bool) -> None:
        """Lay the weights out in GPU memory as `forward` will want them, with `padding` or without."""
        if not self.rnn.bidirectional:
            self._forward.lay_side_by_side()
        elif padded:
            self._forward.lay_side_by_side()
            self._backward.lay_side_by_side()
        else:
            self._both.lay_side_by_side()


def _turn(x: Tensor, turned: Tensor) -> Tensor:
    return x.flatten(0, 1).index_select(0, turned).view_as(x)


def _sum_directions(x: Tensor) -> Tensor:
    return x.unflatten(2, (2, -1)).sum(2)


class Stack:
    """Unidirectional layers with nothing between them, as one GRU.

    cuDNN may then work on several layers at once, each a few frames behind the one below.
    """

    def __init__(self, layers: Sequence[RecurrentLayer]) -> None:
        self._layers = tuple(layers)
        self._whole = Gru([layer.rnn for layer in layers])

    def __call__(self, x: Tensor) -> Tensor:
        """(longest, batch, inputs) to (longest, batch, hidden); layer by layer in training on a CPU."""
        first = self._layers[0]
        if _trains_on_cpu(first, x):
            for layer in self._layers:
                x = layer(x)
            return x
        return self._whole(x, first.training)

    def lay_side_by_side(self) -> None:
        """See Gru."""
        self._whole.lay_side_by_side()


class DeepSpeech2(nn.Module):
    """The network of a variant, over features of `bins` bins.

    With `channels_last` the convolutions and their norms work on memory in which a place's channels lie together.
    """

    def __init__(self, params: ModelParams, bins: int, channels_last: bool = False) -> None:
        super().__init__()
        self.params = params
        self.bins = max(bins, SMALLEST_BINS)

        def norm(features: int, dimensions: int) -> nn.Module:
            if params.sync_batch_norm:
                return _Synchronised(features)
            return nn.BatchNorm2d(features) if dimensions == 2 else nn.BatchNorm1d(features)

        channels, hidden = params.conv_channels, params.rnn_hidden
        self.conv = nn.Sequential(
            _Convolution(1, channels, KERNELS[0], stride=STRIDES[0]),
            norm(channels, 2),
            nn.Hardtanh(0, 20, inplace=True),
            _Convolution(channels, channels, KERNELS[1], stride=STRIDES[1]),
            norm(channels, 2),
            nn.Hardtanh(0, 20, inplace=True),
        )
        self.rnns = nn.Sequential()
        inputs = channels * output_bins(self.bins)
        for number in range(params.rnn_layers):
            between = norm(hidden, 1) if number and params.batch_norm_between else None
            self.rnns.append(RecurrentLayer(inputs, hidden, params.bidirectional, between))
            inputs = hidden
        self.fc = nn.Sequential(FrameWise(nn.Sequential(norm(hidden, 1), nn.Linear(hidden, len(LABELS), bias=False))))
        self._channels_last = channels_last
        if channels_last:
            for convolution in self.conv:
                if isinstance(convolution, nn.Conv2d):
                    # Not `contiguous`: with one channel it would leave the strides as they are, and the gradient's be others.
                    weight = torch.empty_like(convolution.weight, memory_format=torch.channels_last)
                    convolution.weight = nn.Parameter(weight.detach().copy_(convolution.weight.detach()))
        self._stack = Stack(self._layers) if not (params.bidirectional or params.batch_norm_between) else None

    @property
    def _layers(self) -> list[RecurrentLayer]:
        return [layer for layer in self.rnns if isinstance(layer, RecurrentLayer)]

    def _apply(self, fn: Callable, recurse: bool = True) -> DeepSpeech2:
        super()._apply(fn, recurse)
        if self._stack:
            self._stack.lay_side_by_side()
        else:
            for layer in self._layers:
                layer.lay_side_by_side(padded=self.params.mask_padding)
        return self

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """`features` (batch, bins, longest) with `frames` (batch,) valid ones each, to logits and their valid numbers.

        `frames` had best lie in the host's memory, wherever the features are: from a GPU they would be waited for.
        Returns logits (output frames, batch, labels) and (batch,) output frames. With `mask_padding` the GRUs and the
        norms after the convolutions see valid frames only, and logits past an utterance's end are zero; without, they run
        over the padding as the reference does.
        """
        if features.shape[1] < self.bins:
            features = functional.pad(features, (0, 0, 0, self.bins - features.shape[1]))
        # With one channel both layouts are the same memory: only the strides tell a convolution which one is meant.
        x = features.unsqueeze(3).permute(0, 3, 1, 2) if self._channels_last else features.unsqueeze(1)
        x = self.conv(x)
        x = x.permute(3, 0, 1, 2).flatten(2).contiguous()
        lengths = output_frames(frames)
        padding = Padding.of(lengths, x.shape[0], x.device) if self.params.mask_padding else None
        if self._stack:
            x = self._stack(x)
        else:
            for layer in self._layers:
                x = layer(x, padding)
        return self.fc[0](x, padding), lengths


def prefers_channels_last(device: torch.device, precision: str) -> bool:
    """Whether the convolutional front is to use `channels_last` where nobody says which.

    In bf16 on a GPU: PyTorch gives cuDNN no BatchNorm in bf16, and its own gives each channel one block of threads, 32 for
    some 130 multiprocessors, unless the channels lie together (read in PyTorch 2.11's Normalization.cpp and
    Normalization.cuh). `benches gpu` measures both layouts.
    """
    return device.type == "cuda" and precision == "bf16"


def parameter_count(model: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())
