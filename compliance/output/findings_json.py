"""A report as one JSON object."""

from __future__ import annotations

from typing import Any

import orjson

from common.errors import one_line
from common.formats import COMPLIANCE
from compliance.findings import Finding
from compliance.output.finding_report import Report


def as_json(report: Report) -> bytes:
    """One JSON object: schema_version, compliant, errors, warnings, checked (one entry per subject), findings."""
    tree = {
        "compliant": report.compliant,
        "verified_by_mlcommons": False,
        "errors": report.errors,
        "warnings": report.warnings,
        "checked": [
            {
                "file": one_line(verdict.file),
                "kind": verdict.kind,
                "benchmark": verdict.benchmark,
                "compliant": verdict.compliant,
                "rules": verdict.rules,
            }
            for verdict in report.verdicts
        ],
        "findings": [
            _fields(entry.finding) | {"consequences": [_fields(finding) for finding in entry.consequences]}
            for entry in report.entries
        ],
    }
    return orjson.dumps(COMPLIANCE.with_version(tree), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _fields(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "file": one_line(finding.file),
        "line": finding.line,
        "expected": finding.expected,
        "found": finding.found,
        "remedy": finding.remedy,
    }
