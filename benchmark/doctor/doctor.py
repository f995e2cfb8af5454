"""`python -m benchmark doctor`: one screen on what this machine can run; each line good, warning or problem, with its remedy."""

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
_HELD = "\0"
"""Stands for a space at which no line is broken; `one_line` leaves none of its kind in a text."""
EPILOG = """examples:
  python -m benchmark doctor
  DATA_DIR=/big/disk python -m benchmark doctor --json

DATA_DIR and RESULTS_DIR choose the folders, as for a run. Exit status: 0 no problem, 1 a problem.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Look at everything and print the screen; 0 without a problem (warnings are none), 1 with one."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark doctor",
        description="Say what this machine can run, and how to mend what stands in the way.",
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
    """The findings as text, at most WIDTH columns wide but for long commands and paths, with a closing line."""
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
        end = f"To mend before a run: {count['problem']} (see the remedies above)."
    elif count["warning"]:
        end = f"This machine can run the benchmark. Worth a look first: {count['warning']}."
    else:
        end = "This machine can run the benchmark."
    return "\n".join([*lines, "", end])


def _wrap(text: str, indent: str, later: str | None = None) -> list[str]:
    # A command is meant to be pasted: it stays in one piece, and so does a path, however long.
    held = re.sub("`[^`]*`", lambda command: command[0].replace(" ", _HELD), one_line(text))
    lines = textwrap.wrap(
        held,
        WIDTH - 1,
        initial_indent=indent,
        subsequent_indent=indent if later is None else later,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [line.replace(_HELD, " ") for line in lines] or [indent]
