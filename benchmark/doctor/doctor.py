"""`python -m benchmark doctor`: checks of this machine, one line each: good, warning or problem, with a remedy."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmark.doctor.checks import examine
from benchmark.doctor.finding import Finding
from benchmark.settings import ROOT
from common.cli import HelpFormatter
from common.errors import EXIT_FAILED, EXIT_OK, one_line

WIDTH = 80
_UNBREAKABLE = "\0"
"""Replaces a space at which no line may break; `one_line` leaves no such character in a text."""
EPILOG = """examples:
  python -m benchmark doctor
  DATA_DIR=/big/disk python -m benchmark doctor --json

DATA_DIR and RESULTS_DIR choose the folders, as for a run. Exit status: 0 no problem, 1 a problem.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run every check and print the findings; 0 without a problem (warnings do not count), 1 with one."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark doctor",
        description="Check what this machine can run, and say how to fix what prevents a run.",
        epilog=EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON list")
    options = parser.parse_args(argv)
    findings = list(
        examine(Path(os.environ.get("DATA_DIR") or ROOT / "data"), Path(os.environ.get("RESULTS_DIR") or ROOT / "runs"))
    )
    if options.json:
        print(json.dumps([vars(finding) for finding in findings], indent=1))
    else:
        print(screen(findings, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    return EXIT_FAILED if any(finding.level == "problem" for finding in findings) else EXIT_OK


def screen(findings: Sequence[Finding], colour: bool = False) -> str:
    """The findings as text with a final line, at most WIDTH columns wide except for long commands and paths."""
    paint = {"good": "32", "warning": "33", "problem": "31"}
    lines = []
    for finding in findings:
        head = f"{finding.level:<9}{finding.subject:<16}"
        body = _wrap(finding.text, " " * len(head))
        first = head + body[0].lstrip()
        if colour:
            first = f"\033[{paint[finding.level]}m{first[:9]}\033[0m{first[9:]}"
        lines += [first, *body[1:]]
        if finding.remedy:
            lines += _wrap(f"-> {finding.remedy}", " " * len(head), " " * (len(head) + 3))
    count = {level: sum(finding.level == level for finding in findings) for level in paint}
    if count["problem"]:
        end = f"Problems to fix before a run: {count['problem']} (see the remedies above)."
    elif count["warning"]:
        end = f"This machine can run the benchmark. Warnings: {count['warning']}."
    else:
        end = "This machine can run the benchmark."
    return "\n".join([*lines, "", end])


def _wrap(text: str, indent: str, later: str | None = None) -> list[str]:
    # A command is meant to be pasted: it stays on one line, and so does a path, however long.
    joined = re.sub("`[^`]*`", lambda command: command[0].replace(" ", _UNBREAKABLE), one_line(text))
    lines = textwrap.wrap(
        joined,
        WIDTH - 1,
        initial_indent=indent,
        subsequent_indent=indent if later is None else later,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [line.replace(_UNBREAKABLE, " ") for line in lines] or [indent]
