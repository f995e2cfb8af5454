"""Checkpoints: written atomically after each epoch's evaluation, read without executing anything from the file.

A checkpoint holds all that an exact resume needs: weights, BatchNorm statistics, the optimiser's state, the epoch, and the
seed from which every later draw follows (orders and alterations are functions of seed, epoch and utterance; no generator's
state outlives a step).
"""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmark import trainer_contract
from common.errors import UserError
from common.formats import CHECKPOINT, VERSION_KEY

SUFFIX = ".pt"


@dataclass(frozen=True)
class Checkpoint:
    """The state after `epoch` (from 1). `params` are the variant's nested values; `wer` is that epoch's score in percent.

    `model` and `optimizer` are state dictionaries on the CPU.
    """

    params: dict
    params_sha256: str
    seed: int
    epoch: int
    step: int
    trained_samples: int
    wer: float
    model: dict
    optimizer: dict


def checkpoint_path(run_dir: Path, epoch: int) -> Path:
    """Where this trainer's checkpoint of `epoch` lies in a run's folder."""
    return trainer_contract.checkpoint_path(run_dir, epoch, SUFFIX)


def kept_epochs(*run_dirs: Path) -> str:
    """The epochs of which these folders hold checkpoints of this trainer, as `01, 02`."""
    kept = {epoch for run_dir in run_dirs for epoch in trainer_contract.checkpoints(run_dir, SUFFIX)}
    return ", ".join(f"{epoch:02d}" for epoch in sorted(kept))


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write `checkpoint` so that a reader, or a crash, finds either nothing under `path` or the whole.

    UserError, or an OSError, where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    tree = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    try:
        with open(part, "wb") as file:
            try:
                # Readers of version 1 look for "format": they would take the file for another trainer's weights.
                torch.save(CHECKPOINT.stamped(tree) | {"format": CHECKPOINT.version}, file)
            except RuntimeError as error:
                # PyTorch's writer reports a full disk as a RuntimeError about its own position in the file.
                raise UserError(
                    f"cannot write the checkpoint ({error})",
                    where=path,
                    remedy="free some disk space and resume the run",
                ) from None
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; UserError where it is missing, cut short, of another kind, or holds more than data."""
    tree = read_tree(path)
    if not is_ours(tree):
        raise UserError(
            "not a checkpoint of this trainer", where=path, remedy="give a file from a run's checkpoints folder"
        )
    return as_checkpoint(tree, path)


def as_checkpoint(tree: dict, path: Path) -> Checkpoint:
    """The checkpoint that a tree of ours (`is_ours`) holds, of this or an older version; UserError naming what is wrong."""
    return CHECKPOINT.read(Checkpoint, tree, path, "use the one of an earlier epoch")


def is_ours(tree: object) -> bool:
    """Whether what a file holds is a checkpoint of this trainer, whole or not, of whatever version."""
    return isinstance(tree, dict) and not tree.keys().isdisjoint({VERSION_KEY, "format"}) and "params" in tree


def read_tree(path: Path, plain_types: Sequence[Any] = ()) -> Any:
    """What torch.save wrote to `path`, as data: nothing from the file is executed, and a file that asks for it is refused.

    `plain_types` are harmless types that may occur besides PyTorch's own. UserError where the file is missing or not whole.
    """
    path = Path(path)
    try:
        with torch.serialization.safe_globals(list(plain_types)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError("no such checkpoint", where=path) from None
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"refused: the file holds more than plain data ({reason})", where=path) from None
    except PermissionError:
        raise
    except Exception as error:
        # PyTorch's reader answers a damaged file with whatever its bytes lead it into: errors of every kind were seen, an
        # AssertionError, a struct.error and an OSError of "Invalid argument" among them.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"not a whole checkpoint ({reason})", where=path, remedy="use the one of an earlier epoch"
        ) from None
