"""`python -m results compare PATH...`: one table over run folders, single logs and published MLPerf repositories.

Reads only; comparing twice gives the same answer. Exit 0: compared; 2: nothing could be compared.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.cli import HelpFormatter
from common.errors import EXIT_ERROR, EXIT_OK, UserError, one_line
from results.comparing.comparison import SORTS, Comparison, compare_runs
from results.reading.discover import find_sources
from results.reading.load import Run, read_run
from results.rendering import inference_table
from results.rendering.export import render_csv, render_json, render_markdown
from results.rendering.inference_table import Inference
from results.rendering.terminal_table import render_text

EXAMPLES = """examples:
  python -m results compare runs
  python -m results compare runs/mini ../training_results_v1.1 --format markdown
  python -m results compare here there --baseline here-system --width 160

Exit status: 0 compared, 2 nothing could be compared.
"""


def load_runs(paths: Sequence[Path], problems: list[str] | None = None) -> Iterator[Run]:
    """The runs under `paths`, one at a time, without their curves; folders that cannot be read go to `problems`."""
    return (read_run(source).slim() for source in find_sources(paths, problems))


def report_problems(problems: Sequence[str]) -> None:
    """Every problem as a line on stderr."""
    for problem in problems:
        print(f"warning: {one_line(problem)}", file=sys.stderr)


def add_choices(parser: argparse.ArgumentParser) -> None:
    """The arguments that `compare` and `report` share."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="run folder, folder of runs, log, or MLPerf repository"
    )
    parser.add_argument("--benchmark", metavar="NAME", help="only this benchmark or variant")
    parser.add_argument("--baseline", metavar="SYSTEM", help="print speed-ups over this system")
    parser.add_argument("--sort", choices=["score", *SORTS], default="score", help="order of the rows in a group")


def main(argv: Sequence[str]) -> int:
    """The door; `argv` without the command's name."""
    parser = argparse.ArgumentParser(
        prog="python -m results compare",
        description=__doc__.split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    add_choices(parser)
    parser.add_argument("--format", choices=["text", "markdown", "csv", "json"], default="text")
    parser.add_argument("--width", type=int, metavar="COLUMNS", help="of the text table; default: the terminal's")
    options = parser.parse_args(argv)
    problems: list[str] = []
    inference_files = inference_table.find_inference(options.paths)
    inferences = inference_table.read_inference(inference_files, problems)
    paths = [path for path in options.paths if not inference_files or _holds_a_log(path)]
    comparison = compare_runs(
        load_runs(paths, problems), benchmark=options.benchmark, baseline=options.baseline, sort=options.sort
    )
    comparison.problems[:0] = problems
    report_problems(comparison.problems)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that knows no Unicode gets the name's escapes, not an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.write(render(comparison, options.format, options.width, inferences))
    if not comparison.rows and not inferences:
        print("error: no run could be compared", file=sys.stderr)
        return EXIT_ERROR
    return EXIT_OK


def render(comparison: Comparison, form: str, width: int | None = None, inferences: Sequence[Inference] = ()) -> str:
    """The comparison in one of the formats; inference runs stand in a table of their own after it.

    A CSV file holds one table: that of the inference runs only where there is nothing else.
    """
    if form == "json":
        return render_json(comparison, [inference_table.as_values(run) for run in inferences])
    if form == "csv":
        if inferences and comparison.rows:
            report_problems([f"{len(inferences)} inference runs are left out of the CSV: give their folders alone"])
        return inference_table.render_csv(inferences) if inferences and not comparison.rows else render_csv(comparison)
    width = width or shutil.get_terminal_size((80, 24)).columns
    tables = []
    if comparison.rows or not inferences:
        tables.append(render_text(comparison, width) if form == "text" else render_markdown(comparison))
    if inferences:
        tables.append(
            inference_table.render_text(inferences, width)
            if form == "text"
            else inference_table.render_markdown(inferences)
        )
    return "\n".join(tables)


def _holds_a_log(path: Path) -> bool:
    """Whether the path is more than a folder, or file, of inference runs; one that does not exist is an error elsewhere."""
    if path.name == inference_table.NAME:
        return False
    try:
        find_sources([path])
    except UserError:
        return not inference_table.find_inference([path])
    return True
