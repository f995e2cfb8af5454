"""Checkpoints of this trainer: written atomically after each epoch's evaluation, read without executing any code.

A checkpoint holds all that an exact resume needs: weights, BatchNorm statistics, optimizer state, the epoch, and the
seed, which determines all later randomness (batch order and augmentation are functions of seed, epoch and utterance; no
generator state outlives a step).
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

from common.errors import UserError, first_line
from common.formats import CHECKPOINT, VERSION_KEY


@dataclass(frozen=True)
class Checkpoint:
    """The training state after `epoch` (from 1). `params` are the variant's nested values, `wer` is in percent.

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


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write `checkpoint` atomically: `path` never holds a partial file. UserError or OSError where the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    tree = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    try:
        with open(part, "wb") as file:
            try:
                # Readers of version 1 look for "format"; without it they would take the file for another trainer's
                # weights.
                torch.save(CHECKPOINT.with_version(tree) | {"format": CHECKPOINT.version}, file)
            except RuntimeError as error:
                # PyTorch's writer reports a full disk as a RuntimeError about its position in the file.
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
    """Read a checkpoint; UserError where it is missing, truncated, of another kind, or holds more than data."""
    tree = read_tree(path)
    if not is_ours(tree):
        raise UserError(
            "not a checkpoint of this trainer", where=path, remedy="give a file from a run's checkpoints folder"
        )
    return as_checkpoint(tree, path)


def as_checkpoint(tree: dict, path: Path) -> Checkpoint:
    """The checkpoint in a tree of ours (`is_ours`), of this or an older version; UserError naming the fault."""
    return CHECKPOINT.read(Checkpoint, tree, path, "use the checkpoint of an earlier epoch")


def is_ours(tree: object) -> bool:
    """Whether a file's content is a checkpoint of this trainer, of any version, complete or not."""
    return isinstance(tree, dict) and not tree.keys().isdisjoint({VERSION_KEY, "format"}) and "params" in tree


def read_tree(path: Path, plain_types: Sequence[Any] = ()) -> Any:
    """What torch.save wrote to `path`, as data: nothing is executed, and a file that contains code is refused.

    `plain_types` are harmless types that are allowed besides PyTorch's own. UserError where the file is missing or
    damaged.
    """
    path = Path(path)
    try:
        with torch.serialization.safe_globals(list(plain_types)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError("no such checkpoint", where=path) from None
    except pickle.UnpicklingError as error:
        raise UserError(f"refused: the file holds more than plain data ({first_line(error)})", where=path) from None
    except PermissionError:
        raise
    except Exception as error:
        # PyTorch's reader raises errors of many types for a damaged file, among them AssertionError, struct.error and
        # an OSError of "Invalid argument".
        raise UserError(
            f"not a complete checkpoint ({first_line(error)})",
            where=path,
            remedy="use the checkpoint of an earlier epoch",
        ) from None
