"""The `--help` format of every command: prose filled to the terminal's width, commands and tables printed verbatim."""

from __future__ import annotations

import argparse
import re
import textwrap


class HelpFormatter(argparse.HelpFormatter):
    """Fills the paragraphs of a description or epilog; a paragraph that has an indented line is printed verbatim."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # argparse itself either joins everything into one paragraph or changes no line (RawDescriptionHelpFormatter).
        paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
        return "\n\n".join(
            textwrap.indent(paragraph, indent)
            if re.search(r"^ ", paragraph, re.MULTILINE)
            else textwrap.fill(" ".join(paragraph.split()), width, initial_indent=indent, subsequent_indent=indent)
            for paragraph in paragraphs
        )
