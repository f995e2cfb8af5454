"""A report as workflow commands of GitHub Actions, which show findings next to the lines of a pull request."""

from __future__ import annotations

import secrets

from common.errors import one_line
from compliance.findings import ERROR
from compliance.output.finding_report import Entry, Report, below_current_folder, consequences_of, sentence


def as_github(report: Report) -> str:
    """A line `::error file=...,line=...,title=RULE::message` or `::warning ...` for each finding."""
    return "".join(_command(entry) + "\n" for entry in report.entries)


def without_commands(text: str) -> str:
    """Text that GitHub Actions prints without obeying it.

    A runner obeys `::` at the start of any line, even indented. A log that is quoted could contain it.
    """
    token = secrets.token_hex(16)
    return f"::stop-commands::{token}\n{text}::{token}::\n"


def _command(entry: Entry) -> str:
    finding = entry.finding
    name = "error" if finding.severity == ERROR else "warning"
    file = below_current_folder(finding.file) or finding.file
    properties = [f"file={_escaped_property(one_line(file))}"]
    if finding.line:
        properties.append(f"line={finding.line}")
    properties.append(f"title={_escaped_property(finding.rule)}")
    also = f"\nAlso: {consequences_of(entry)}" if entry.consequences else ""
    return f"::{name} {','.join(properties)}::{_escaped(sentence(finding) + also)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escaped_property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
