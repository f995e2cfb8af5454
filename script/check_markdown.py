"""Check that no line of a Markdown file is wider than 120 columns.

    python -m script.check_markdown [FILES]

Without FILES: every Markdown file that git tracks or would track, except results/published and tests/data, which are
kept as they were recorded. Two kinds of line may be wider, because no author can break them: a line that is only a link
or a URL, and what a script writes between `<!-- NAME: COMMAND -->` and `<!-- /NAME -->` (script/readme_table.sh).

One line on stdout for each line that is too wide. Exit status: 0 none, 1 at least one, 2 a file could not be read.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import EXIT_FAILED, EXIT_OK, UserError, run_cli

ROOT = Path(__file__).resolve().parent.parent
MAX_COLUMNS = 120
EXCLUDED = ("results/published/", "tests/data/")

_LINK_ALONE = re.compile(r"\s*([-*] )?(!?\[[^\]]*\]\(\S+\)|\[[^\]]+\]: \S+|<?https?://\S+)")
_GENERATED_START = re.compile(r"<!-- (\w+): .*-->")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the lines that are too wide of the named files, or of all; returns the exit status."""
    named = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(named):
        print(__doc__)
        return EXIT_OK
    status = EXIT_OK
    for file in named or markdown_files():
        # A relative name that the user gave is relative to the working directory.
        path = Path(file) if named else ROOT / file
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError("is not UTF-8", where=file) from error
        for line, columns in wide_lines(text):
            print(f"{file}:{line}: {columns} columns")
            status = EXIT_FAILED
    return status


def markdown_files() -> list[str]:
    """The Markdown files of this checkout that are checked, relative to its root; UserError outside a git checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError("git cannot list the files", where=ROOT, remedy="name the files to check") from error
    files = sorted(filter(None, listed.split("\0")))
    return [file for file in files if not file.startswith(EXCLUDED) and (ROOT / file).is_file()]


def wide_lines(text: str) -> Iterator[tuple[int, int]]:
    """(line number from 1, columns) of each line that is too wide."""
    generated_end: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        start = _GENERATED_START.fullmatch(line)
        if start:
            generated_end = f"<!-- /{start[1]} -->"
        elif line == generated_end:
            generated_end = None
        if len(line) > MAX_COLUMNS and generated_end is None and not _LINK_ALONE.fullmatch(line):
            yield number, len(line)


if __name__ == "__main__":
    sys.exit(run_cli(main))
