"""`python -m results compare PATH...`: one table of run folders, single logs and published MLPerf repositories.

Only reads files; the output depends on nothing else. Exit 0: compared; 2: nothing could be compared.
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
from results.reading.load import read_run
from results.reading.run_check import check_runs
from results.reading.run_data import Run
from results.rendering import inference_table
from results.rendering.export import render_csv, render_json, render_markdown
from results.rendering.inference_table import Inference
from results.rendering.terminal_table import render_text

EXAMPLES = """examples:
  python -m results compare runs
  python -m results compare runs/mini ../training_results_v1.1 --format markdown
  python -m results compare training_results_v5.1 --benchmark llama2_70b_lora --check
  python -m results compare here there --baseline here-system --width 160

Exit status: 0 compared, 2 nothing could be compared.
"""


def load_runs(
    paths: Sequence[Path], problems: list[str] | None = None, *, benchmark: str | None = None, check: bool = False
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
        "paths", nargs="+", type=Path, metavar="PATH", help="run folder, folder of runs, log, or MLPerf repository"
    )
    add_check_argument(parser)
    parser.add_argument("--benchmark", metavar="NAME", help="include only this benchmark or variant")
    parser.add_argument("--baseline", metavar="SYSTEM", help="print speed-ups over this system")
    parser.add_argument("--sort", choices=list(SORTS), default="score", help="order of the rows in a group")


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
    parser.add_argument(
        "--width", type=int, metavar="COLUMNS", help="width of the text table (default: the terminal's)"
    )
    options = parser.parse_args(argv)
    problems: list[str] = []
    inference_files = inference_table.find_inference(options.paths)
    inferences = inference_table.read_inference(inference_files, problems)
    paths = [path for path in options.paths if not inference_files or _contains_log(path)]
    comparison = compare_runs(
        load_runs(paths, problems, benchmark=options.benchmark, check=options.check),
        benchmark=options.benchmark,
        baseline=options.baseline,
        sort=options.sort,
    )
    comparison.problems[:0] = problems
    report_problems(comparison.problems)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without Unicode gets escapes instead of an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.write(render(comparison, options.format, options.width, inferences))
    if not comparison.rows and not inferences:
        print("error: no run could be compared", file=sys.stderr)
        return EXIT_ERROR
    return EXIT_OK


def render(comparison: Comparison, form: str, width: int | None = None, inferences: Sequence[Inference] = ()) -> str:
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
        tables.append(render_text(comparison, width) if form == "text" else render_markdown(comparison))
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
