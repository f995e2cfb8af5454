"""DeepSpeech2: two convolutions over time and frequency, a stack of GRUs, BatchNorm and a linear layer.

Shapes and parameter names are the MLPerf speech reference's, so that its checkpoints load by name. Nothing is padded in
time, so an utterance of T feature frames yields (T - 11) // 2 + 1 - 10 output frames whatever batch it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmark.params import ModelParams

from . import cpu_conv, cpu_gru
from .alphabet import LABELS

KERNELS = ((41, 11), (21, 11))
"""(frequency, time) extent of the two convolutions; their strides are (2, 2) and (2, 1)."""
SMALLEST_BINS = KERNELS[0][0] + 2 * (KERNELS[1][0] - 1)
"""Fewest feature bins that both convolutions fit over; fewer (MFCC) are padded with zeros to this many."""
FEWEST_FRAMES = KERNELS[0][1] + 2 * (KERNELS[1][1] - 1)
"""Fewest feature frames that yield an output frame."""


_Frames = TypeVar("_Frames", int, Tensor)


def output_frames(frames: _Frames) -> _Frames:
    """Output frames of utterances of `frames` feature frames."""
    return (frames - KERNELS[0][1]) // 2 + 1 - (KERNELS[1][1] - 1)


def _conv_bins(bins: int) -> int:
    bins = (bins - KERNELS[0][0]) // 2 + 1
    return (bins - KERNELS[1][0]) // 2 + 1


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

    `frames` (batch,) are the utterances' lengths; `rows` the positions of valid frames in the batch flattened to
    (longest * batch, features); `turned` (longest * batch,) the row that stands at each place there when every utterance is
    turned round within its own length.
    """

    frames: Tensor
    rows: Tensor
    turned: Tensor

    @classmethod
    def of(cls, frames: Tensor, longest: int) -> Padding:
        """The padding of utterances of `frames` (batch,) frames in a batch of `longest`."""
        position = torch.arange(longest, device=frames.device)[:, None]
        valid = position < frames
        turned = torch.where(valid, frames - 1 - position, position) * len(frames)
        turned += torch.arange(len(frames), device=frames.device)
        return cls(frames, valid.flatten().nonzero().squeeze(1), turned.flatten())


def _trains_on_cpu(module: nn.Module, x: Tensor) -> bool:
    """Whether a reverse pass in full precision on a CPU is to be expected: cpu_gru and cpu_conv are for that."""
    on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return module.training and torch.is_grad_enabled() and on_cpu


class _Convolution(nn.Conv2d):
    """PyTorch's, by way of cpu_conv where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        if _trains_on_cpu(self, x) and cpu_conv.pays(self):
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

    def forward(self, x: Tensor, padding: Padding | None = None) -> Tensor:
        """`x` (longest, batch, inputs) to (longest, batch, hidden); with `padding`, each utterance ends at its own end."""
        if hasattr(self, "batch_norm"):
            x = self.batch_norm(x, padding)
        if _trains_on_cpu(self, x):
            if not self.rnn.bidirectional:
                return cpu_gru.gru(x, self.weights(""))
            whole = padding or Padding.of(torch.full(x.shape[1:2], len(x)), len(x))
            return cpu_gru.gru(x, self.weights("", "_reverse"), whole.turned)
        if not self.rnn.bidirectional:
            return self.rnn(x)[0]
        if padding is None:
            return _sum_directions(self.rnn(x)[0])
        if x.is_cuda:
            packed, _ = self.rnn(pack_padded_sequence(x, padding.frames.cpu(), enforce_sorted=False))
            return _sum_directions(pad_packed_sequence(packed, total_length=x.shape[0])[0])
        # On a CPU the backward direction runs forward over utterances that are turned round, as in training, where PyTorch's
        # packed GRU would clear gradients in time quadratic in the length. What follows an utterance never reaches it.
        back = _run([self.weights("_reverse")], _turn(x, padding.turned), self.training)
        return _run([self.weights("")], x, self.training) + _turn(back, padding.turned)

    def weights(self, *directions: str) -> list[Tensor]:
        """The GRU's weights in PyTorch's order, direction by direction ("" and "_reverse")."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [getattr(self.rnn, f"{name}_l0{direction}") for direction in directions for name in names]


def _run(layers: Sequence[Sequence[Tensor]], x: Tensor, training: bool) -> Tensor:
    """`x` (longest, batch, inputs) through one unidirectional GRU of several layers, given by their weights."""
    start = x.new_zeros(len(layers), x.shape[1], layers[0][1].shape[1])
    weights = [weight for layer in layers for weight in layer]
    return torch.gru(x, start, weights, True, len(layers), 0.0, training, False, False)[0]


def _turn(x: Tensor, turned: Tensor) -> Tensor:
    return x.flatten(0, 1).index_select(0, turned).view_as(x)


def _sum_directions(x: Tensor) -> Tensor:
    return x.unflatten(2, (2, -1)).sum(2)


def run_stack(layers: Sequence[RecurrentLayer], x: Tensor) -> Tensor:
    """Unidirectional `layers` with nothing between them: (longest, batch, inputs) to (longest, batch, hidden).

    One call, but for training on a CPU: cuDNN may then work on several layers at once, each a few frames behind the one below.
    """
    if _trains_on_cpu(layers[0], x):
        for layer in layers:
            x = cpu_gru.gru(x, layer.weights(""))
        return x
    return _run([layer.weights("") for layer in layers], x, layers[0].training)


def gru_dtype(device: torch.device) -> torch.dtype:
    """What GRUs on `device` compute with under the autocast in force, which is PyTorch's choice: see docs/performance.md."""
    x = torch.zeros(1, 1, 1, device=device)
    weights = [torch.zeros(3, *shape, device=device) for shape in ((1,), (1,), (), ())]
    return torch.gru(x, x, weights, True, 1, 0.0, False, False, False)[0].dtype


def _lay_side_by_side(layers: Sequence[RecurrentLayer]) -> None:
    """Let the layers' weights share one piece of GPU memory, in cuDNN's order, so that it need not copy them at each call.

    nn.GRU does that for its own weights; here a GRU of several layers borrows the weights, does it, and is forgotten.
    """
    first = layers[0].rnn
    with torch.device("meta"):
        whole = nn.GRU(first.input_size, first.hidden_size, len(layers))
    for number, layer in enumerate(layers):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(whole, f"{name}_l{number}", getattr(layer.rnn, f"{name}_l0"))
    whole.flatten_parameters()


class DeepSpeech2(nn.Module):
    """The network of a variant, over features of `bins` bins."""

    def __init__(self, params: ModelParams, bins: int) -> None:
        super().__init__()
        self.params = params
        self.bins = max(bins, SMALLEST_BINS)

        def norm(features: int, dimensions: int) -> nn.Module:
            if params.sync_batch_norm:
                return _Synchronised(features)
            return nn.BatchNorm2d(features) if dimensions == 2 else nn.BatchNorm1d(features)

        channels, hidden = params.conv_channels, params.rnn_hidden
        self.conv = nn.Sequential(
            _Convolution(1, channels, KERNELS[0], stride=(2, 2)),
            norm(channels, 2),
            nn.Hardtanh(0, 20, inplace=True),
            _Convolution(channels, channels, KERNELS[1], stride=(2, 1)),
            norm(channels, 2),
            nn.Hardtanh(0, 20, inplace=True),
        )
        self.rnns = nn.Sequential()
        inputs = channels * _conv_bins(self.bins)
        for number in range(params.rnn_layers):
            between = norm(hidden, 1) if number and params.batch_norm_between else None
            self.rnns.append(RecurrentLayer(inputs, hidden, params.bidirectional, between))
            inputs = hidden
        self.fc = nn.Sequential(FrameWise(nn.Sequential(norm(hidden, 1), nn.Linear(hidden, len(LABELS), bias=False))))

    @property
    def _layers(self) -> list[RecurrentLayer]:
        return [layer for layer in self.rnns if isinstance(layer, RecurrentLayer)]

    @property
    def _stacked(self) -> bool:
        """Whether nothing stands between the recurrent layers."""
        return not (self.params.bidirectional or self.params.batch_norm_between)

    def _apply(self, fn: Callable, recurse: bool = True) -> DeepSpeech2:
        super()._apply(fn, recurse)
        if self._stacked and next(self.parameters()).is_cuda:
            _lay_side_by_side(self._layers)
        return self

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """`features` (batch, bins, longest) with `frames` (batch,) valid ones each, to logits and their valid numbers.

        Returns logits (output frames, batch, labels) and (batch,) output frames. With `mask_padding` the GRUs and the
        norms after the convolutions see valid frames only, and logits past an utterance's end are zero; without, they run
        over the padding as the reference does.
        """
        if features.shape[1] < self.bins:
            features = functional.pad(features, (0, 0, 0, self.bins - features.shape[1]))
        x = self.conv(features.unsqueeze(1))
        x = x.flatten(1, 2).permute(2, 0, 1).contiguous()
        lengths = output_frames(frames)
        padding = Padding.of(lengths, x.shape[0]) if self.params.mask_padding else None
        if self._stacked:
            x = run_stack(self._layers, x)
        else:
            for layer in self._layers:
                x = layer(x, padding)
        return self.fc[0](x, padding), lengths


def parameter_count(model: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())
