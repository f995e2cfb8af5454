"""Where checkpoints of this trainer are stored: their paths and epochs. Does not import torch."""

from __future__ import annotations

from pathlib import Path

from benchmark import trainer_contract

SUFFIX = ".pt"


def checkpoint_path(run_dir: Path, epoch: int) -> Path:
    """The path of this trainer's checkpoint of `epoch` in a run's folder."""
    return trainer_contract.checkpoint_path(run_dir, epoch, SUFFIX)


def saved_epochs(*run_dirs: Path) -> str:
    """The epochs for which these folders hold checkpoints of this trainer, as `01, 02`."""
    epochs = {epoch for run_dir in run_dirs for epoch in trainer_contract.checkpoints(run_dir, SUFFIX)}
    return ", ".join(f"{epoch:02d}" for epoch in sorted(epochs))
