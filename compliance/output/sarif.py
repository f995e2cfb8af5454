"""A report as SARIF 2.1.0 (Static Analysis Results Interchange Format, an OASIS standard), for code-scanning tools."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from compliance.findings import Finding, Rule
from compliance.output.finding_report import Entry, Report, below_current_folder, consequences_of, sentence

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
VERSION = "2.1.0"


def as_sarif(report: Report, rules: Iterable[Rule]) -> bytes:
    """One run with a result per finding and the rules that were applied; `rules` has their sentences.

    Files below the current folder have URIs relative to it, as tools expect that run in the root of a repository.
    """
    sentences = {rule.id: rule.says for rule in rules}
    applied = dict.fromkeys(rule for verdict in report.verdicts for rule in verdict.rules)
    ids = list(applied | dict.fromkeys(entry.finding.rule for entry in report.entries))
    places = {rule: place for place, rule in enumerate(ids)}
    driver = {
        "name": "compliance",
        "rules": [{"id": rule, "shortDescription": {"text": sentences.get(rule, rule)}} for rule in ids],
    }
    run = {
        "tool": {"driver": driver},
        "results": [_result(entry, places) for entry in report.entries],
    }
    tree = {"$schema": SCHEMA, "version": VERSION, "runs": [run]}
    return orjson.dumps(tree, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _result(entry: Entry, places: dict[str, int]) -> dict[str, Any]:
    finding = entry.finding
    also = f"\nAlso: {consequences_of(entry)}" if entry.consequences else ""
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": places[finding.rule],
        "level": finding.severity,
        "message": {"text": sentence(finding) + also},
        "locations": [_location(finding)],
    }
    if entry.consequences:
        result["relatedLocations"] = [
            {"id": number, **_location(each), "message": {"text": f"{each.rule}: {sentence(each)}"}}
            for number, each in enumerate(entry.consequences, 1)
        ]
    return result


def _location(finding: Finding) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": uri_of(finding.file)}}
    if finding.line:
        physical["region"] = {"startLine": finding.line}
    return {"physicalLocation": physical}


def uri_of(file: str) -> str:
    """A file's URI, relative to the current folder if the file is below it."""
    relative = below_current_folder(file)
    return Path(os.path.abspath(file)).as_uri() if relative is None else quote(os.fsencode(relative))
