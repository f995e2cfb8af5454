"""How `--help` looks at every door: text filled to the terminal's width, commands and tables as they were written."""

from __future__ import annotations

import argparse
import re
import textwrap


class HelpFormatter(argparse.HelpFormatter):
    """Fills the paragraphs of a description or epilogue; a paragraph with an indented line in it stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # argparse knows two ways only: one paragraph of everything, or not a line touched (RawDescriptionHelpFormatter).
        paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
        return "\n\n".join(
            textwrap.indent(paragraph, indent)
            if re.search(r"^ ", paragraph, re.MULTILINE)
            else textwrap.fill(" ".join(paragraph.split()), width, initial_indent=indent, subsequent_indent=indent)
            for paragraph in paragraphs
        )
