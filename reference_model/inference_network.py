"""A trained network laid out for inference: log-probabilities out, no masks but the turn of the backward direction.

In evaluation BatchNorm works frame by frame, and a GRU's frames know only those before them: what follows an utterance
never reaches it. So padding needs no mask, except that the backward direction must start at each utterance's own end.
On a GPU the training's network runs as it is; this one is for CPUs and for export.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .model import FEWEST_FRAMES, DeepSpeech2, FrameWise, RecurrentLayer, output_frames

LARGE_HIDDEN = 512
"""From this GRU width on, a step is bound by reading its weights, and the loop below beats PyTorch's GRU on a CPU."""


class InferenceNetwork(nn.Module):
    """`network` (in evaluation mode) with log-softmax behind it."""

    def __init__(self, network: DeepSpeech2) -> None:
        super().__init__()
        self.network = network
        self._layers = [layer for layer in network.rnns if isinstance(layer, RecurrentLayer)]
        self._recurrent: dict[str, Tensor] = {}
        if network.params.rnn_hidden >= LARGE_HIDDEN:
            # Multiplying by a row-major (hidden, gates) matrix reads memory in a row; the other way is 1.3 times slower.
            for number, layer in enumerate(self._layers):
                for name, weight in layer.rnn.named_parameters():
                    if name.startswith("weight_hh"):
                        self._recurrent[f"{number}.{name}"] = weight.detach().t().contiguous()

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """`features` (batch, bins, longest) and `frames` (batch,), valid ones each, to (output frames, batch, labels).

        Also returns the (batch,) valid output frames. The longest utterance must have FEWEST_FRAMES; see `at_least`.
        """
        net = self.network
        if features.shape[1] < net.bins:
            features = functional.pad(features, (0, 0, 0, net.bins - features.shape[1]))
        x = net.conv(features.unsqueeze(1)).flatten(1, 2).permute(2, 0, 1).contiguous()
        lengths = output_frames(frames)
        flip = None
        if net.params.bidirectional:
            position = torch.arange(x.shape[0], device=x.device)[:, None]
            flip = torch.where(position < lengths, lengths - 1 - position, position)[:, :, None]
        for number, layer in enumerate(self._layers):
            if hasattr(layer, "batch_norm"):
                x = _normalised(layer.batch_norm.module, x)
            ahead = self._gru(layer.rnn, number, x, "")
            if flip is not None:
                back = self._gru(layer.rnn, number, x.gather(0, flip.expand(-1, -1, x.shape[2])), "_reverse")
                ahead = ahead + back.gather(0, flip.expand(-1, -1, back.shape[2]))
            x = ahead
        last = net.fc[0]
        assert isinstance(last, FrameWise) and isinstance(last.module, nn.Sequential)
        norm, linear = last.module
        return functional.log_softmax(linear(_normalised(norm, x)), 2), lengths

    def _gru(self, rnn: nn.GRU, number: int, x: Tensor, direction: str) -> Tensor:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(rnn, f"{name}_l0{direction}") for name in names]
        # Made from x, so that an exported file makes it for whatever batch it is given.
        start = torch.zeros_like(x[:1, :, :1]).expand(-1, -1, rnn.hidden_size).contiguous()
        recurrent = self._recurrent.get(f"{number}.weight_hh_l0{direction}")
        if recurrent is None or torch.onnx.is_in_onnx_export() or torch.is_autocast_enabled("cpu"):
            return torch.gru(x, start, weights, True, 1, 0.0, False, False, False)[0]
        return gru(functional.linear(x, weights[0], weights[2]), recurrent, weights[3], start[0])


def _normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """BatchNorm of (frames, batch, features) in evaluation, in a form whose sizes an exporter leaves open."""
    return norm(x.transpose(1, 2)).transpose(1, 2)


def gru(projected: Tensor, recurrent: Tensor, bias: Tensor, state: Tensor) -> Tensor:
    """A GRU over inputs that are projected already: the same function as torch.gru, step by step (Cho et al. 2014).

    `projected` (frames, batch, 3 x hidden) holds the input's part of reset, update and new gates with its bias; `recurrent`
    (hidden, 3 x hidden) and `bias` (3 x hidden,) the state's part; `state` (batch, hidden). Returns (frames, batch, hidden).
    """
    hidden = state.shape[1]
    out = projected.new_empty(*projected.shape[:2], hidden)
    for step, given in enumerate(projected):
        kept = torch.addmm(bias, state, recurrent)
        gates = torch.sigmoid(given[:, : 2 * hidden] + kept[:, : 2 * hidden])
        new = torch.addcmul(given[:, 2 * hidden :], gates[:, :hidden], kept[:, 2 * hidden :]).tanh_()
        state = torch.lerp(new, state, gates[:, hidden:], out=out[step])
    return out


def at_least(features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """The batch with every utterance given the FEWEST_FRAMES that yield an output frame; what is added is zero."""
    if features.shape[2] < FEWEST_FRAMES:
        features = functional.pad(features, (0, FEWEST_FRAMES - features.shape[2]))
    return features, frames.clamp_min(FEWEST_FRAMES)
