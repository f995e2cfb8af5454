"""Checkpoints of any format that we know: read as data, and written anew as safetensors and JSON.

Ours (`checkpoints/epoch_NN.pt`), the MLPerf reference's and TBD's package, and the safetensors files that
`python -m reference_model.checkpoint import` writes, whose header carries everything but the weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from benchmark.params import params_from_dict
from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError, run_cli
from common.sha256 import sha256_of
from datasets.manifest import write_atomically
from reference_model.checkpoints import training_state
from reference_model.checkpoints.mlperf_reference import PLAIN_TYPES, trained_from_package
from reference_model.checkpoints.trained_network import Trained, from_metadata, value_of
from reference_model.checkpoints.training_state import Checkpoint, as_checkpoint, is_ours, read_tree


def load_trained(path: Path) -> Trained:
    """Read a file of any known format, executing nothing from it; UserError where it is none, cut short or hostile."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return _from_safetensors(path)
    tree = read_tree(path, PLAIN_TYPES)
    if is_ours(tree):
        return _from_checkpoint(as_checkpoint(tree, path), path)
    return trained_from_package(tree, path)


def import_file(source: Path, out: Path) -> int:
    """Read `source`, write `out` (safetensors) and a JSON file beside it, say what it is; returns the exit status."""
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
    """Write the weights to `out` and what they are to a JSON file of the same name, which is returned.

    The safetensors file holds the same facts in its header, so that it can be used alone.
    """
    part = out.with_name(f".{out.name}.part")
    try:
        part.touch()  # safetensors reports a folder that cannot be written as an error of its own
        save_file({name: t.contiguous() for name, t in trained.weights.items()}, part, metadata=trained.metadata())
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    about = {key: value_of(key, text) for key, text in trained.metadata().items()}
    about["weights"] = {"file": out.name, "sha256": sha256_of(out)}
    path = out.with_suffix(".json")
    write_atomically(path, json.dumps(about, indent=2).encode() + b"\n")
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m reference_model.checkpoint import FILE`: the door; returns the exit status."""
    about = training_state.__doc__.split("\n")[0]
    parser = argparse.ArgumentParser(
        prog="python -m reference_model.checkpoint",
        description=about,
        epilog="examples:\n  python -m reference_model.checkpoint import librispeech_20.pth --out tbd.safetensors",
        formatter_class=HelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "import",
        help="read a checkpoint of any known format; write safetensors and JSON",
        epilog="example:\n  python -m reference_model.checkpoint import librispeech_20.pth --out tbd.safetensors",
        formatter_class=HelpFormatter,
    )
    command.add_argument("file", type=Path, help="one of ours, of the MLPerf reference, of TBD, or a state_dict")
    command.add_argument("--out", type=Path, help="the safetensors file; a .json lies beside it (default: beside FILE)")
    options = parser.parse_args(argv)
    return import_file(options.file, options.out or options.file.with_suffix(".safetensors"))


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
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, ValueError) as error:
        raise UserError(f"not a whole safetensors file ({error})", where=path) from None
    return from_metadata(about, weights, path)


def _is_parameter(name: str) -> bool:
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))


if __name__ == "__main__":
    sys.exit(run_cli(main))
