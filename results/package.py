"""`python -m results package RUN... --org NAME --system NAME --out DIR`: a submission package from run folders.

The tree is MLPerf's (`ORG/systems`, `ORG/results`, `ORG/benchmarks`) with SHA256SUMS of every file. The same runs give
the same bytes, and the runs themselves are only read. Other systems of the same submitter in DIR are kept.
Exit 0: written; 2: the runs are not of one kind, or information is missing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.settings import ROOT
from benchmark.submission import RUNS, description_of, module_files
from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError
from results.packaging.package_tree import system_files, write_tree
from results.packaging.run_checks import PackagedRun, check_same_kind, read_packaged
from results.packaging.source_code import code_files
from results.packaging.system_description import describe_system, read_description
from results.reading.discover import find_sources

EXAMPLES = """examples:
  python -m results package runs/series/mini-20260101T000000Z --org Us --system our_box --out submission
"""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._+-]*[A-Za-z0-9_+-])?\Z")


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` excludes its name."""
    parser = argparse.ArgumentParser(
        prog="python -m results package",
        description=__doc__.split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or folder of run folders")
    parser.add_argument("--org", required=True, metavar="NAME", help="submitter, as in the logs' submission_org")
    parser.add_argument("--system", required=True, metavar="NAME", help="name of the system in the package")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="directory for the submitter's folder")
    parser.add_argument(
        "--describe", type=Path, metavar="FILE", help="YAML or JSON with description fields that cannot be detected"
    )
    parser.add_argument(
        "--allow-dirty",
        action="store_true",
        help="accept runs of a modified checkout; the code is then that of this checkout",
    )
    options = parser.parse_args(argv)
    for option, name in (("--org", options.org), ("--system", options.system)):
        if not _NAME.match(name):
            raise UserError(
                f"{name!r} is not a valid folder name", where=option, remedy="use letters, digits, spaces, . _ + -"
            )
    folder = build_package(
        options.runs, options.org, options.system, options.out, options.describe, options.allow_dirty
    )
    print(folder)
    return EXIT_OK


def build_package(
    paths: Sequence[Path], org: str, system: str, out: Path, describe: Path | None = None, allow_dirty: bool = False
) -> Path:
    """Build (or rebuild) ORG under `out` and return its folder; notes and warnings go to stderr."""
    runs = [read_packaged(source) for source in find_sources(paths)]
    runs.sort(key=lambda run: (run.record.started_at, run.record.seed))
    check_same_kind(runs, org, allow_dirty=allow_dirty)
    folder = out / org
    _check_separate(runs, folder)
    description, missing = describe_system(runs[0], org, system, read_description(describe))
    code = code_files(ROOT, runs[0].record.code, allow_dirty=allow_dirty)
    module = runs[0].record.trainer
    if module is not None and code.keys().isdisjoint(module_files(module)):
        raise UserError(
            f"the trainer {module} is not in the code that ran",
            where=runs[0].folder,
            remedy="add it to the checkout, commit it and make the runs again: a package contains all the code of its result",
        )
    changed = write_tree(folder, system, system_files(runs, system, description), code)
    _note(f"{folder}: {len(runs)} runs, {'written' if changed else 'unchanged'}")
    if len(runs) != RUNS:
        _note(f"warning: {len(runs)} runs; a submission has exactly {RUNS}")
    if missing:
        _note(
            f"warning: {len(missing)} fields of {description_of(system)} are empty; fill in those that apply with --describe FILE "
            f"(YAML, `field: text`): {', '.join(missing)}"
        )
    return folder


def _check_separate(runs: Sequence[PackagedRun], folder: Path) -> None:
    """Raise UserError if the package would be inside a run, or a run inside the package it replaces."""
    target = folder.resolve()
    for run in runs:
        source = run.folder.resolve()
        if source == target or source in target.parents or target in source.parents:
            raise UserError("the package must not be inside a run, nor a run inside the package", where=folder)


def _note(text: str) -> None:
    print(text, file=sys.stderr)
