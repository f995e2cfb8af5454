"""`python -m results report PATH... --html FILE`: the comparison as self-contained pages with charts.

FILE is one page, or an index with a page for each benchmark beside it where one would be larger than 3 MB. The pages
need no network and no scripts. Exit 0: written; 2: nothing to report.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmark.submission import TELEMETRY_FILE, file_of_run
from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError
from common.files import write_atomically
from results.compare import add_shared_arguments, compare_as_asked, report_problems
from results.output_files import refuse_inputs
from results.reading.discover import Source, find_sources
from results.reading.load import read_run
from results.reading.run_check import check_runs
from results.rendering.report_pages import Page, report_pages

EXAMPLES = """examples:
  python -m results report runs --html report.html
  python -m results report old=runs/main new=runs/my-branch --html report.html
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
    parser.add_argument("--html", type=Path, required=True, metavar="FILE", help="the page (or index) to write")
    parser.add_argument("--title", default="DeepSpeech2 benchmark: results", help="the page's title")
    options = parser.parse_args(argv)
    if not options.html.absolute().parent.is_dir() or options.html.is_dir():
        raise UserError("not a file in an existing folder", where=options.html)
    problems: list[str] = []
    sources = find_sources(options.paths, problems, options.benchmark)
    refuse_inputs([options.html], _inputs(sources))
    runs = map(read_run, sources)
    comparison = compare_as_asked(check_runs(runs) if options.check else runs, options)
    comparison.problems[:0] = problems
    report_problems(comparison.problems)
    if not comparison.rows:
        raise UserError("no run could be reported", where=options.paths[0].path)
    write_pages(options.html, report_pages(comparison, options.title, options.html.name), sources)
    return EXIT_OK


def _inputs(sources: Iterable[Source]) -> Iterator[Path]:
    """Every file that is read for the report."""
    for source in sources:
        yield from source.files
        if telemetry := file_of_run(source.log, TELEMETRY_FILE):
            yield telemetry


def write_pages(file: Path, pages: Sequence[Page], sources: Sequence[Source]) -> None:
    """Write the pages, the last one as `file` and the others beside it, unless one of them is an input."""
    paths = [file.with_name(page.name) for page in pages]
    refuse_inputs(paths, _inputs(sources))
    for path, page in zip(paths, pages, strict=True):
        write_atomically(path, page.content)
        rows = sum(len(group.rows) for group in page.groups)
        content = f"{_counted(rows, 'row')} in {_counted(len(page.groups), 'group')}"
        if page.index:
            content = f"index of {_counted(len(pages) - 1, 'page')} with {content}"
        print(f"{path}: {content}", file=sys.stderr)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
