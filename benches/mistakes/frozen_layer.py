"""The reference trainer, but the second GRU layer keeps its initial weights."""

from __future__ import annotations

from benches.mistakes import train_with
from benchmark.params import ModelParams
from reference_model.model.network import DeepSpeech2
from reference_model.training import training_run


class _Mistaken(DeepSpeech2):
    def __init__(self, params: ModelParams, bins: int, channels_last: bool = False) -> None:
        super().__init__(params, bins, channels_last)
        self.rnns[1].requires_grad_(False)


training_run.DeepSpeech2 = _Mistaken  # type: ignore[misc]


if __name__ == "__main__":
    train_with("frozen layer")
