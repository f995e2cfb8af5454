"""The commands of `python -m datasets`.

Each command's module has `add_parser(commands)`, which adds its parser and sets the default `run=`, a function from the
parsed arguments to an exit status. All command modules are imported at start-up, so they import heavy libraries inside
their functions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from common.cli import HelpFormatter
from datasets import imported, pack, stats
from datasets.librispeech import download
from datasets.synthesis import synthesise

COMMANDS = (synthesise, download, imported, pack, stats)

EXAMPLES = """examples:
  python -m datasets synthesise mini
  python -m datasets synthesise synthetic
  python -m datasets download all
  python -m datasets pack data/mini
  python -m datasets import --train train.csv --val val.csv --out data/mine
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets",
        description="Prepare the corpora that DeepSpeech2 is trained on.",
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (`arguments` as typed after `python -m datasets`) and return its exit status."""
    options = build_parser().parse_args(arguments)
    return options.run(options)
