"""`python -m results gate PATH`: fail if new runs are slower than a baseline, for the CI of a trainer.

Exit 0: not slower beyond the margin, or not with 95 % certainty, or accepted; 1: slower, or the target is not reached;
2: error.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmark.submission import is_run_folder
from common.cli import HelpFormatter
from common.errors import EXIT_FAILED, EXIT_OK, UserError, from_os_error, one_line
from common.files import write_atomically
from common.github_actions import without_commands
from common.values import parse_number
from results.compare import PATH, as_argument, report_problems
from results.comparing.identity import row_keys_from
from results.gating.decision import METRICS, TIME
from results.gating.gate_summary import as_github, as_markdown, as_text, error_for_github, problems_for_github
from results.gating.history import ACCEPTED, HAS_THEM, Entry, append, read_history
from results.gating.history_chart import history_chart
from results.gating.matching import Gated, accept, against_history, against_runs, require_apart
from results.gating.sides import read_runs
from results.output_files import refuse_inputs, same_file
from results.reading.discover import LabelledPath, Source

EXAMPLES = """examples:
  python -m results gate runs/new --baseline runs/main
  python -m results gate runs/new --baseline runs/main --at-most 3% --metric throughput
  python -m results gate runs/new --history perf.jsonl --append --chart perf.svg
  python -m results gate runs/new --history perf.jsonl --append --accept
  python -m results gate runs/new --baseline perf.jsonl --github --markdown summary.md

docs/gate.md has the statistics and a workflow for GitHub Actions.
"""
_HISTORY_SUFFIX = ".jsonl"
NEW, BASELINE = "new", "baseline"
"""What the two sides are called without a label."""


def margin(text: str) -> float:
    """`5%` or `0.05` as a fraction from 0 to 1; ValueError for anything else."""
    number, sign, rest = text.strip().partition("%")
    value = parse_number(number)
    if value is None or rest or not 0 <= (value := value / 100 if sign else value) <= 1:
        raise ValueError(text)
    return value


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m results gate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    made.add_argument(
        "path", type=PATH, metavar="PATH", help="the new runs: run folder, folder of runs or log; LABEL=PATH names them"
    )
    made.add_argument(
        "--baseline",
        type=PATH,
        metavar="PATH",
        help="the runs to compare with, or a history (*.jsonl); default: the newest entry of --history that fits"
        " and is not in doubt",
    )
    made.add_argument(
        "--at-most",
        type=as_argument(margin, "a margin from 0% to 100%, such as 5% or 0.05"),
        default=0.05,
        metavar="MARGIN",
        help="how much more time the new runs may take: 5%% (the default) or 0.05",
    )
    made.add_argument(
        "--metric",
        choices=METRICS,
        default=TIME,
        help="what may not be slower: time to the target (the default), or throughput, which does not depend on the"
        " number of epochs and needs fewer runs",
    )
    made.add_argument(
        "--ignore", metavar="KEY,...", help="take runs of one side that differ only in these, such as commit, as equal"
    )
    made.add_argument("--history", type=Path, metavar="FILE", help="history of earlier runs (JSON lines)")
    made.add_argument("--append", action="store_true", help="append the new runs to --history, with the outcome")
    made.add_argument(
        "--accept",
        action="store_true",
        help="with --append: enter the runs as the next baseline, and pass, even if they are slower or that is in doubt",
    )
    made.add_argument("--chart", type=Path, metavar="FILE", help="write the history as a chart (SVG)")
    made.add_argument(
        "--markdown", type=Path, metavar="FILE", help="append a summary, as for a pull request ($GITHUB_STEP_SUMMARY)"
    )
    made.add_argument("--github", action="store_true", help="also print annotations for GitHub Actions")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` excludes its name."""
    options = parser().parse_args(argv)
    try:
        return _run(options)
    except (UserError, OSError) as error:
        if options.github and not isinstance(error, BrokenPipeError):
            _print_error(error)
        raise


def _run(options: argparse.Namespace) -> int:
    _require_usable(options)
    problems: list[str] = []
    try:
        gated, alone, history = _gate(options, problems)
    finally:
        _print_problems(options, problems)
    if options.accept:
        gated = [accept(each, "accepted with --accept") for each in gated]
    judged = [_judged(each) for each in gated]
    # What is printed comes last: nothing is lost if it cannot be.
    failures: list[UserError] = []
    notes: list[str] = []
    if options.append:
        with _reporting(failures, "--history", options.history):
            notes = _append(options, judged)
            history = read_history(options.history, [])
    if options.markdown:
        with (
            _reporting(failures, "--markdown", options.markdown),
            open(options.markdown, "a", encoding="utf-8") as file,
        ):
            file.write(as_markdown(gated, alone))
    if options.chart:
        with _reporting(failures, "--chart", options.chart):
            write_atomically(options.chart, history_chart(history, judged, options.metric))
    text = as_text(gated, alone, shutil.get_terminal_size((80, 24)).columns)
    text = without_commands(text) + as_github(gated) if options.github else text
    print(text + "".join(one_line(note) + "\n" for note in notes), end="", flush=True)
    for failure in failures[:-1]:
        print(f"error: {failure}", file=sys.stderr)
        if options.github:
            _print_error(failure)
    if failures:
        raise failures[-1]
    return EXIT_OK if all(each.passed for each in gated) else EXIT_FAILED


def _judged(gated: Gated) -> Entry:
    """The entry of a history for these runs."""
    outcome = gated.decision.outcome.name.lower()
    passed = gated.passed if gated.baseline else None
    return dataclasses.replace(gated.new, passed=passed, outcome=outcome, accepted=gated.accepted)


@contextlib.contextmanager
def _reporting(failures: list[UserError], option: str, path: Path) -> Iterator[None]:
    """Collects the error of an output, with the option and the path as the user gave them."""
    try:
        yield
    except OSError as error:
        error.filename = path
        found = from_os_error(error)
        failures.append(UserError(found.what, where=f"{option} {path}", remedy=found.remedy))
    except UserError as error:
        failures.append(UserError(error.what, where=f"{option} {error.where or path}", remedy=error.remedy))


def _print_problems(options: argparse.Namespace, problems: Sequence[str]) -> None:
    found = list(dict.fromkeys(problems))
    report_problems(found)
    if options.github:
        print(problems_for_github(found), end="", flush=True)


def _print_error(error: UserError | OSError) -> None:
    text = error if isinstance(error, UserError) else from_os_error(error)
    print(error_for_github(str(text)), end="", flush=True)


def _require_usable(options: argparse.Namespace) -> None:
    if options.baseline is None and options.history is None:
        raise UserError("nothing to compare with", remedy="give --baseline PATH or --history FILE")
    for option in ("append", "chart"):
        if getattr(options, option) and options.history is None:
            raise UserError(f"--{option} needs a history", remedy="give --history FILE")
    if options.accept and not options.append:
        raise UserError("--accept has an effect only on the history", remedy="give --history FILE --append too")
    if options.chart and options.chart.exists() and not options.chart.is_file():
        raise UserError("not a regular file, so it cannot be replaced by a chart", where=f"--chart {options.chart}")


def _require_new_files(options: argparse.Namespace, sources: Iterable[Source]) -> None:
    """UserError if an output is one of the inputs, or two outputs are the same file."""
    outputs = [path for path in (options.history, options.chart, options.markdown) if path]
    for one, other in itertools.combinations(outputs, 2):
        if same_file(one, other):
            raise UserError("this file is named twice: it would be overwritten", where=other)
    refuse_inputs(outputs, _files_of(sources))
    given = options.baseline
    if given and _is_history(given):
        refuse_inputs([path for path in outputs if path is not options.history], [given.path])


def _files_of(sources: Iterable[Source]) -> Iterator[Path]:
    """Every file of the runs: what is read, and all that is in the folder of a run."""
    for source in sources:
        yield from source.files
        folder = source.log.parent
        if is_run_folder(folder):
            yield from (path for path in folder.rglob("*") if path.is_file())


def _is_history(given: LabelledPath) -> bool:
    return given.path.suffix == _HISTORY_SUFFIX and not given.path.is_dir()


def _gate(options: argparse.Namespace, problems: list[str]) -> tuple[list[Gated], list[str], list[Entry]]:
    """Each set of new runs with its decision, notes on those that only one side has, and the history.

    `problems` receives what could not be read.
    """
    row_keys, given = row_keys_from(None, options.ignore), options.baseline
    if given and _is_history(given) and not given.path.exists():
        raise UserError("no such file", where=given.path)
    new = read_runs(options.path, NEW, row_keys, problems)
    baseline = read_runs(given, BASELINE, row_keys, problems) if given and not _is_history(given) else None
    _require_new_files(options, [*new.sources, *(baseline.sources if baseline else [])])
    history = read_history(options.history, problems) if options.history else []
    metric, allowed = options.metric, options.at_most
    if baseline:
        require_apart(new, baseline)
        return *against_runs(new, baseline, metric, allowed), history
    if given:
        entries, names = read_history(given.path, problems), (given.path.name, given.label or BASELINE)
        return against_history(new, entries, names, metric, allowed, required=True), [], history
    names = (options.history.name, BASELINE)
    return against_history(new, history, names, metric, allowed, required=False), [], history


def _append(options: argparse.Namespace, entries: Sequence[Entry]) -> list[str]:
    """Append entries to the history; what to say of it."""
    path = options.history
    reasons = append(path, entries)
    count = reasons.count("")
    notes = [f"appended {count} {'entry' if count == 1 else 'entries'} to {path}"] if count else []
    known = (HAS_THEM, ACCEPTED)
    for reason in known:
        if has := reasons.count(reason):
            notes.append(f"nothing appended{f' for {has} others' if count else ''} to {path}: {reason}")
    problems = [
        f"{path}: not appended, because {reason}: {entry.full_title}"
        for entry, reason in zip(entries, reasons, strict=True)
        if reason not in ("", *known)
    ]
    _print_problems(options, problems)
    return notes
