"""Logs of MLPerf's own benchmarks, checked by mlperf_logging with the rule set of their round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.rounds.official_checker import OfficialVerdict, check_log, rulesets, rulesets_of
from benchmark.rounds.round_names import HPC, TRAINING, USAGES, Round, known_versions, rounds_above
from benchmark.rounds.rules_by_round import later_checks, usage_of
from common.errors import UserError
from compliance.findings import WARNING, Fault, Rule
from compliance.log import V05, V06, Log

VERDICT = "official-verdict"
NOT_CHECKED = "not checked: "
_SAYS = "mlperf_logging's checker accepts a log of MLPerf (warning: there is no rule set for it)."
_SUITES = {TRAINING: "MLPerf Training", HPC: "MLPerf HPC"}


@dataclass(frozen=True)
class Chosen:
    """The suite and the rule set that the user chose; None where the logs and their folders decide."""

    usage: str | None = None
    ruleset: str | None = None

    def __post_init__(self) -> None:
        """Raise UserError, with the list, for a rule set that the suite does not have."""
        known = [name for usage in USAGES if self.usage in (None, usage) for name in rulesets(usage)]
        if self.ruleset is not None and self.ruleset not in known:
            _refuse(self.ruleset, self.usage, known)


BY_PLACE = Chosen()
"""No choice: suite and rule set follow from the folders' names and the logs."""


@dataclass(frozen=True)
class RuleSet:
    """The rule set of mlperf_logging for a log or a result.

    `name` is None if the round has none. `round` is the one in a folder's name, if there is one. `guessed`: neither the
    user nor a folder's name says which, so that it is the newest with the benchmark.
    """

    usage: str
    name: str | None
    round: Round | None = None
    guessed: bool = False

    def __str__(self) -> str:
        """The rule set as users know it: `training 4.0.0`."""
        return f"{self.usage} {self.name or (self.round.version if self.round else '(unknown round)')}"

    @property
    def why_none(self) -> str:
        """Why there is no rule set, for a finding."""
        if self.round is not None:
            return f"mlperf_logging has no rule set for {_SUITES[self.usage]} {self.round.version}"
        return f"no rule set of mlperf_logging for {_SUITES[self.usage]} has this benchmark"


def _refuse(name: str, usage: str | None, known: list[str]) -> None:
    place = "--ruleset" if usage is None else f"--ruleset ({_SUITES[usage]})"
    remedy = f"choose one of {', '.join(dict.fromkeys(known))}"
    raise UserError(f"no rule set {name!r}", where=place, remedy=remedy)


def rules_for(path: Path, benchmark: str, chosen: Chosen, form: str | None = None) -> RuleSet:
    """The rule set for a log or a result's folder.

    The suite is the chosen one, that of the round in a folder's name, or the benchmark's. The rule set is the chosen
    one, the round's, that of the log's form, or the newest with the benchmark.
    """
    known = known_versions() | {"0.5"}
    its_round = next((each for each in rounds_above(path) if each.version in known), None)
    usage = chosen.usage or (its_round and its_round.usage) or usage_of(benchmark) or TRAINING
    if its_round is not None and its_round.usage not in (None, usage):
        its_round = None
    if chosen.ruleset is not None:
        if chosen.ruleset not in rulesets(usage):
            _refuse(chosen.ruleset, usage, rulesets(usage))
        return RuleSet(usage, chosen.ruleset, its_round)
    if its_round is not None:
        its_round = Round(usage, its_round.version)
        return RuleSet(usage, its_round.ruleset if its_round.ruleset in rulesets(usage) else None, its_round)
    if form in (V05, V06):
        return RuleSet(usage, "0.6.0" if form == V06 else None, Round(usage, form))
    return RuleSet(usage, next(reversed(rulesets_of(benchmark, usage)), None), guessed=True)


def newest(rules: list[RuleSet]) -> RuleSet | None:
    """The newest of some rule sets; None if there are none."""
    return max(rules, key=lambda each: [int(part) for part in (each.name or "0").split(".")], default=None)


def official_rule(rules: RuleSet) -> Rule:
    """The rule that mlperf_logging's checker accepts a log."""
    return Rule(VERDICT, _SAYS, lambda log: _check(log, rules))


def _check(log: Log, rules: RuleSet) -> Iterator[Fault]:
    if rules.name is None:
        remedy = "check the log against MLPerf's rules of that round; only the file was checked here"
        yield Fault("a round whose rules can be checked", f"{NOT_CHECKED}{rules.why_none}", remedy, None, WARNING)
        return
    log.official = check_log(log.path, rules.usage, rules.name)
    yield from _faults(log, log.official, rules)


def _faults(log: Log, verdict: OfficialVerdict, rules: RuleSet) -> Iterator[Fault]:
    expected, remedy = f"a log that mlperf_logging accepts ({rules})", f"see the rules of {_SUITES[rules.usage]}"
    if verdict.missing_rules is not None:
        others = ", ".join(rulesets_of(log.benchmark or "", rules.usage)) or "none"
        remedy = f"check submission_benchmark and opt_name, or use --ruleset (with this benchmark: {others})"
        yield Fault(
            expected, f"no rules called {verdict.missing_rules} there", remedy, log.line("submission_benchmark")
        )
    elif verdict.stopped is not None:
        found, remedy = f"its checker stopped: {verdict.stopped}", "restore the lines named in our other findings"
        yield Fault(expected, found, remedy, log.bad[0].line if log.bad else None)
    elif not verdict.valid and not verdict.errors:
        yield Fault(expected, "it was refused without a message", remedy)
    later = later_checks(log.benchmark, rules.round)
    for message in verdict.errors:
        came_later = any(message.misses(name) for name in later)
        why = "none for a published log: the rule set of this round has asked for it only since later rounds"
        yield Fault(expected, message.short, why if came_later else remedy, message.line)
    for message in verdict.warnings:
        yield Fault(expected, message.short, remedy, message.line, WARNING)


OFFICIAL_RULES = [official_rule(RuleSet(TRAINING, None))]
"""Only for the list of rules; `official_rule` makes the one that is applied."""
