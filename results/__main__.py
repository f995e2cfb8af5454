"""`python -m results COMMAND`: what the runs on disk say. Each command is a module of this package."""

from __future__ import annotations

import importlib
import sys

from common.errors import EXIT_ERROR, EXIT_OK, run_cli

COMMANDS = {
    "compare": ("results.compare", "one table over runs, machines and published MLPerf packages"),
    "report": ("results.report", "the same as one self-contained HTML page with plots"),
    "package": ("results.package", "a submission package from runs"),
    "score": ("results.score", "the score of a series of runs"),
    "verify-dataset": ("results.dataset_check.verify", "the dataset's checksum against its reference"),
}


EXAMPLES = """examples:
  python -m results compare runs
  python -m results report runs --html report.html
  python -m results compare --help"""


def main() -> int:
    """Find the command and hand it the rest of the arguments."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in COMMANDS:
        asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help")
        out = sys.stdout if asked_for_help else sys.stderr
        print("usage: python -m results COMMAND ...\n\ncommands:", file=out)
        for name, (_, help_text) in COMMANDS.items():
            print(f"  {name:<15} {help_text}", file=out)
        print(f"\n{EXAMPLES}", file=out)
        return EXIT_OK if asked_for_help else EXIT_ERROR
    module = importlib.import_module(COMMANDS[arguments[0]][0])
    return module.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(run_cli(main))
