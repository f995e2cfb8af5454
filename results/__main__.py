"""`python -m results COMMAND`: compare, score, report and package runs. Each command is a module of this package."""

from __future__ import annotations

import importlib
import sys

from common.errors import EXIT_ERROR, EXIT_OK, run_cli

COMMANDS = {
    "compare": ("results.compare", "table of runs, machines and published MLPerf packages"),
    "report": ("results.report", "the same as a self-contained HTML page with charts"),
    "package": ("results.package", "build a submission package from runs"),
    "gate": ("results.gate", "fail if new runs are slower than a baseline, for CI"),
    "score": ("results.score", "score of a series of runs"),
    "verify-dataset": ("results.dataset_check.verify", "compare a dataset's checksum with its reference"),
}


EXAMPLES = """examples:
  python -m results compare runs
  python -m results report runs --html report.html
  python -m results compare --help"""


def main() -> int:
    """Run the named command with the remaining arguments."""
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
