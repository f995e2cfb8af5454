"""Checks one log: by DeepSpeech2's rules, or by mlperf_logging's checker if it is of an MLPerf benchmark."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from compliance.benchmarks import KNOWN, checked_as, is_deepspeech2
from compliance.entry_rules import ENTRY_RULES
from compliance.epoch_rules import EPOCH_RULES
from compliance.findings import WARNING, Fault, Finding, Rule, Verdict, apply
from compliance.log import FILE_RULES, Log, read
from compliance.log_rules import SKELETON_RULES
from compliance.mlperf.official_logs import BY_PLACE, VERDICT, Chosen, RuleSet, official_rule, rules_for

OURS = [*SKELETON_RULES, *EPOCH_RULES, *ENTRY_RULES]
READABLE = Rule("log-readable", "A log can be read.", lambda log: [])


def _unreadable(reason: str) -> Rule:
    return replace(READABLE, check=lambda log: [Fault("a readable file", reason, "check its permissions")])


def log_findings(log: Log, chosen: Chosen = BY_PLACE) -> tuple[list[Rule], list[Finding]]:
    """The rules that apply to one log, and their findings."""
    benchmark = checked_as(log)
    if is_deepspeech2(log) or not log.events or benchmark is None:
        rules = [READABLE, *FILE_RULES, KNOWN, *(OURS if is_deepspeech2(log) else [])]
        return rules, apply(rules, log, log.path)
    return _of_mlperf(log, [KNOWN, official_rule(rules_for(log.path, benchmark, chosen, log.form))])


def _of_mlperf(log: Log, more: list[Rule]) -> tuple[list[Rule], list[Finding]]:
    """The findings of a log of MLPerf: one that MLPerf's checker accepts must not fail on our file rules."""
    rules = [READABLE, *FILE_RULES, *more]
    found = apply(rules, log, log.path)
    counts = Counter(finding.rule for finding in found)
    kept: list[Finding] = []
    for finding in found:
        count = counts.pop(finding.rule, 0)
        if finding.rule == VERDICT:
            kept.append(finding)
        elif count:
            such = f" ({count} such lines, this is the first)" if count > 1 else ""
            kept.append(replace(finding, severity=WARNING, found=finding.found + such))
    return rules, kept


def check_log_file(
    path: Path, chosen: Chosen, logs: list[Log] | None = None, result_rules: RuleSet | None = None
) -> Verdict:
    """Check the log in a file, and add it to `logs`. `result_rules` is the rule set of its MLPerf result's round.

    In a result, MLPerf's checker is run on every log, whatever benchmark the log says it is of. A result_rules without
    a rule set checks only the file: the package's coverage says so.
    """
    try:
        log = read(path)
    except OSError as error:
        rule = _unreadable(error.strerror or str(error))
        return Verdict(str(path), "log", None, [rule.id], apply([rule], None, path))
    if result_rules is None or is_deepspeech2(log):
        rules, found = log_findings(log, chosen)
    else:
        rules, found = _of_mlperf(log, [official_rule(result_rules)] if result_rules.name else [])
    if logs is not None:
        logs.append(log)
    return Verdict(str(path), "log", log.benchmark, [rule.id for rule in rules], found)
