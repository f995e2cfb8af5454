"""Which findings are only consequences of another finding: a changed file also breaks the rules that read it.

One copied log has its original's seed, times and hash, contradicts its own record, and is not the file that SHA256SUMS
lists. The copy is the root cause, and the other findings are its consequences. LINKS lists every such relation. Findings
that no link relates are independent faults, even in the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from common.values import is_digest
from compliance.findings import ERROR, Finding

HASH_RULES = ("integrity-files", "package-sums")
"""Rules that compare the hash of a file; `found` is then the file's own hash."""
SAME_OBSERVATION = (
    "log-readable",
    "package-tree",
    "package-record",
    "package-system",
    "package-code",
    "integrity-files",
    "integrity-lock",
    "package-sums",
)
"""Rules that report the same missing, unreadable or changed file; the first is the most specific."""
ABSENT = ("none", "no such file")


class Link(NamedTuple):
    """A finding of `rule` is a consequence of one of `cause` if `holds(finding, cause, changed)`.

    The cause is about the same file as the finding, or about the finding's related file. `changed` is the set of files
    whose hash is not the recorded one.
    """

    rule: str
    cause: str
    holds: Callable[[Finding, Finding, frozenset[str]], bool]


def _same_pair(finding: Finding, cause: Finding, changed: frozenset[str]) -> bool:
    copied = cause.severity == ERROR and (finding.rule != cause.rule or finding.severity != ERROR)
    return copied and {finding.file, finding.related} == {cause.file, cause.related}


def _copy_changed(finding: Finding, cause: Finding, changed: frozenset[str]) -> bool:
    return cause.severity == ERROR and finding.file == cause.file and is_digest(finding.found)


def _file_changed(finding: Finding, cause: Finding, changed: frozenset[str]) -> bool:
    return finding.file == cause.file and is_digest(cause.found)


def _log_changed(finding: Finding, cause: Finding, changed: frozenset[str]) -> bool:
    return finding.related == cause.file and is_digest(cause.found)


def _original_changed(finding: Finding, cause: Finding, changed: frozenset[str]) -> bool:
    # Of two equal logs the later one counts as the copy, unless only the earlier one was changed.
    return _log_changed(finding, cause, changed) and finding.file not in changed


def _same_observation(finding: Finding, cause: Finding, changed: frozenset[str]) -> bool:
    same = finding.found == cause.found or (finding.found in ABSENT and cause.found in ABSENT)
    if finding.file != cause.file or not same:
        return False
    if finding.severity == cause.severity:
        return SAME_OBSERVATION.index(cause.rule) < SAME_OBSERVATION.index(finding.rule)
    return cause.severity == ERROR


LINKS = (
    # A copied log. That the error rates are equal too is a warning of runs-distinct itself.
    Link("runs-distinct", "runs-distinct", _same_pair),
    Link("runs-seeds", "runs-distinct", _same_pair),
    Link("runs-overlap", "runs-distinct", _same_pair),
    Link("integrity-files", "runs-distinct", _copy_changed),
    Link("package-sums", "runs-distinct", _copy_changed),
    Link("runs-distinct", "integrity-files", _original_changed),
    # A changed record, or a record whose log was changed.
    Link("integrity-record", "package-sums", _file_changed),
    Link("integrity-agreement", "package-sums", _file_changed),
    Link("integrity-agreement", "integrity-files", _log_changed),
    # A missing, unreadable or changed file that several rules report.
    *(Link(rule, cause, _same_observation) for rule in SAME_OBSERVATION for cause in SAME_OBSERVATION if cause != rule),
)
"""All relations; of several that hold for a finding, the first counts."""


def root_causes(findings: Sequence[Finding]) -> dict[Finding, Finding]:
    """The root cause of each finding that is a consequence; a consequence is never more severe than its root cause."""
    by_place: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        by_place.setdefault((finding.rule, finding.file), []).append(finding)
    changed = frozenset(each.file for each in findings if each.rule in HASH_RULES and is_digest(each.found))
    links: dict[str, list[Link]] = {}
    for link in LINKS:
        links.setdefault(link.rule, []).append(link)
    causes: dict[Finding, Finding] = {}
    for finding in findings:
        cause = next(_causes(finding, links.get(finding.rule, []), by_place, changed), None)
        if cause is not None:
            causes[finding] = cause
    return {finding: _root(finding, causes) for finding in causes}


def _causes(
    finding: Finding,
    links: list[Link],
    by_place: dict[tuple[str, str], list[Finding]],
    changed: frozenset[str],
) -> Iterator[Finding]:
    for link in links:
        for file in (finding.file, finding.related):
            for cause in by_place.get((link.cause, file or ""), []):
                severe = cause.severity == ERROR or finding.severity != ERROR
                if severe and cause != finding and link.holds(finding, cause, changed):
                    yield cause


def _root(finding: Finding, causes: dict[Finding, Finding]) -> Finding:
    # A chain ends: the cause of a copied log is a changed log, the cause of which is a copy that was changed itself, and
    # that has no further cause.
    while finding in causes:
        finding = causes[finding]
    return finding
