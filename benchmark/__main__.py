"""The benchmark's command: `python -m benchmark run` times a run, `python -m benchmark doctor` checks the machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from common.cli import HelpFormatter
from common.errors import run_cli

EXAMPLES = """examples:
  python -m benchmark run --variant mini > log
  python -m benchmark run --help         the variables that choose a run
  python -m benchmark doctor
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (`arguments` as typed after `python -m benchmark`) and return its exit status."""
    from benchmark import settings

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["doctor"]:
        from benchmark.doctor import doctor

        return doctor.main(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmark",
        description="Time a run of the DeepSpeech2 benchmark, or check this machine.",
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    run_parser = commands.add_parser(
        "run",
        help="do one timed run; the log goes to stdout",
        description="Do one timed run: the log goes to stdout, everything else to stderr. `sh run_and_time.sh` sets up the "
        "environment first and then starts this command.",
        epilog=settings.VARIABLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    settings.add_arguments(run_parser)
    run_parser.set_defaults(run=_run)
    commands.add_parser("doctor", help="check what this machine can run", add_help=False)
    options = parser.parse_args(arguments)
    return options.run(options)


def _run(options: argparse.Namespace) -> int:
    from benchmark.harness.run import run
    from benchmark.harness.series import run_series, wanted_runs
    from benchmark.settings import from_environment

    settings, runs = from_environment(options, os.environ), wanted_runs(os.environ)
    return run(settings) if runs == 1 else run_series(settings, runs)


def _open_missing_streams() -> None:
    """Open any standard stream that the caller closed (`>&-`), so that no other file becomes stdout or stderr."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


if __name__ == "__main__":
    _open_missing_streams()
    sys.exit(run_cli(main))
