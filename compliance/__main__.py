"""`python -m compliance PATH...`: check a log, a run folder, a folder of logs or runs, or a submission package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmark.rounds.round_names import USAGES
from common.cli import HelpFormatter
from common.errors import EXIT_FAILED, EXIT_OK, run_cli
from common.files import write_atomically
from common.github_actions import without_commands
from compliance.check import ALL_RULES, check_paths
from compliance.mlperf.official_logs import Chosen
from compliance.output.finding_report import report_of
from compliance.output.findings_json import as_json
from compliance.output.findings_text import as_text
from compliance.output.github_annotations import as_github
from compliance.output.junit import as_junit
from compliance.output.sarif import as_sarif

EPILOG = """examples:
  python -m compliance runs/mini/RUN
  python -m compliance submission/Us --junit findings.xml --sarif findings.sarif
  python -m compliance --rules

Exit status: 0 compliant (warnings do not count), 1 not compliant, 2 could not be checked.
"""


def main(argv: list[str] | None = None) -> int:
    """Check the given paths and print every finding."""
    parser = argparse.ArgumentParser(
        prog="python -m compliance",
        description="Check logs, runs and submission packages against the rules (docs/rules.md).",
        epilog=EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="a log, a run folder, a folder, a package")
    printed = parser.add_mutually_exclusive_group()
    printed.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    printed.add_argument("--github", action="store_true", help="also print annotations for GitHub Actions")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML, for CI")
    parser.add_argument("--sarif", type=Path, metavar="FILE", help="also write SARIF 2.1.0, for code scanning")
    parser.add_argument(
        "--usage", choices=USAGES, help="MLPerf suite of MLPerf's own benchmarks (default: by the folder)"
    )
    parser.add_argument(
        "--ruleset", metavar="X.Y.Z", help="MLPerf rule set for MLPerf's own benchmarks (default: by the folder's name)"
    )
    parser.add_argument("--rules", action="store_true", help="list every rule and exit")
    args = parser.parse_args(argv)
    if args.rules:
        print("\n".join(f"{rule.id:<22} {rule.says}" for rule in ALL_RULES))
        return EXIT_OK
    if not args.paths:
        parser.error("at least one PATH is required")
    verdicts = check_paths(args.paths, Chosen(args.usage, args.ruleset))
    report = report_of(verdicts)
    if args.junit:
        write_atomically(args.junit, as_junit(report))
    if args.sarif:
        write_atomically(args.sarif, as_sarif(report, ALL_RULES))
    if args.json:
        sys.stdout.buffer.write(as_json(report))
    elif args.github:
        print(without_commands(as_text(report)) + as_github(report), end="")
    else:
        print(as_text(report), end="")
    return EXIT_OK if report.compliant else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(run_cli(main))
