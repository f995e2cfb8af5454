"""`python -m results gate PATH`: fail if new runs are slower than a baseline, for the CI of a trainer.

Exit 0: not slower beyond the margin, or not with 95 % certainty; 1: slower, or the target is not reached; 2: error.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.cli import HelpFormatter
from common.errors import EXIT_FAILED, EXIT_OK, UserError, one_line
from common.files import write_atomically
from common.github_actions import without_commands
from common.values import parse_number
from results.compare import as_argument, report_problems
from results.comparing.identity import Rules, rules_from
from results.gating.decision import METRICS, TIME
from results.gating.gate_summary import as_github, as_markdown, as_text
from results.gating.history import Entry, append, read_history
from results.gating.history_chart import history_chart
from results.gating.sides import Gated, Runs, against_history, against_runs, read_runs, require_apart
from results.reading.discover import LabelledPath, labelled_path

EXAMPLES = """examples:
  python -m results gate runs/new --baseline runs/main
  python -m results gate runs/new --baseline runs/main --at-most 3% --metric throughput
  python -m results gate runs/new --history perf.jsonl --append --chart perf.svg
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
    path = as_argument(labelled_path, "PATH or LABEL=PATH")
    made.add_argument(
        "path", type=path, metavar="PATH", help="the new runs: run folder, folder of runs or log; LABEL=PATH names them"
    )
    made.add_argument(
        "--baseline",
        type=path,
        metavar="PATH",
        help="the runs to compare with, or a history (*.jsonl); default: the newest entry of --history that fits",
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
    made.add_argument("--chart", type=Path, metavar="FILE", help="write the history as a chart (SVG)")
    made.add_argument(
        "--markdown", type=Path, metavar="FILE", help="append a summary, as for a pull request ($GITHUB_STEP_SUMMARY)"
    )
    made.add_argument("--github", action="store_true", help="also print annotations for GitHub Actions")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` excludes its name."""
    options = parser().parse_args(argv)
    _require_usable(options)
    rules = rules_from(None, options.ignore)
    new = read_runs(options.path, NEW, rules)
    problems = list(new.problems)
    history = read_history(options.history, problems) if options.history else []
    _require_new_files(options, new.files)
    gated, alone = _gate(options, new, history, rules, problems)
    report_problems(list(dict.fromkeys(problems)))
    text = as_text(gated, alone, shutil.get_terminal_size((80, 24)).columns)
    print(without_commands(text) + as_github(gated) if options.github else text, end="", flush=True)
    if options.markdown:
        with open(options.markdown, "a", encoding="utf-8") as file:
            file.write(as_markdown(gated, alone))
    judged = [dataclasses.replace(each.new, passed=each.decision.passed if each.baseline else None) for each in gated]
    if options.append:
        _append(options.history, judged)
        history = read_history(options.history, [])
    if options.chart:
        write_atomically(options.chart, history_chart(history, judged, options.metric))
    return EXIT_OK if all(each.decision.passed for each in gated) else EXIT_FAILED


def _require_usable(options: argparse.Namespace) -> None:
    if options.baseline is None and options.history is None:
        raise UserError("nothing to compare with", remedy="give --baseline PATH or --history FILE")
    for option in ("append", "chart"):
        if getattr(options, option) and options.history is None:
            raise UserError(f"--{option} needs a history", remedy="give --history FILE")


def _require_new_files(options: argparse.Namespace, files: Iterable[Path]) -> None:
    """UserError if an output is one of the inputs, or two outputs are the same file."""
    taken = set(files)
    history = options.history
    if options.baseline and _is_history(options.baseline) and not _same_file(options.baseline.path, history):
        taken.add(options.baseline.path.resolve())
    for path in (history, options.chart, options.markdown):
        if path is None:
            continue
        if path.resolve() in taken:
            raise UserError("this file is an input, or named twice: it would be overwritten", where=path)
        taken.add(path.resolve())


def _same_file(one: Path, other: Path | None) -> bool:
    return other is not None and one.resolve() == other.resolve()


def _is_history(given: LabelledPath) -> bool:
    return given.path.suffix == _HISTORY_SUFFIX and not given.path.is_dir()


def _gate(
    options: argparse.Namespace, new: Runs, history: Sequence[Entry], rules: Rules, problems: list[str]
) -> tuple[list[Gated], list[str]]:
    """Each set of new runs with its decision, and notes on those that only one side has."""
    metric, allowed = options.metric, options.at_most
    if options.baseline is None:
        return against_history(new, history, (options.history.name, BASELINE), metric, allowed, required=False), []
    path, label = options.baseline
    if _is_history(options.baseline):
        if not path.exists():
            raise UserError("no such file", where=path)
        entries = read_history(path, problems)
        return against_history(new, entries, (path.name, label or BASELINE), metric, allowed, required=True), []
    baseline = read_runs(options.baseline, BASELINE, rules)
    problems += baseline.problems
    require_apart(new, baseline)
    _require_new_files(options, [*new.files, *baseline.files])
    return against_runs(new, baseline, metric, allowed)


def _append(path: Path, entries: Sequence[Entry]) -> None:
    """Append entries and say so; runs of which it is unknown what they are of are left out."""
    known = [entry for entry in entries if not entry.aspects.unknown]
    for entry in entries:
        if entry.aspects.unknown:
            report_problems([f"{path}: not appended, because something is unknown: {entry.full_title}"])
    new = append(path, known) if known else []
    if new:
        print(one_line(f"appended {len(new)} {'entry' if len(new) == 1 else 'entries'} to {path}"))
    if has := len(known) - len(new):
        print(one_line(f"nothing appended{f' for {has} others' if new else ''}: {path} has these runs already"))
