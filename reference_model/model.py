"""DeepSpeech2: two convolutions over time and frequency, a stack of GRUs, BatchNorm and a linear layer.

Shapes and parameter names are the MLPerf speech reference's, so that its checkpoints load by name. Nothing is padded in
time, so an utterance of T feature frames yields (T - 11) // 2 + 1 - 10 output frames whatever batch it is in.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from benchmark.params import ModelParams

from .alphabet import LABELS

KERNELS = ((41, 11), (21, 11))
"""(frequency, time) extent of the two convolutions; their strides are (2, 2) and (2, 1)."""
SMALLEST_BINS = KERNELS[0][0] + 2 * (KERNELS[1][0] - 1)
"""Fewest feature bins that both convolutions fit over; fewer (MFCC) are padded with zeros to this many."""
FEWEST_FRAMES = KERNELS[0][1] + 2 * (KERNELS[1][1] - 1)
"""Fewest feature frames that yield an output frame."""


def output_frames(frames: Tensor | int) -> Tensor | int:
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
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale.view(shape) + (self.bias - mean * scale).view(shape)


class FrameWise(nn.Module):
    """Holds a module that works on (frames, features); the name `module` is part of the reference's parameter names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """`x` (..., features): all leading axes are frames."""
        return self.module(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


class RecurrentLayer(nn.Module):
    """BatchNorm (not before the first layer, and only if asked for), then a GRU whose two directions are summed."""

    def __init__(self, inputs: int, hidden: int, bidirectional: bool, batch_norm: nn.Module | None) -> None:
        super().__init__()
        if batch_norm is not None:
            self.batch_norm = FrameWise(batch_norm)
        self.rnn = nn.GRU(inputs, hidden, bidirectional=bidirectional)

    def forward(self, x: Tensor | PackedSequence) -> Tensor | PackedSequence:
        """`x` (frames, batch, inputs), or its packed form, to the same with `hidden` features."""
        if hasattr(self, "batch_norm"):
            x = _map(self.batch_norm, x)
        x, _ = self.rnn(x)
        return _map(self._sum_directions, x) if self.rnn.bidirectional else x

    @staticmethod
    def _sum_directions(x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], 2, -1).sum(-2)


def _map(module, x: Tensor | PackedSequence) -> Tensor | PackedSequence:  # noqa: ANN001
    """Apply a frame-wise module to a tensor or to the frames of a packed sequence."""
    if isinstance(x, PackedSequence):
        return PackedSequence(module(x.data), x.batch_sizes, x.sorted_indices, x.unsorted_indices)
    return module(x)


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
            nn.Conv2d(1, channels, KERNELS[0], stride=(2, 2)),
            norm(channels, 2),
            nn.Hardtanh(0, 20, inplace=True),
            nn.Conv2d(channels, channels, KERNELS[1], stride=(2, 1)),
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

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """`features` (batch, bins, longest) with `frames` (batch,) valid ones each, to logits and their valid numbers.

        Returns logits (output frames, batch, labels) and (batch,) output frames. With `mask_padding` the GRUs and the
        norms after the convolutions see valid frames only, and logits past an utterance's end are zero; without, they run
        over the padding as the reference does.
        """
        if features.shape[1] < self.bins:
            features = functional.pad(features, (0, 0, 0, self.bins - features.shape[1]))
        x = self.conv(features.unsqueeze(1))
        x = x.flatten(1, 2).permute(2, 0, 1)
        frames = output_frames(frames)
        if not self.params.mask_padding:
            return self.fc(self.rnns(x.contiguous())), frames
        packed = self.rnns(pack_padded_sequence(x, frames.cpu(), enforce_sorted=False))
        logits, _ = pad_packed_sequence(_map(self.fc, packed), total_length=x.shape[0])
        return logits, frames


def parameter_count(model: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())
