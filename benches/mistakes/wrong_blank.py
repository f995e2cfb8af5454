"""The reference trainer, but the loss uses the last label as CTC's blank, while decoding uses the first."""

from __future__ import annotations

from benches.mistakes import train_with
from reference_model.model.alphabet import LABELS
from reference_model.training import step

step.BLANK = len(LABELS) - 1


if __name__ == "__main__":
    train_with("wrong blank")
