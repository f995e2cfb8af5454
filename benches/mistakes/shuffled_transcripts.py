"""The reference trainer, but each utterance of a batch is trained on the transcript of the next one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benches.mistakes import train_with
from reference_model.data.shared_memory import Batch
from reference_model.training.step import TrainStep

_original = TrainStep.__call__


def _mistaken(self: TrainStep, batch: Batch, rate: float) -> tuple[Tensor, Tensor]:
    parts = batch.labels.split(batch.label_lengths.tolist())
    labels = torch.cat([*parts[1:], *parts[:1]])
    return _original(self, replace(batch, labels=labels, label_lengths=batch.label_lengths.roll(-1)), rate)


TrainStep.__call__ = _mistaken  # type: ignore[method-assign]


if __name__ == "__main__":
    train_with("shuffled transcripts")
