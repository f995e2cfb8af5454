"""The peer of `benches.training.train_step`: DeepSpeech2's training step in the plainest PyTorch, from the definitions alone.

Features are computed per utterance on the CPU as in the reference's loader, layers run one after the other, losses are read
back at each step, and on a CPU the optimizer loops over its weights. The benchmark itself uses nothing of this.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.params import ModelParams

WINDOW, HOP = 320, 160
CPU = torch.device("cpu")


def spectrogram(waveform: np.ndarray) -> np.ndarray:
    """log1p of the magnitudes (161, 1 + samples // 160), normalised over the utterance."""
    padded = np.pad(waveform, WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    values = np.log1p(np.abs(np.fft.rfft(frames * np.hamming(WINDOW), axis=1))).T.astype(np.float32)
    return (values - values.mean()) / values.std(ddof=1)


class PlainNetwork(nn.Module):
    """The network of `params`, layer by layer; padding is not masked (the reference masks none)."""

    def __init__(self, params: ModelParams) -> None:
        super().__init__()
        channels, hidden = params.conv_channels, params.rnn_hidden
        self.conv = nn.Sequential(
            nn.Conv2d(1, channels, (41, 11), stride=(2, 2)),
            nn.BatchNorm2d(channels),
            nn.Hardtanh(0, 20, inplace=True),
            nn.Conv2d(channels, channels, (21, 11), stride=(2, 1)),
            nn.BatchNorm2d(channels),
            nn.Hardtanh(0, 20, inplace=True),
        )
        inputs = [channels * 21] + [hidden] * (params.rnn_layers - 1)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(hidden) if number and params.batch_norm_between else nn.Identity()
            for number in range(params.rnn_layers)
        )
        self.rnns = nn.ModuleList(nn.GRU(each, hidden, bidirectional=params.bidirectional) for each in inputs)
        self.norm, self.linear = nn.BatchNorm1d(hidden), nn.Linear(hidden, 29, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, 1, 161, frames) to logits (output frames, batch, 29)."""
        x = self.conv(features).flatten(1, 2).permute(2, 0, 1).contiguous()
        for norm, rnn in zip(self.norms, self.rnns, strict=True):
            x = norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            x, _ = rnn(x)
            if rnn.bidirectional:
                x = x.unflatten(2, (2, -1)).sum(2)
        return self.linear(self.norm(x.flatten(0, 1))).unflatten(0, x.shape[:2])


class PlainStep:
    """Training steps on batches of (waveform, labels), on `device`, under autocast to the dtype `autocast` if it is not None."""

    def __init__(
        self,
        params: ModelParams,
        optimizer: str,
        clip_norm: float,
        device: torch.device = CPU,
        autocast: torch.dtype | None = None,
    ) -> None:
        self._device, self._autocast = device, autocast
        with device:
            self.network = PlainNetwork(params)
        # PyTorch's default: all weights at once on a GPU, one after the other on a CPU.
        self._foreach = None if device.type == "cuda" else False
        weights = self.network.parameters()
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(weights, 1e-4, momentum=0.9, nesterov=True, foreach=self._foreach)
            if optimizer == "sgd"
            else torch.optim.AdamW(weights, 1e-4, foreach=self._foreach)
        )
        self._clip_norm = clip_norm

    def __call__(self, waveforms: list[np.ndarray], labels: list[list[int]]) -> float:
        """Train on one batch, longest utterance first; returns the loss."""
        return self.train(*self.prepare(waveforms, labels))

    @staticmethod
    def prepare(waveforms: list[np.ndarray], labels: list[list[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the reference's loader returns: features (batch, 1, 161, frames), output frames, labels, and their numbers."""
        features = [torch.from_numpy(spectrogram(waveform)) for waveform in waveforms]
        batch = torch.zeros(len(features), 1, features[0].shape[0], features[0].shape[1])
        for row, each in zip(batch, features, strict=True):
            row[0, :, : each.shape[1]] = each
        return (
            batch,
            torch.tensor([(each.shape[1] - 11) // 2 + 1 - 10 for each in features]),
            torch.tensor([number for each in labels for number in each]),
            torch.tensor([len(each) for each in labels]),
        )

    def train(self, features: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor) -> float:
        """Train on one batch of `prepare`; returns the loss."""
        with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
            logits = self.network(features.to(self._device))
        loss = functional.ctc_loss(
            logits.float().log_softmax(2), labels.to(self._device), lengths, label_lengths, reduction="sum"
        ) / len(lengths)
        value = loss.item()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self._clip_norm, foreach=self._foreach)
        self.optimizer.step()
        return value
