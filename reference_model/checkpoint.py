"""Reads a checkpoint of any known format, and writes it as safetensors and JSON.

python -m reference_model.checkpoint import librispeech_20.pth --out tbd.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import HelpFormatter
from common.errors import run_cli


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of `checkpoint import`, the only subcommand."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_model.checkpoint",
        description=__doc__.split("\n")[0],
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
    command.add_argument(
        "--out", type=Path, help="the safetensors file; a .json is written next to it (default: next to FILE)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Convert the file; returns the exit status."""
    args = parse_arguments(argv)
    from reference_model.checkpoints.loading import import_file  # imports torch, which --help need not wait for

    return import_file(args.file, args.out or args.file.with_suffix(".safetensors"))


if __name__ == "__main__":
    sys.exit(run_cli(main))
