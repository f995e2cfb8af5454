"""Applies MLPerf's rules to one result, and forgives the failed runs that olympic scoring drops."""

from __future__ import annotations

from dataclasses import replace

from compliance.findings import ERROR, WARNING, Rule, Verdict, apply
from compliance.mlperf.checked_result import MlperfResult
from compliance.mlperf.coverage import COVERAGE_RULES
from compliance.mlperf.official_logs import VERDICT
from compliance.mlperf.official_runs import RUN_RULES, refused_runs
from compliance.mlperf.official_seeds import SEED_RULES
from compliance.mlperf.reference_points import CONVERGENCE_POINT_RULES

MLPERF_RULES: list[Rule] = [*RUN_RULES, *SEED_RULES, *CONVERGENCE_POINT_RULES, *COVERAGE_RULES]


def check_result(result: MlperfResult, logs: list[Verdict]) -> Verdict:
    """The verdict on a result as a whole; `logs` are the verdicts on its logs, of which forgiven ones are changed."""
    findings = [finding for verdict in logs for finding in verdict.findings]
    refused = refused_runs(result, findings)
    if refused.forgiven:
        for verdict in logs:
            verdict.findings = [
                replace(found, severity=WARNING) if found.rule == VERDICT and found.severity == ERROR else found
                for found in verdict.findings
            ]
    verdict = Verdict(str(result.folder), "runs", result.benchmark, [rule.id for rule in MLPERF_RULES[:-1]])
    verdict.findings = [
        *apply(RUN_RULES, refused, result.folder),
        *apply([*SEED_RULES, *CONVERGENCE_POINT_RULES], result, result.folder),
    ]
    return verdict
