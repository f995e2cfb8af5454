"""`python -m results compare PATH...`: one table of run folders, single logs and published MLPerf repositories.

Only reads files; the output depends on nothing else. Exit 0: compared; 2: nothing could be compared.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from common.cli import HelpFormatter
from common.errors import EXIT_ERROR, EXIT_OK, UserError, one_line
from results.comparing.baseline import price
from results.comparing.comparison import SORTS, Comparison, compare_runs
from results.comparing.identity import row_keys_from
from results.reading.discover import LabelledPath, find_sources, labelled_path
from results.reading.load import read_run
from results.reading.run_check import check_runs
from results.reading.run_data import Run
from results.rendering import inference_table
from results.rendering.export import render_csv, render_json, render_markdown
from results.rendering.inference_table import Inference
from results.rendering.terminal_table import render_text

T = TypeVar("T")

EXAMPLES = """examples:
  python -m results compare runs
  python -m results compare old=runs/main new=runs/my-branch
  python -m results compare runs --runs --by operating_system
  python -m results compare a=machine-a b=machine-b --price a=2.49 --price b=3.99
  python -m results compare training_results_v5.1 --benchmark llama2_70b_lora --check

A row is the runs of one configuration; docs/results.md has the keys of --by and
--ignore. Exit status: 0 compared, 2 nothing could be compared.
"""


def as_argument(parse: Callable[[str], T], form: str) -> Callable[[str], T]:
    """A parser of an argument that says which form it should have had."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"not {form}: {text!r}") from None

    return parsed


PATH = as_argument(labelled_path, "PATH or LABEL=PATH")
"""The type of a PATH argument: a LabelledPath."""


def load_runs(
    paths: Sequence[Path | LabelledPath],
    problems: list[str] | None = None,
    *,
    benchmark: str | None = None,
    check: bool = False,
) -> Iterator[Run]:
    """Iterate over the runs under `paths`, without their curves; `problems` receives what could not be read.

    `benchmark` leaves out the results of other MLPerf benchmarks; `check` also applies each log's rules.
    """
    runs = (read_run(source).slim() for source in find_sources(paths, problems, benchmark))
    return check_runs(runs) if check else runs


def report_problems(problems: Sequence[str]) -> None:
    """Print every problem as a line on stderr."""
    for problem in problems:
        print(f"warning: {one_line(problem)}", file=sys.stderr)


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `compare` and `report` share."""
    parser.add_argument(
        "paths",
        nargs="+",
        type=PATH,
        metavar="PATH",
        help="run folder, folder of runs, log, or MLPerf repository; LABEL=PATH names its rows",
    )
    add_check_argument(parser)
    parser.add_argument("--benchmark", metavar="NAME", help="include only this benchmark or variant")
    parser.add_argument(
        "--baseline",
        metavar="ROW",
        help="print speed-ups over this row: a label, system, row number (of group 2: 2.1) or path"
        " (default: of two rows, the slower)",
    )
    parser.add_argument(
        "--sort", choices=list(SORTS), default="score", metavar="COLUMN", help=f"order of rows: {', '.join(SORTS)}"
    )
    parser.add_argument("--by", metavar="KEY,...", help="separate runs that differ in these into rows")
    parser.add_argument("--ignore", metavar="KEY,...", help="merge runs that differ only in these into one row")
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        type=as_argument(price, "ROW=USD with a positive price, such as a=2.49"),
        metavar="ROW=USD",
        help="price of an hour of a whole system, for the cost to the target (can be repeated)",
    )


def compare_as_asked(runs: Iterable[Run], options: argparse.Namespace) -> Comparison:
    """Compare runs as the arguments of `add_shared_arguments` say."""
    return compare_runs(
        runs,
        benchmark=options.benchmark,
        baseline=options.baseline,
        sort=options.sort,
        row_keys=row_keys_from(options.by, options.ignore),
        prices=dict(options.price),
    )


def add_check_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--check`."""
    parser.add_argument(
        "--check", action="store_true", help="check each log by the rules of its round; refused runs count as failed"
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` excludes its name."""
    parser = argparse.ArgumentParser(
        prog="python -m results compare",
        description=__doc__.split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    add_shared_arguments(parser)
    parser.add_argument("--format", choices=["text", "markdown", "csv", "json"], default="text")
    parser.add_argument("--runs", action="store_true", help="also list the single runs (text and Markdown)")
    parser.add_argument(
        "--width", type=int, metavar="COLUMNS", help="width of the text table (default: the terminal's)"
    )
    options = parser.parse_args(argv)
    problems: list[str] = []
    inference_files = inference_table.find_inference([path for path, _ in options.paths])
    inferences = inference_table.read_inference(inference_files, problems)
    paths = [given for given in options.paths if not inference_files or _contains_log(given.path)]
    comparison = compare_as_asked(load_runs(paths, problems, benchmark=options.benchmark, check=options.check), options)
    comparison.problems[:0] = problems
    report_problems(comparison.problems)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without Unicode gets escapes instead of an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.write(render(comparison, options.format, options.width, inferences, options.runs))
    if not comparison.rows and not inferences:
        print("error: no run could be compared", file=sys.stderr)
        return EXIT_ERROR
    return EXIT_OK


def render(
    comparison: Comparison,
    form: str,
    width: int | None = None,
    inferences: Sequence[Inference] = (),
    single_runs: bool = False,
) -> str:
    """The comparison in one of the formats, followed by a separate table of inference runs.

    A CSV file has one table: that of the inference runs only if there are no other runs.
    """
    if form == "json":
        return render_json(comparison, [inference_table.as_values(run) for run in inferences])
    if form == "csv":
        if inferences and comparison.rows:
            report_problems([f"{len(inferences)} inference runs are not in the CSV: pass only their folders"])
        return inference_table.render_csv(inferences) if inferences and not comparison.rows else render_csv(comparison)
    width = width or shutil.get_terminal_size((80, 24)).columns
    tables = []
    if comparison.rows or not inferences:
        tables.append(
            render_text(comparison, width, single_runs) if form == "text" else render_markdown(comparison, single_runs)
        )
    if inferences:
        tables.append(
            inference_table.render_text(inferences, width)
            if form == "text"
            else inference_table.render_markdown(inferences)
        )
    return "\n".join(tables)


def _contains_log(path: Path) -> bool:
    """Whether a path has logs and not only inference runs; a path that does not exist is reported later."""
    if path.name == inference_table.NAME:
        return False
    try:
        find_sources([path])
    except UserError:
        return not inference_table.find_inference([path])
    return True
