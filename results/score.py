"""`python -m results score PATH...`: the score of the runs of one series, in one line.

Exit 0: there is a score; 1: there is none (too many runs failed); 2: there are no runs, or runs of several kinds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import HelpFormatter
from common.errors import EXIT_ERROR, EXIT_FAILED, EXIT_OK
from results.compare import add_check_argument, load_runs, report_problems
from results.comparing.columns import minutes_text, name_text
from results.comparing.comparison import compare_runs
from results.comparing.footnotes import verification_notes
from results.rendering.terminal_table import render_text

EXAMPLES = """examples:
  python -m results score runs/series/mini-20260101T000000Z
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` excludes its name."""
    parser = argparse.ArgumentParser(
        prog="python -m results score",
        description=__doc__.split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="run folder, or folder of runs")
    add_check_argument(parser)
    options = parser.parse_args(argv)
    problems: list[str] = []
    comparison = compare_runs(load_runs(options.paths, problems, check=options.check))
    report_problems(problems + comparison.problems)
    if len(comparison.rows) != 1:
        sys.stderr.write(render_text(comparison, 80))
        print(f"error: {len(comparison.rows)} kinds of runs, but a score needs exactly one", file=sys.stderr)
        return EXIT_ERROR
    (row,) = comparison.rows
    value = "none" if row.score.minutes is None else f"{row.score.minutes:.6f} minutes"
    if row.score.models_per_minute is not None:
        value = f"{row.score.models_per_minute:.6f} models per minute, {value} for all"
    spread = "" if row.converged < 2 else f"; {minutes_text(row.minutes_min)} to {minutes_text(row.minutes_max)}"
    print(
        f"score of {name_text(row)}: {value} ({row.score.rule}{spread}; {row.converged} of {row.runs} reached the target)"
    )
    print(*verification_notes(comparison), sep="\n")
    for note in row.notes:
        print(f"note: {note}")
    return EXIT_FAILED if row.score.minutes is None else EXIT_OK
