"""`--check`: the rules that a run's log must follow, applied before the run is scored.

A log of MLPerf's own benchmarks is checked by mlperf_logging with the rule set of its round, a DeepSpeech2 log by our
rules (docs/rules.md). A run that claims success and does not comply counts as failed, as in MLPerf.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from benchmark.mllog import BENCHMARK, SUCCESS
from benchmark.rounds import official_checker
from benchmark.rounds.round_names import Round
from benchmark.rounds.rules_by_round import later_checks, usage_of
from results.reading.run_data import REFUSED, Run


def check_runs(runs: Iterable[Run]) -> Iterator[Run]:
    """The same runs, each checked; those that do not comply have the verdict `refused`."""
    for run in runs:
        if run.benchmark is not None and run.verdict == SUCCESS:
            if run.benchmark == BENCHMARK:
                _check_own(run)
            else:
                _check_official(run)
        yield run


def _check_own(run: Run) -> None:
    # Imported here: without --check, nothing of the compliance package is needed.
    from compliance.findings import ERROR
    from compliance.log import read
    from compliance.log_check import log_findings

    errors = [finding for finding in log_findings(read(run.log))[1] if finding.severity == ERROR]
    run.checked_by = "our rules"
    if errors:
        first = errors[0]
        place = f"line {first.line}: " if first.line else ""
        _refuse(run, f"{place}{first.rule}: expected {first.expected}, found {first.found}", len(errors))


def _check_official(run: Run) -> None:
    its_round = run.source.result.round if run.source.result else None
    if its_round is None:
        run.notes.append(
            "not checked: the MLPerf round is unknown (no folder above is called like training_results_v4.0)"
        )
        return
    chosen = _ruleset(run.benchmark or "", its_round)
    if chosen is None:
        run.notes.append(f"not checked: mlperf_logging has no rules for {run.benchmark} of round {its_round}")
        return
    usage, ruleset = chosen
    verdict = official_checker.check_log(run.log, usage, ruleset)
    run.checked_by = f"{usage} {ruleset}"
    if run.other_benchmark:
        _refuse(run, "the log of another benchmark", 1)
        return
    if verdict.stopped or verdict.missing_rules:
        _refuse(run, verdict.stopped or f"no rules called {verdict.missing_rules}", 1)
        return
    later = later_checks(run.benchmark, its_round)
    excused = [each for each in verdict.errors if any(each.misses(name) for name in later)]
    if excused:
        names = " and ".join(later)
        run.notes.append(f"today's rules for round {its_round} require {names}, which came later: scored as published")
    errors = [each for each in verdict.errors if each not in excused]
    if errors:
        place = f"line {errors[0].line}: " if errors[0].line else ""
        _refuse(run, place + errors[0].short, len(errors))


def _ruleset(benchmark: str, its_round: Round) -> tuple[str, str] | None:
    """The suite and rule set of a round; None if mlperf_logging has none."""
    usage = usage_of(benchmark)
    return (usage, its_round.ruleset) if usage and its_round.ruleset in official_checker.rulesets(usage) else None


def _refuse(run: Run, why: str, count: int) -> None:
    run.verdict = REFUSED
    more = f" (and {count - 1} more)" if count > 1 else ""
    run.problems.append(f"{why}{more}: does not comply with {run.checked_by}, counts as a failed run")
