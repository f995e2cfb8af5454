"""The findings as they are counted and ordered: each fault once, by file, with what follows from it.

Every output format is made from this report, so all of them have the same numbers of errors and warnings.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

from benchmark.submission import RESULTS
from common.errors import one_line
from common.files import natural_key
from compliance.findings import ERROR, WARNING, Finding, Verdict
from compliance.output.root_causes import root_causes

_DAMAGED_FILE = ("log-", "integrity-record", "integrity-files", "package-sums")
"""Rules, or the start of their names, whose errors are about the file as a whole: they explain others in it."""


@dataclass
class Entry:
    """A finding that counts, the verdict that it belongs to, and the findings that are only its consequences."""

    finding: Finding
    verdict: int
    consequences: list[Finding] = field(default_factory=list)


@dataclass
class Report:
    """The outcome of a check: the verdicts, and their findings by file.

    `entries` are in the order of output. `roots` has the entry of every finding, of consequences too.
    """

    verdicts: list[Verdict]
    entries: list[Entry]
    roots: dict[Finding, Entry]

    @property
    def compliant(self) -> bool:
        """Whether there are no errors; warnings do not count."""
        return all(verdict.compliant for verdict in self.verdicts)

    @property
    def errors(self) -> int:
        """The number of errors, without consequences of other findings."""
        return self._count(ERROR)

    @property
    def warnings(self) -> int:
        """The number of warnings, without consequences of other findings."""
        return self._count(WARNING)

    def _count(self, severity: str) -> int:
        return sum(entry.finding.severity == severity for entry in self.entries)

    @property
    def files(self) -> dict[str, list[Entry]]:
        """The entries by file, in the order of output."""
        by_file: dict[str, list[Entry]] = {}
        for entry in self.entries:
            by_file.setdefault(entry.finding.file, []).append(entry)
        return by_file


def report_of(verdicts: list[Verdict]) -> Report:
    """Sort the findings of all verdicts by file and fold consequences under their root causes.

    Files are in natural order (result_9 before result_10), a package's own files before its results. In a file, root
    causes with consequences come first, then damage to the file as a whole, then the others by line. A finding that
    several verdicts have in common (the lock file of ten records) counts once.
    """
    first_verdict: dict[Finding, int] = {}
    for number, verdict in enumerate(verdicts):
        for finding in verdict.findings:
            first_verdict.setdefault(finding, number)
    causes = root_causes(list(first_verdict))
    roots = {finding: Entry(finding, number) for finding, number in first_verdict.items() if finding not in causes}
    entries = list(roots.values())
    for finding, root in causes.items():
        roots[root].consequences.append(finding)
        roots[finding] = roots[root]
    places = {finding.file: _file_order(finding.file) for finding in first_verdict}
    for entry in entries:
        entry.consequences.sort(key=lambda finding: (places[finding.file], finding.rule, finding.line or 0))
    entries.sort(key=lambda entry: (places[entry.finding.file], *_order_in_file(entry)))
    return Report(verdicts, entries, roots)


def _file_order(file: str) -> tuple[object, ...]:
    return tuple((part == RESULTS, natural_key(part)) for part in PurePath(file).parts)


def _order_in_file(entry: Entry) -> tuple[bool, bool, int, bool]:
    finding = entry.finding
    damaged = finding.severity == ERROR and finding.rule.startswith(_DAMAGED_FILE)
    return not entry.consequences, not damaged, finding.line or 0, finding.severity != ERROR


def sentence(finding: Finding) -> str:
    """A finding without its place: what was expected, what was found, the remedy."""
    return f"expected {finding.expected}; found {finding.found}; {finding.remedy}"


def consequences_of(entry: Entry) -> str:
    """The rules that the same fault also breaks, with lines or counts, by file; empty if there are none."""
    return "; ".join(_by_file(entry.finding.file, entry.consequences))


def _by_file(root_file: str, consequences: list[Finding]) -> Iterator[str]:
    by_file: dict[str, list[Finding]] = {root_file: []}
    for finding in consequences:
        by_file.setdefault(finding.file, []).append(finding)
    for file, findings in by_file.items():
        if not findings:
            continue
        lines = {finding.rule: finding.line for finding in findings}
        names = []
        for rule, count in Counter(finding.rule for finding in findings).items():
            line = f" (line {lines[rule]})" if lines[rule] else ""
            names.append(f"{rule} ({count} times)" if count > 1 else rule + line)
        place = "" if file == root_file else f"in {_nearby(file, root_file)}: "
        yield place + ", ".join(names)


def _nearby(file: str, other: str) -> str:
    """A file's name if it is next to the other file, else its path."""
    return one_line(os.path.basename(file) if os.path.dirname(file) == os.path.dirname(other) else file)


def below_current_folder(file: str) -> str | None:
    """A file's path relative to the current folder; None if the file is elsewhere."""
    relative = os.path.relpath(file)
    return None if relative.split(os.sep)[0] == os.pardir else relative
