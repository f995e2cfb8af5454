"""A report as JUnit XML, for CI."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from common.errors import one_line
from compliance.findings import ERROR
from compliance.output.finding_report import Entry, Report, consequences_of, sentence

_NOT_IN_XML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot represent, not even escaped; and the carriage return, which parsers change."""


def as_junit(report: Report) -> bytes:
    """A suite per subject; in it a failed case per error, and a case per rule without errors.

    A rule whose errors are consequences of a finding of another rule is skipped, with that rule as the reason. A
    warning is a line of its case's output; the suite's property `warnings` is their number.
    """
    by_verdict: dict[int, list[Entry]] = {}
    for entry in report.entries:
        by_verdict.setdefault(entry.verdict, []).append(entry)
    suites = [_suite(report, number, by_verdict.get(number, [])) for number in range(len(report.verdicts))]
    root = _element("testsuites", name="compliance", **_totals(suites))
    root.extend(suites)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True) + b"\n"


def _totals(suites: list[ElementTree.Element]) -> dict[str, int]:
    return {name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "skipped")}


def _suite(report: Report, number: int, entries: list[Entry]) -> ElementTree.Element:
    verdict = report.verdicts[number]
    rules = dict.fromkeys([*verdict.rules, *(finding.rule for finding in verdict.findings)])
    own: dict[str, list[Entry]] = {rule: [] for rule in rules}
    for entry in entries:
        own[entry.finding.rule].append(entry)
    # Errors of this verdict that are reported elsewhere, by rule.
    elsewhere = {
        finding.rule: report.roots[finding]
        for finding in verdict.findings
        if finding.severity == ERROR
        and (report.roots[finding].finding != finding or report.roots[finding].verdict != number)
    }
    cases = [case for rule in rules for case in _cases(verdict.file, rule, own[rule], elsewhere.get(rule))]
    counts = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
    }
    suite = _element("testsuite", name=f"{verdict.kind} {verdict.file}", **counts)
    warnings = sum(entry.finding.severity != ERROR for entry in entries)
    if warnings:
        properties = _element("properties")
        properties.append(_element("property", name="warnings", value=warnings))
        suite.append(properties)
    suite.extend(cases)
    return suite


def _cases(file: str, rule: str, entries: list[Entry], elsewhere: Entry | None) -> Iterator[ElementTree.Element]:
    errors = [entry for entry in entries if entry.finding.severity == ERROR]
    warnings = [_located(entry) for entry in entries if entry.finding.severity != ERROR]
    for number, entry in enumerate(errors or [None], 1):
        # Readers of this format identify a case by its class and name.
        case = _element("testcase", classname=file, name=rule if number == 1 else f"{rule} #{number}")
        if entry is not None:
            case.append(_element("failure", _located(entry), message=_located(entry)))
        elif elsewhere is not None:
            root = elsewhere.finding
            case.append(_element("skipped", message=f"reported as {root.rule} in {one_line(root.file)}"))
        if number == 1 and warnings:
            case.append(_element("system-out", "\n".join(warnings)))
        yield case


def _located(entry: Entry) -> str:
    finding = entry.finding
    place = f"{one_line(finding.file)}:{finding.line}" if finding.line else one_line(finding.file)
    also = f"; also {consequences_of(entry)}" if entry.consequences else ""
    return f"{place}: {finding.severity}: {sentence(finding)}{also}"


def _element(tag: str, text: str | None = None, /, **attributes: object) -> ElementTree.Element:
    """An XML element; characters that XML cannot represent become `?`."""
    safe = {key: _NOT_IN_XML.sub("?", one_line(str(value))) for key, value in attributes.items()}
    element = ElementTree.Element(tag, safe)
    element.text = None if text is None else _NOT_IN_XML.sub("?", text)
    return element
