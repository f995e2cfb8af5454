"""A report as workflow commands of GitHub Actions, which show findings next to the lines of a pull request."""

from __future__ import annotations

from common.errors import one_line
from common.github_actions import annotation
from compliance.findings import ERROR
from compliance.output.finding_report import Entry, Report, below_current_folder, consequences_of, sentence


def as_github(report: Report) -> str:
    """A line `::error file=...,line=...,title=RULE::message` or `::warning ...` for each finding."""
    return "".join(_command(entry) + "\n" for entry in report.entries)


def _command(entry: Entry) -> str:
    finding = entry.finding
    name = "error" if finding.severity == ERROR else "warning"
    properties: dict[str, object] = {"file": one_line(below_current_folder(finding.file) or finding.file)}
    if finding.line:
        properties["line"] = finding.line
    properties["title"] = finding.rule
    also = f"\nAlso: {consequences_of(entry)}" if entry.consequences else ""
    return annotation(name, sentence(finding) + also, **properties)
