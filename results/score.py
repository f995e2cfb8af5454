"""`python -m results score PATH...`: the score of the runs of one series, in one line.

Exit 0: there is a score; 1: there is none (too many runs failed); 2: there are no runs, or runs of several kinds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from common.cli import HelpFormatter
from common.errors import EXIT_FAILED, EXIT_OK, UserError
from results.compare import PATH, add_check_argument, load_runs, report_problems
from results.comparing.columns import minutes_text, name_text, row_title
from results.comparing.comparison import Comparison, compare_runs, describe
from results.comparing.footnotes import verification_notes
from results.comparing.identity import row_keys_from
from results.rendering.export import render_json
from results.rendering.terminal_table import render_text

EXAMPLES = """examples:
  python -m results score runs/series/mini-20260101T000000Z
  python -m results score runs/mini --format json
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` excludes its name."""
    parser = argparse.ArgumentParser(
        prog="python -m results score",
        description=__doc__.split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=PATH, metavar="PATH", help="run folder, or folder of runs")
    add_check_argument(parser)
    parser.add_argument("--ignore", metavar="KEY,...", help="merge runs that differ only in these, such as commit")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    options = parser.parse_args(argv)
    problems: list[str] = []
    runs = load_runs(options.paths, problems, check=options.check)
    comparison = compare_runs(runs, row_keys=row_keys_from(None, options.ignore))
    report_problems(problems + comparison.problems)
    if not comparison.rows:
        raise UserError("no run with a score", where=options.paths[0].path)
    if len(comparison.rows) > 1:
        sys.stderr.write(render_text(comparison, 80))
        raise UserError(
            f"runs of several kinds, but a score needs those of one: {_kinds(comparison)}",
            where=options.paths[0].path,
            remedy="pass the folder of one series, or see `python -m results compare`",
        )
    (row,) = comparison.rows
    status = EXIT_FAILED if row.score.minutes is None else EXIT_OK
    if options.format == "json":
        sys.stdout.write(render_json(comparison))
        return status
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
    return status


def _kinds(comparison: Comparison) -> str:
    """In what the rows differ: a text for each, with its number of runs."""
    groups = comparison.groups
    if len(groups) > 1:
        return "; ".join(f"{describe(group.aspects)} ({sum(row.runs for row in group.rows)})" for group in groups)
    rows = groups[0].rows
    return "; ".join(f"{row_title(row, rows)} ({row.runs})" for row in rows)
