"""A report as text for a terminal, 80 columns wide."""

from __future__ import annotations

import textwrap

from common.errors import one_line
from compliance.output.finding_report import Entry, Report, consequences_of

WIDTH = 80


def as_text(report: Report) -> str:
    """The findings file by file. Only a file's own line may be wider than 80 columns: paths are not broken there."""
    lines: list[str] = []
    for file, entries in report.files.items():
        lines += ["", one_line(file)]
        for entry in entries:
            lines += _entry_lines(entry)
    lines += ["", *_summary(report), "MLPerf-style rules; not verified by MLCommons Association."]
    return "\n".join(lines).lstrip("\n") + "\n"


def _entry_lines(entry: Entry) -> list[str]:
    finding = entry.finding
    place = f"line {finding.line}" if finding.line else "whole"
    return [
        f"  {place:<10} {finding.severity:<8} {finding.rule}",
        *_paragraph("expected", finding.expected),
        *_paragraph("found", finding.found),
        *_paragraph("remedy", finding.remedy),
        *(_paragraph("also", consequences_of(entry)) if entry.consequences else ()),
    ]


def _summary(report: Report) -> list[str]:
    word = "compliant" if report.compliant else "NOT compliant"
    found = f"{_plural(len(report.entries), 'finding')} in {_plural(len(report.files), 'file')}"
    counts = f"{_plural(report.errors, 'error')}, {_plural(report.warnings, 'warning')}"
    lines = [f"{word}: {len(report.verdicts)} checked; {found}: {counts}"]
    folded = sum(len(entry.consequences) for entry in report.entries)
    if folded:
        lines.append(f"Not counted: {_plural(folded, 'consequence')} of these findings (also ...); --json lists them.")
    return lines


def _paragraph(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"    {label:<9} ", subsequent_indent=" " * 14, break_on_hyphens=False
    ) or [f"    {label:<9} (nothing)"]


def _plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
