"""The reference trainer, but the second GRU layer keeps its initial weights."""

from __future__ import annotations

from benches.mistakes import train_with
from benchmark.params import ModelParams
from reference_model import train
from reference_model.model.network import DeepSpeech2


class _Wrong(DeepSpeech2):
    def __init__(self, params: ModelParams, bins: int, channels_last: bool = False) -> None:
        super().__init__(params, bins, channels_last)
        self.rnns[1].requires_grad_(False)


train.DeepSpeech2 = _Wrong  # type: ignore[misc]


if __name__ == "__main__":
    train_with("frozen layer")
