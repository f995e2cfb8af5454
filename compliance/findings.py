"""What a check says: rules with a name, faults they meet, findings with file and line; as text, JSON and JUnit XML.

A rule is a plain function over one subject (a log, a set of runs, a record, a package) that yields a Fault for each
place where it does not hold. `apply` gives each fault the rule's name and the subject's file.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import orjson

from common.errors import one_line
from common.formats import COMPLIANCE

ERROR, WARNING = "error", "warning"
WIDTH = 80
_LONGEST = 160
"""Characters of a log's own text that a finding quotes."""


@dataclass(frozen=True)
class Fault:
    """One place where a rule does not hold. `line` counts from 1; `file` only where it is not the subject's own."""

    expected: str
    found: str
    remedy: str
    line: int | None = None
    severity: str = ERROR
    file: Path | None = None


@dataclass(frozen=True)
class Rule:
    """A named rule: `says` is the sentence that docs/rules.md prints; `check` yields the faults of one subject."""

    id: str
    says: str
    check: Callable[[Any], Iterable[Fault]]


@dataclass(frozen=True)
class Finding:
    """A fault with the rule it breaks and the file it is in."""

    rule: str
    severity: str
    file: str
    line: int | None
    expected: str
    found: str
    remedy: str


@dataclass
class Verdict:
    """What was checked (`kind` log, runs, record or package), by which rules, and everything found."""

    file: str
    kind: str
    benchmark: str | None
    rules: list[str]
    findings: list[Finding] = field(default_factory=list)

    @property
    def compliant(self) -> bool:
        """Whether no error was found; warnings do not count."""
        return all(finding.severity != ERROR for finding in self.findings)


def apply(rules: Iterable[Rule], subject: object, file: Path) -> list[Finding]:
    """Every fault of `subject` under `rules`, by line."""
    found = [finding for rule in rules for finding in _of_rule(rule, subject, file)]
    return sorted(found, key=lambda finding: (finding.file, finding.line or 0))


def _of_rule(rule: Rule, subject: object, file: Path) -> Iterator[Finding]:
    for fault in rule.check(subject):
        place = str(fault.file or file)
        texts = (_short(fault.expected), _short(fault.found), _short(fault.remedy, 400))
        yield Finding(rule.id, fault.severity, place, fault.line, *texts)


def shown(value: object) -> str:
    """A value from a log as a finding quotes it: JSON, shortened, harmless on a terminal."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):
        text = repr(value)
    return _short(text)


def _short(text: str, longest: int = _LONGEST) -> str:
    line = one_line(text[: 2 * longest])
    return line if len(line) <= longest else line[: longest - 3] + "..."


def as_text(verdicts: list[Verdict]) -> str:
    """The findings for people, at most 80 columns wide where words allow it, file by file."""
    lines: list[str] = []
    for verdict in verdicts:
        if not verdict.findings:
            continue
        last_file = None
        for finding in verdict.findings:
            if finding.file != last_file:
                lines += ["", one_line(finding.file)]
                last_file = finding.file
            place = f"line {finding.line}" if finding.line else "whole"
            lines.append(f"  {place:<10} {finding.severity:<8} {finding.rule}")
            lines += _paragraph("expected", finding.expected)
            lines += _paragraph("found", finding.found)
            lines += _paragraph("remedy", finding.remedy)
    errors, warnings = totals(verdicts)
    word = "compliant" if not errors else "NOT compliant"
    counts = f"{len(verdicts)} checked, {_plural(errors, 'error')}, {_plural(warnings, 'warning')}"
    lines += ["", f"{word}: {counts}", "MLPerf-style rules; not verified by MLCommons Association."]
    return "\n".join(lines).lstrip("\n") + "\n"


def _paragraph(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"    {label:<9} ", subsequent_indent=" " * 14, break_on_hyphens=False
    ) or [f"    {label:<9} (nothing)"]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def totals(verdicts: list[Verdict]) -> tuple[int, int]:
    """How many errors and how many warnings."""
    severities = [finding.severity for verdict in verdicts for finding in verdict.findings]
    return severities.count(ERROR), severities.count(WARNING)


def as_json(verdicts: list[Verdict]) -> bytes:
    """One JSON object: schema_version, compliant, errors, warnings, checked (one each), findings (all)."""
    errors, warnings = totals(verdicts)
    tree = {
        "compliant": not errors,
        "verified_by_mlcommons": False,
        "errors": errors,
        "warnings": warnings,
        "checked": [
            {
                "file": one_line(verdict.file),
                "kind": verdict.kind,
                "benchmark": verdict.benchmark,
                "compliant": verdict.compliant,
                "rules": verdict.rules,
            }
            for verdict in verdicts
        ],
        "findings": [
            {name: one_line(value) if name == "file" else value for name, value in vars(finding).items()}
            for verdict in verdicts
            for finding in verdict.findings
        ],
    }
    return orjson.dumps(COMPLIANCE.stamped(tree), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def as_junit(verdicts: list[Verdict]) -> str:
    """JUnit XML: a suite for each thing checked, a case for each rule, its errors as failures, warnings as output."""
    cases = sum(len(verdict.rules) for verdict in verdicts)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites name="compliance" tests="{cases}" failures="{_failed_cases(verdicts)}">',
    ]
    for verdict in verdicts:
        name = _attribute(f"{verdict.kind} {verdict.file}")
        failed = _failed_cases([verdict])
        lines.append(f'  <testsuite name={name} tests="{len(verdict.rules)}" failures="{failed}">')
        for rule in verdict.rules:
            lines += _junit_case(rule, verdict)
        lines.append("  </testsuite>")
    return "\n".join([*lines, "</testsuites>"]) + "\n"


def _failed_cases(verdicts: list[Verdict]) -> int:
    return sum(len({finding.rule for finding in verdict.findings if finding.severity == ERROR}) for verdict in verdicts)


def _junit_case(rule: str, verdict: Verdict) -> list[str]:
    lines = [f"    <testcase classname={_attribute(verdict.file)} name={_attribute(rule)}>"]
    found = [finding for finding in verdict.findings if finding.rule == rule]
    errors = [_sentence(finding) for finding in found if finding.severity == ERROR]
    warnings = [_sentence(finding) for finding in found if finding.severity != ERROR]
    # One failure element a case, as most readers of this format expect, with all the sentences in it.
    if errors:
        lines.append(f"      <failure message={_attribute(errors[0])}>{_escaped(chr(10).join(errors))}</failure>")
    if warnings:
        lines.append(f"      <system-out>{_escaped(chr(10).join(warnings))}</system-out>")
    return [*lines, "    </testcase>"]


def _sentence(finding: Finding) -> str:
    place = f"{one_line(finding.file)}:{finding.line}" if finding.line else one_line(finding.file)
    return f"{place}: {finding.severity}: expected {finding.expected}; found {finding.found}; {finding.remedy}"


def _attribute(text: str) -> str:
    return quoteattr(_xml(one_line(text)))


def _escaped(text: str) -> str:
    return _xml(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _xml(text: str) -> str:
    # XML 1.0 has no way to write these at all.
    return "".join(
        c if c in "\n\t" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "?" for c in text
    )
