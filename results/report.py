"""`python -m results report PATH... --html FILE`: the comparison as one self-contained page with charts.

The page needs no network and no scripts. Exit 0: written; 2: nothing to report.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError
from common.files import write_atomically
from results.compare import add_shared_arguments, report_problems
from results.comparing.comparison import compare_runs
from results.reading.discover import find_sources
from results.reading.load import read_run
from results.reading.run_check import check_runs
from results.rendering.report_page import page

EXAMPLES = """examples:
  python -m results report runs --html report.html
  python -m results report here there --baseline here-system --html report.html
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` excludes its name."""
    parser = argparse.ArgumentParser(
        prog="python -m results report",
        description=__doc__.split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    add_shared_arguments(parser)
    parser.add_argument("--html", type=Path, required=True, metavar="FILE", help="the page to write")
    parser.add_argument("--title", default="DeepSpeech2 benchmark: results", help="the page's title")
    options = parser.parse_args(argv)
    problems: list[str] = []
    sources = find_sources(options.paths, problems, options.benchmark)
    inputs = {
        path.resolve()
        for source in sources
        for path in (source.log, source.record, source.result and source.result.description)
        if path
    }
    if options.html.resolve() in inputs:
        raise UserError("this is one of the inputs, which are never overwritten", where=options.html)
    runs = (read_run(source) for source in sources)
    comparison = compare_runs(
        check_runs(runs) if options.check else runs,
        benchmark=options.benchmark,
        baseline=options.baseline,
        sort=options.sort,
    )
    comparison.problems[:0] = problems
    report_problems(comparison.problems)
    if not comparison.rows:
        raise UserError("no run could be reported", where=options.paths[0])
    write_atomically(options.html, page(comparison, options.title).encode())
    print(f"{options.html}: {len(comparison.rows)} rows in {len(comparison.groups)} groups", file=sys.stderr)
    return EXIT_OK
