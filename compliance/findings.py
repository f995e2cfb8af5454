"""Rules, faults and findings of the compliance check; `compliance/output` renders them.

A rule is a plain function over one subject (a log, a set of runs, a record, a package) that yields a Fault for each
violation. `apply` adds the rule's name and the subject's file to each fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from common.errors import one_line

ERROR, WARNING = "error", "warning"
_MAX_QUOTED = 160
"""Maximum characters of a log's text in a finding."""


@dataclass(frozen=True)
class Fault:
    """One violation of a rule. `line` counts from 1; `file` is set only if it is not the subject's own.

    `related` is the other file of a comparison: the original of a copy, the log of a record.
    """

    expected: str
    found: str
    remedy: str
    line: int | None = None
    severity: str = ERROR
    file: Path | None = None
    related: Path | None = None


@dataclass(frozen=True)
class Rule:
    """A named rule: `says` is its sentence in docs/rules.md; `check` yields the faults of one subject."""

    id: str
    says: str
    check: Callable[[Any], Iterable[Fault]]


@dataclass(frozen=True)
class Finding:
    """A fault with its rule, its file and the other file of a comparison."""

    rule: str
    severity: str
    file: str
    line: int | None
    expected: str
    found: str
    remedy: str
    related: str | None = None


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
        related = None if fault.related is None else str(fault.related)
        yield Finding(rule.id, fault.severity, place, fault.line, *texts, related)


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
