"""Checks a path against the rules: a log, a run folder, a folder of either, or a submission package."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmark import mllog
from benchmark.rounds.descriptions import read_description
from benchmark.rounds.result_tree import ResultFolder, is_log_name, is_submitter, result_at, results_in
from benchmark.rounds.rules_by_round import usage_of
from benchmark.submission import (
    LOCK_FILE,
    LOG_FILE,
    LOG_SUFFIXES,
    RECORD_FILE,
    RESULTS,
    RUNS,
    file_of_run,
    is_result,
    is_run_folder,
    locks_of,
)
from common.errors import UserError
from common.files import natural_key
from compliance.benchmarks import KNOWN, is_deepspeech2, is_other_benchmark
from compliance.convergence import CONVERGENCE_RULES
from compliance.findings import WARNING, Fault, Finding, Rule, Verdict, apply
from compliance.integrity_rules import INTEGRITY_RULES, RecordedRun
from compliance.log import FILE_RULES, Log, form_of
from compliance.log_check import OURS, READABLE, check_log_file
from compliance.mlperf.checked_result import MlperfResult
from compliance.mlperf.coverage import COVERAGE_RULES, Coverage
from compliance.mlperf.official_logs import BY_PLACE, NOT_CHECKED, OFFICIAL_RULES, VERDICT, Chosen, newest, rules_for
from compliance.mlperf.result_check import MLPERF_RULES, check_result
from compliance.package_rules import PACKAGE_RULES, Result, read_package
from compliance.run_rules import RUN_RULES, Runs

TOLERATED_ONCE = ("run-status", "key-present", "epoch-pairs")
"""Rules that the single failed run of a result may break: it missed the target or was cut off."""


_NO_LOGS = Fault(
    "logs (result_N.txt, or a run's result.txt)", "none", "pass a folder of logs, a folder of runs or a package"
)
FOLDER_LOGS = Rule(
    "folder-logs", "A folder contains at least one log (warning: other files with log lines).", lambda path: [_NO_LOGS]
)

ALL_RULES = [
    FOLDER_LOGS,
    READABLE,
    *FILE_RULES,
    KNOWN,
    *OURS,
    *RUN_RULES,
    *CONVERGENCE_RULES,
    *INTEGRITY_RULES,
    *PACKAGE_RULES,
    *OFFICIAL_RULES,
    *MLPERF_RULES,
]
"""All rules, in the order of the table in docs/rules.md."""


def check_paths(paths: list[Path], chosen: Chosen = BY_PLACE) -> list[Verdict]:
    """Check each path. Logs and run folders named individually are treated as the runs of one result.

    Raises UserError for a path that does not exist.
    """
    verdicts: list[Verdict] = []
    singles: list[Log] = []
    for path in paths:
        if not path.exists():
            raise UserError("no such file or folder", where=path, remedy="pass a log, a folder of logs or a package")
        if not path.is_dir() and not path.is_file():
            raise UserError(
                "neither a file nor a folder", where=path, remedy="pass a log, a folder of logs or a package"
            )
        if path.is_file():
            verdicts.append(check_log_file(path, chosen, singles))
        elif is_run_folder(path):
            verdicts += _check_run(path, chosen, singles)
        else:
            verdicts += _check_folder(path, chosen)
    if len(singles) > 1:
        verdicts += _check_runs(singles, Path(paths[0]).parent, verdicts, submitted=False)
    return verdicts


def _check_run(folder: Path, chosen: Chosen, logs: list[Log]) -> list[Verdict]:
    """Check a run folder: its log and, unless the log is of another benchmark, its record."""
    own: list[Log] = []
    verdicts = [check_log_file(folder / LOG_FILE, chosen, own)]
    logs += own
    if own and not is_other_benchmark(own[0]):
        lock_file = Path(__file__).parent.parent / LOCK_FILE
        verdicts.append(_check_record(RecordedRun(folder / RECORD_FILE, own[0], lock_file=lock_file)))
    return verdicts


def _check_record(run: RecordedRun) -> Verdict:
    ids = [rule.id for rule in INTEGRITY_RULES]
    return Verdict(str(run.path), "record", mllog.BENCHMARK, ids, apply(INTEGRITY_RULES, run, run.path))


def _check_runs(logs: list[Log], place: Path, verdicts: list[Verdict], *, submitted: bool) -> list[Verdict]:
    """Apply the rules across runs. One failed run of ten only gets warnings, since it counts as the slowest."""
    ours = [log for log in logs if is_deepspeech2(log)]
    if not ours:
        return []
    rules = [*RUN_RULES, *CONVERGENCE_RULES]
    verdict = Verdict(str(place), "runs", mllog.BENCHMARK, [rule.id for rule in rules])
    verdict.findings = apply(rules, Runs(ours, submitted), place)
    aborted = [v for v in verdicts if any(f.rule == "run-status" for f in v.findings)]
    if submitted and len(ours) == RUNS and len(aborted) == 1:
        failed = aborted[0]
        failed.findings = [replace(f, severity=WARNING) if f.rule in TOLERATED_ONCE else f for f in failed.findings]
    return [verdict]


def _check_folder(folder: Path, chosen: Chosen) -> list[Verdict]:
    """Check the packages in a folder, then the logs and runs outside them, grouped by folder."""
    packages = _packages(folder)
    verdicts = [verdict for package in packages for verdict in _check_package(package, chosen)]
    in_packages = len(verdicts)
    groups: dict[tuple[object, ...], tuple[list[Log], list[Verdict], Path]] = {}
    paths, others = _logs_in(folder, packages)
    for path in paths:
        logs: list[Log] = []
        if path.name == LOG_FILE:
            found = _check_run(path.parent, chosen, logs)
            place = path.parent.parent
            # A folder of runs may contain several machines and variants: each is a separate result.
            kind = (logs[0].value(mllog.VARIANT), logs[0].value(mllog.SUBMISSION_PLATFORM)) if logs else ()
        else:
            found, place, kind = [check_log_file(path, chosen, logs)], path.parent, ()
        verdicts += found
        group = groups.setdefault((place, str(kind)), ([], [], place))
        group[0].extend(logs)
        group[1].extend(found)
    for logs, own, place in groups.values():
        if len(logs) > 1:
            verdicts += _check_runs(logs, place, own, submitted=False)
    _report_once(verdicts)
    rule = _folder_logs(folder, verdicts, verdicts[in_packages:], others)
    if rule.check(folder):
        verdicts.append(Verdict(str(folder), "folder", None, [rule.id], apply([rule], folder, folder)))
    return verdicts


def _report_once(verdicts: list[Verdict]) -> None:
    """Keep one of the warnings that a round has no rule set, instead of one per log."""
    first: dict[str, Finding] = {}
    counts: Counter[str] = Counter()
    for verdict in verdicts:
        for finding in [f for f in verdict.findings if f.rule == VERDICT and f.found.startswith(NOT_CHECKED)]:
            counts[finding.found] += 1
            if first.setdefault(finding.found, finding) is not finding:
                verdict.findings.remove(finding)
    for verdict in verdicts:
        verdict.findings = [
            replace(f, found=f"{f.found} ({counts[f.found]} logs)")
            if f is first.get(f.found) and counts[f.found] > 1
            else f
            for f in verdict.findings
        ]


def _folder_logs(folder: Path, verdicts: list[Verdict], alone: list[Verdict], others: list[Path]) -> Rule:
    """The rule on a folder: an error without logs; warnings about what was not checked.

    `alone` are the verdicts on logs outside packages, `others` other files with log lines.
    """
    faults = [] if verdicts else [_NO_LOGS]
    above = next((path for path in Path(os.path.abspath(folder)).parents[:4] if is_submitter(path)), None)
    if any(usage_of(verdict.benchmark) for verdict in alone):
        found = "not checked: number of runs, seeds, convergence, descriptions (these logs are not a whole package)"
        remedy = f"pass {above}" if above else "pass the submitter's folder, with systems/, results/ and benchmarks/"
        faults.append(Fault("a whole package", found, remedy, None, WARNING))
    if others:
        names = ", ".join(path.name for path in others[:_SHOWN]) + (" ..." if len(others) > _SHOWN else "")
        found = f"not checked: {len(others)} other file{'s' if len(others) > 1 else ''} with log lines: {names}"
        remedy = f"if they are logs, pass them by name, or rename them to *{', *'.join(LOG_SUFFIXES)}"
        faults.append(Fault("all log lines in logs", found, remedy, None, WARNING, others[0].parent))
    return replace(FOLDER_LOGS, check=lambda path: faults)


def _packages(folder: Path) -> list[Path]:
    """The submitters' folders at or up to two levels below a path (a repository of results)."""
    candidates = [folder, *sorted(p for p in folder.glob("*") if p.is_dir()), *sorted(folder.glob("*/*"))]
    found: dict[Path, None] = {}
    for path in candidates:
        below = any(parent in found for parent in path.parents)
        if path.is_dir() and not below and is_submitter(path):
            found[path] = None
    return list(found)


def _check_package(org: Path, chosen: Chosen) -> list[Verdict]:
    verdicts: list[Verdict] = []
    results: list[Result] = []
    outside: list[str] = []
    checked: list[MlperfResult] = []
    for place in _result_folders(org, outside):
        result = Result(place.folder, place.system, place.folder.name)
        mlperf = _mlperf_result(place, chosen)
        rules = mlperf.log_rules if mlperf else None
        own = [check_log_file(path, chosen, result.logs, rules) for path in place.logs]
        if not place.logs:
            own.append(
                Verdict(str(place.folder), "folder", None, [FOLDER_LOGS.id], apply([FOLDER_LOGS], None, place.folder))
            )
        if result.ours:
            own += _check_runs(result.logs, place.folder, own, submitted=True)
            own += _check_records(org, result)
        elif mlperf is not None:
            mlperf.logs = sorted(result.logs, key=lambda log: str(log.path))
            checked.append(mlperf)
            if mlperf.in_round:
                own.append(check_result(mlperf, own))
            # A round has hundreds of MB of events; the rules of the package need those that name what ran.
            result.logs = [replace(log, events=[e for e in log.events if "submission" in e.key]) for log in result.logs]
            mlperf.logs = []
        results.append(result)
        verdicts += own
    rules = newest([result.rules for result in checked]) or rules_for(org / RESULTS, "", chosen)
    package = read_package(org, results, rules)
    found = [*apply(PACKAGE_RULES, package, org), *apply(COVERAGE_RULES, Coverage(org, checked, outside), org)]
    ids = [rule.id for rule in (*PACKAGE_RULES, *COVERAGE_RULES)]
    verdicts.append(Verdict(str(org), "package", None, ids, found))
    return verdicts


def _result_folders(org: Path, outside: list[str]) -> Iterator[ResultFolder]:
    """The results in a package, and the folders of known benchmarks without any log."""
    found = {result.folder: result for result in results_in(org, outside)}
    for pattern in ("*/*", "*/*/*"):
        for folder in (org / RESULTS).glob(pattern):
            known = folder.name == mllog.BENCHMARK or usage_of(folder.name) is not None
            if known and folder.is_dir() and folder not in found and (place := result_at(folder, empty=True)):
                found[folder] = place
    return iter(sorted(found.values(), key=lambda result: natural_key(result.folder)))


def _mlperf_result(place: ResultFolder, chosen: Chosen) -> MlperfResult | None:
    """The subject of MLPerf's rules on results; None for DeepSpeech2 and for unknown benchmarks."""
    if place.ours or usage_of(place.benchmark) is None:
        return None
    try:
        division = read_description(place.description).get("division") if place.description else None
    except (OSError, UserError):
        division = None  # already a finding of the package's rules
    return MlperfResult(place, rules_for(place.folder, place.folder.name, chosen, _form_of(place)), division)


def _form_of(place: ResultFolder) -> str | None:
    return form_of(place.logs[0]) if place.logs else None


def _check_records(org: Path, result: Result) -> Iterator[Verdict]:
    locks = locks_of(org, result.benchmark)
    for log in result.own_logs:
        path = file_of_run(log.path, RECORD_FILE)
        if path is not None and path.is_file():
            yield _check_record(RecordedRun(path, log, locks[0] if locks else None))


def _logs_in(folder: Path, packages: list[Path]) -> tuple[list[Path], list[Path]]:
    """The logs below a folder and outside its packages, and the other files there that contain log lines.

    Logs are the result.txt of runs and, outside the folders of runs, result_*.txt and any text with log lines.
    """
    logs: list[Path] = []
    others: list[Path] = []
    inside = set(packages)
    for place, subfolders, files in os.walk(folder):
        here = Path(place)
        if here in inside:
            subfolders.clear()
            continue
        subfolders.sort(key=natural_key)
        if LOG_FILE in files or RECORD_FILE in files:
            logs += [here / LOG_FILE] if LOG_FILE in files else []
            files = [name for name in files if is_result(Path(name)) and name != LOG_FILE]
        for path in (here / name for name in sorted(files, key=natural_key)):
            if is_log_name(path.name, None):
                logs.append(path)
            elif _has_token(path):
                (logs if path.suffix in LOG_SUFFIXES else others).append(path)
    return logs, others


def _has_token(path: Path) -> bool:
    """Whether the first MiB of a file has a log line, of any round."""
    try:
        with open(path, "rb") as file:
            return _LOG_LINE.search(file.read(mllog.MAX_LINE_BYTES)) is not None
    except OSError:
        return False


_LOG_LINE = re.compile(rb":::MLL(OG \{| [0-9])|:::MLP(v[0-9.]+)? \w+ [0-9]")
_SHOWN = 3
