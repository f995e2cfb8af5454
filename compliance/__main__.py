"""`python -m compliance PATH...`: check a log, a run folder, a folder of logs or runs, or a submission package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.cli import HelpFormatter
from common.errors import EXIT_FAILED, EXIT_OK, run_cli
from common.files import write_atomically
from compliance import official
from compliance.check import ALL_RULES, check_paths
from compliance.findings import as_json, as_junit, as_text, totals

EPILOG = """examples:
  python -m compliance runs/mini/RUN
  python -m compliance submission/Us --junit findings.xml
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
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML, for CI")
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
    verdicts = check_paths(args.paths, official.check_ruleset(args.ruleset) if args.ruleset else None)
    if args.junit:
        write_atomically(args.junit, as_junit(verdicts))
    if args.json:
        sys.stdout.buffer.write(as_json(verdicts))
    else:
        print(as_text(verdicts), end="")
    return EXIT_FAILED if totals(verdicts)[0] else EXIT_OK


if __name__ == "__main__":
    sys.exit(run_cli(main))
