"""DeepSpeech2: two convolutions over time and frequency, a stack of GRUs, BatchNorm and a linear layer.

Shapes and parameter names are those of the MLPerf speech reference, so that its checkpoints load by name. Nothing is
padded in time: an utterance of T feature frames yields (T - 11) // 2 + 1 - 10 output frames in any batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.params import ModelParams
from datasets.geometry import KERNELS, SMALLEST_BINS, STRIDES, output_bins, output_frames
from reference_model.model.alphabet import LABELS
from reference_model.model.layers import Convolution, FrameWise, Padding, RecurrentLayer, Stack, SynchronizedBatchNorm


class DeepSpeech2(nn.Module):
    """The network of a variant, over features of `bins` bins.

    With `channels_last` the convolutions and their norms use PyTorch's channels-last memory format.
    """

    def __init__(self, params: ModelParams, bins: int, channels_last: bool = False) -> None:
        super().__init__()
        self.params = params
        self.bins = max(bins, SMALLEST_BINS)

        def norm(features: int, dimensions: int) -> nn.Module:
            if params.sync_batch_norm:
                return SynchronizedBatchNorm(features)
            return nn.BatchNorm2d(features) if dimensions == 2 else nn.BatchNorm1d(features)

        channels, hidden = params.conv_channels, params.rnn_hidden
        self.conv = nn.Sequential(
            Convolution(1, channels, KERNELS[0], stride=STRIDES[0]),
            norm(channels, 2),
            nn.Hardtanh(0, 20, inplace=True),
            Convolution(channels, channels, KERNELS[1], stride=STRIDES[1]),
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
            self._store_weights_channels_last()
        self._stack = Stack(self._layers) if not (params.bidirectional or params.batch_norm_between) else None

    @property
    def _layers(self) -> list[RecurrentLayer]:
        return [layer for layer in self.rnns if isinstance(layer, RecurrentLayer)]

    def _store_weights_channels_last(self) -> None:
        for convolution in self.conv:
            if isinstance(convolution, nn.Conv2d):
                # Not `contiguous`: with one channel it would keep the strides, and the gradient would have other ones.
                weight = torch.empty_like(convolution.weight, memory_format=torch.channels_last)
                convolution.weight = nn.Parameter(weight.detach().copy_(convolution.weight.detach()))

    def _apply(self, fn: Callable, recurse: bool = True) -> DeepSpeech2:
        super()._apply(fn, recurse)
        if self._stack:
            self._stack.flatten_weights()
        else:
            for layer in self._layers:
                layer.flatten_weights(padded=self.params.mask_padding)
        return self

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of `features` (batch, bins, longest), of which utterance i has the first `frames`[i], and lengths.

        Keep `frames` (batch,) in host memory even when the features are on a GPU: reading it from there would
        synchronize. Returns logits (output frames, batch, labels) and (batch,) output frames. With `mask_padding` the
        GRUs and the norms after the convolutions see valid frames only, and logits past an utterance's end are zero;
        without it they run over the padding, as the reference does.
        """
        if features.shape[1] < self.bins:
            features = functional.pad(features, (0, 0, 0, self.bins - features.shape[1]))
        # With one channel both layouts are the same memory: only the strides select the convolution's layout.
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
    """Whether the convolutional front-end uses `channels_last` by default.

    It does in bf16 on a GPU. PyTorch gives cuDNN no BatchNorm in bf16, and its own kernel gives each channel one thread
    block: 32 blocks for some 130 multiprocessors, unless the memory format is channels-last (read in PyTorch 2.11's
    Normalization.cpp and Normalization.cuh). `benches gpu` measures both layouts.
    """
    return device.type == "cuda" and precision == "bf16"


def parameter_count(model: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())
