"""Checkpoints of every known format: read as data, and converted to safetensors and JSON.

The formats: ours (`checkpoints/epoch_NN.pt`), the packages of the MLPerf reference and of TBD, and the safetensors
files that `python -m reference_model.checkpoint import` writes, whose header carries everything but the weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from benchmark.params import params_from_dict
from common.errors import EXIT_OK, UserError
from common.files import sha256_of, write_atomically
from reference_model.checkpoints.mlperf_reference import PLAIN_TYPES, trained_from_package
from reference_model.checkpoints.trained_network import Trained, from_metadata, value_of
from reference_model.checkpoints.training_state import Checkpoint, as_checkpoint, is_ours, read_tree


def load_trained(path: Path) -> Trained:
    """Read a file of any known format, executing nothing from it; UserError if unknown, truncated or hostile."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return _from_safetensors(path)
    tree = read_tree(path, PLAIN_TYPES)
    if is_ours(tree):
        return _from_checkpoint(as_checkpoint(tree, path), path)
    return trained_from_package(tree, path)


def import_file(source: Path, out: Path) -> int:
    """Convert `source` to `out` (safetensors) and a JSON file next to it, print what it is; returns the exit status."""
    if out.suffix != ".safetensors":
        raise UserError("must end in .safetensors", where=f"--out {out}")
    trained = load_trained(source)
    trained.check_weights()
    out.parent.mkdir(parents=True, exist_ok=True)
    about = write_safetensors(trained, out)
    count = sum(tensor.numel() for name, tensor in trained.weights.items() if _is_parameter(name))
    directions = "bidirectional" if trained.model.bidirectional else "unidirectional"
    print(f"{trained.model.rnn_layers} {directions} GRU layers of {trained.model.rnn_hidden}, {count:,} parameters")
    print(f"wrote {out} and {about}")
    return EXIT_OK


def write_safetensors(trained: Trained, out: Path) -> Path:
    """Write the weights to `out` and the metadata to a JSON file of the same name; returns the path of the JSON file.

    The header of the safetensors file holds the same metadata, so that it can be used alone.
    """
    part = out.with_name(f".{out.name}.part")
    try:
        part.touch()  # safetensors would report an unwritable folder as an error type of its own
        save_file({name: t.contiguous() for name, t in trained.weights.items()}, part, metadata=trained.metadata())
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    about = {key: value_of(key, text) for key, text in trained.metadata().items()}
    about["weights"] = {"file": out.name, "sha256": sha256_of(out)}
    path = out.with_suffix(".json")
    write_atomically(path, json.dumps(about, indent=2).encode() + b"\n")
    return path


def _from_checkpoint(checkpoint: Checkpoint, path: Path) -> Trained:
    params = params_from_dict(checkpoint.params, path)
    return Trained(
        model=params.model,
        features=params.features,
        precision=params.train.precision,
        weights=checkpoint.model,
        source=f"{path.name}, a checkpoint of this trainer",
        source_sha256=sha256_of(path),
        variant=params.variant,
        epoch=checkpoint.epoch,
        wer=checkpoint.wer,
    )


def _from_safetensors(path: Path) -> Trained:
    if not path.is_file():
        raise UserError("no such checkpoint", where=path)
    try:
        with safe_open(path, framework="pt") as file:
            about: Any = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError) as error:
        raise UserError(f"not a complete safetensors file ({error})", where=path) from None
    return from_metadata(about, weights, path)


def _is_parameter(name: str) -> bool:
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
