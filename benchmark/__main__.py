"""The benchmark's door: `python -m benchmark run` times one run. See `python -m benchmark run --help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from datasets.errors import run_door


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (`arguments` as typed after `python -m benchmark`) and return its exit status."""
    from . import settings

    parser = argparse.ArgumentParser(
        prog="python -m benchmark",
        description="The rules and the clock of the DeepSpeech2 benchmark.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    run_parser = commands.add_parser(
        "run",
        help="do one timed run; the log goes to stdout",
        description="Do one timed run: the log goes to stdout, everything else to stderr.",
        epilog=settings.VARIABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    settings.add_arguments(run_parser)
    run_parser.set_defaults(run=_run)
    options = parser.parse_args(arguments)
    return options.run(options)


def _run(options: argparse.Namespace) -> int:
    from .run import run
    from .settings import from_environment

    return run(from_environment(options, os.environ))


def _open_missing_streams() -> None:
    """Open what the caller closed (`>&-`), lest the next file that is opened becomes stdout or stderr."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


if __name__ == "__main__":
    _open_missing_streams()
    sys.exit(run_door(main))
