"""Rules, faults and findings of the compliance check, and their output as text, JSON and JUnit XML.

A rule is a plain function over one subject (a log, a set of runs, a record, a package) that yields a Fault for each
violation. `apply` adds the rule's name and the subject's file to each fault.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson

from common.errors import one_line
from common.formats import COMPLIANCE

ERROR, WARNING = "error", "warning"
WIDTH = 80
_MAX_QUOTED = 160
"""Maximum characters of a log's text in a finding."""
_NOT_IN_XML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot represent, not even escaped; and the carriage return, which parsers change."""


@dataclass(frozen=True)
class Fault:
    """One violation of a rule. `line` counts from 1; `file` is set only if it is not the subject's own."""

    expected: str
    found: str
    remedy: str
    line: int | None = None
    severity: str = ERROR
    file: Path | None = None


@dataclass(frozen=True)
class Rule:
    """A named rule: `says` is its sentence in docs/rules.md; `check` yields the faults of one subject."""

    id: str
    says: str
    check: Callable[[Any], Iterable[Fault]]


@dataclass(frozen=True)
class Finding:
    """A fault with its rule and file."""

    rule: str
    severity: str
    file: str
    line: int | None
    expected: str
    found: str
    remedy: str


@dataclass
class Verdict:
    """What was checked (`kind` is log, runs, record, package or folder), by which rules, and all findings."""

    file: str
    kind: str
    benchmark: str | None
    rules: list[str]
    findings: list[Finding] = field(default_factory=list)

    @property
    def compliant(self) -> bool:
        """Whether there are no errors; warnings do not count."""
        return all(finding.severity != ERROR for finding in self.findings)


def apply(rules: Iterable[Rule], subject: object, file: Path) -> list[Finding]:
    """The findings of `rules` on `subject`, by file and line."""
    found = [finding for rule in rules for finding in _of_rule(rule, subject, file)]
    return sorted(found, key=lambda finding: (finding.file, finding.line or 0))


def _of_rule(rule: Rule, subject: object, file: Path) -> Iterator[Finding]:
    for fault in rule.check(subject):
        place = str(fault.file or file)
        texts = (_short(fault.expected), _short(fault.found), _short(fault.remedy, 400))
        yield Finding(rule.id, fault.severity, place, fault.line, *texts)


def shown(value: object) -> str:
    """A value from a log as quoted in a finding: JSON, shortened, without control characters."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):
        text = repr(value)
    return _short(text)


def _short(text: str, longest: int = _MAX_QUOTED) -> str:
    line = one_line(text[: 2 * longest])
    return line if len(line) <= longest else line[: longest - 3] + "..."


def as_text(verdicts: list[Verdict]) -> str:
    """The findings as text, file by file, at most 80 columns wide unless a single word is longer."""
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
    """The numbers of errors and warnings."""
    severities = [finding.severity for verdict in verdicts for finding in verdict.findings]
    return severities.count(ERROR), severities.count(WARNING)


def as_json(verdicts: list[Verdict]) -> bytes:
    """One JSON object: schema_version, compliant, errors, warnings, checked (one entry per subject), findings."""
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
    return orjson.dumps(COMPLIANCE.with_version(tree), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def as_junit(verdicts: list[Verdict]) -> bytes:
    """JUnit XML: a suite per subject, a case per rule, its errors as the failure and its warnings as output."""
    cases = sum(len(verdict.rules) for verdict in verdicts)
    root = _element("testsuites", name="compliance", tests=cases, failures=_failed_cases(verdicts))
    for verdict in verdicts:
        suite = _element(
            "testsuite",
            name=f"{verdict.kind} {verdict.file}",
            tests=len(verdict.rules),
            failures=_failed_cases([verdict]),
        )
        suite.extend(_junit_case(rule, verdict) for rule in verdict.rules)
        root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True) + b"\n"


def _failed_cases(verdicts: list[Verdict]) -> int:
    return sum(len({finding.rule for finding in verdict.findings if finding.severity == ERROR}) for verdict in verdicts)


def _junit_case(rule: str, verdict: Verdict) -> ElementTree.Element:
    case = _element("testcase", classname=verdict.file, name=rule)
    found = [finding for finding in verdict.findings if finding.rule == rule]
    errors = [_sentence(finding) for finding in found if finding.severity == ERROR]
    warnings = [_sentence(finding) for finding in found if finding.severity != ERROR]
    # Most readers of this format expect one failure element per case.
    if errors:
        case.append(_element("failure", "\n".join(errors), message=errors[0]))
    if warnings:
        case.append(_element("system-out", "\n".join(warnings)))
    return case


def _sentence(finding: Finding) -> str:
    place = f"{one_line(finding.file)}:{finding.line}" if finding.line else one_line(finding.file)
    return f"{place}: {finding.severity}: expected {finding.expected}; found {finding.found}; {finding.remedy}"


def _element(tag: str, text: str | None = None, /, **attributes: object) -> ElementTree.Element:
    """An XML element; characters that XML cannot represent become `?`."""
    safe = {key: _NOT_IN_XML.sub("?", one_line(str(value))) for key, value in attributes.items()}
    element = ElementTree.Element(tag, safe)
    element.text = None if text is None else _NOT_IN_XML.sub("?", text)
    return element
