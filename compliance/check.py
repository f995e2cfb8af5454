"""Checks a path against the rules: a log, a run folder, a folder of either, or a submission package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmark import mllog
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
    is_submitter,
    locks_of,
    numbered_logs,
)
from common.errors import UserError
from compliance import official
from compliance.benchmarks import KNOWN, checked_as, is_deepspeech2, is_other_benchmark
from compliance.convergence import CONVERGENCE_RULES
from compliance.entry_rules import ENTRY_RULES
from compliance.epoch_rules import EPOCH_RULES
from compliance.findings import WARNING, Fault, Finding, Rule, Verdict, apply
from compliance.integrity_rules import INTEGRITY_RULES, RecordedRun
from compliance.log import FILE_RULES, Log, read
from compliance.log_rules import SKELETON_RULES
from compliance.package_rules import PACKAGE_RULES, Result, read_package
from compliance.run_rules import RUN_RULES, Runs

OURS = [*SKELETON_RULES, *EPOCH_RULES, *ENTRY_RULES]
TOLERATED_ONCE = ("run-status", "key-present", "epoch-pairs")
"""Rules that the single failed run of a result may break: it missed the target or was cut off."""


def _unreadable(reason: str) -> Rule:
    return Rule(LOG_READABLE, READABLE_SAYS, lambda log: [Fault("a readable file", reason, "check its permissions")])


LOG_READABLE = "log-readable"
READABLE_SAYS = "A log can be read."
_NO_LOGS = Fault(
    "logs (result_N.txt, or a run's result.txt)", "none", "pass a folder of logs, a folder of runs or a package"
)
FOLDER_LOGS = Rule("folder-logs", "A folder contains at least one log.", lambda path: [_NO_LOGS])
READABLE = Rule(LOG_READABLE, READABLE_SAYS, lambda log: [])

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
    *official.OFFICIAL_RULES,
]
"""All rules, in the order of the table in docs/rules.md."""


def check_paths(paths: list[Path], ruleset: str | None = None) -> list[Verdict]:
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
            verdicts.append(_check_log(path, ruleset, singles))
        elif is_run_folder(path):
            verdicts += _check_run(path, ruleset, singles)
        else:
            verdicts += _check_folder(path, ruleset)
    if len(singles) > 1:
        verdicts += _check_runs(singles, Path(paths[0]).parent, verdicts, submitted=False)
    return verdicts


def log_findings(log: Log, ruleset: str | None) -> tuple[list[Rule], list[Finding]]:
    """The rules that apply to one log, and their findings."""
    benchmark = checked_as(log)
    rules = [READABLE, *FILE_RULES, KNOWN]
    if is_deepspeech2(log):
        rules += OURS
    elif log.events and benchmark is not None:
        # A log that MLPerf's own checker accepts must not fail on our file rules: those become warnings.
        rules.append(official.official_rule(official.ruleset_for(log.path, benchmark, ruleset)))
        found = [
            finding if finding.rule == official.VERDICT else replace(finding, severity=WARNING)
            for finding in apply(rules, log, log.path)
        ]
        return rules, found
    return rules, apply(rules, log, log.path)


def _check_log(path: Path, ruleset: str | None, logs: list[Log] | None = None) -> Verdict:
    try:
        log = read(path)
    except OSError as error:
        rule = _unreadable(error.strerror or str(error))
        return Verdict(str(path), "log", None, [rule.id], apply([rule], None, path))
    rules, found = log_findings(log, ruleset)
    if logs is not None:
        logs.append(log)
    return Verdict(str(path), "log", log.benchmark, [rule.id for rule in rules], found)


def _check_run(folder: Path, ruleset: str | None, logs: list[Log]) -> list[Verdict]:
    """Check a run folder: its log and, unless the log is of another benchmark, its record."""
    own: list[Log] = []
    verdicts = [_check_log(folder / LOG_FILE, ruleset, own)]
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


def _check_folder(folder: Path, ruleset: str | None) -> list[Verdict]:
    """Check the packages in a folder, then the logs and runs outside them, grouped by folder."""
    packages = _packages(folder)
    verdicts = [verdict for package in packages for verdict in _check_package(package, ruleset)]
    groups: dict[tuple[object, ...], tuple[list[Log], list[Verdict], Path]] = {}
    for path in _logs_in(folder, packages):
        logs: list[Log] = []
        if path.name == LOG_FILE:
            found = _check_run(path.parent, ruleset, logs)
            place = path.parent.parent
            # A folder of runs may contain several machines and variants: each is a separate result.
            kind = (logs[0].value(mllog.VARIANT), logs[0].value(mllog.SUBMISSION_PLATFORM)) if logs else ()
        else:
            found, place, kind = [_check_log(path, ruleset, logs)], path.parent, ()
        verdicts += found
        group = groups.setdefault((place, str(kind)), ([], [], place))
        group[0].extend(logs)
        group[1].extend(found)
    if not verdicts:
        return [Verdict(str(folder), "folder", None, [FOLDER_LOGS.id], apply([FOLDER_LOGS], folder, folder))]
    for logs, own, place in groups.values():
        if len(logs) > 1:
            verdicts += _check_runs(logs, place, own, submitted=False)
    return verdicts


def _packages(folder: Path) -> list[Path]:
    """The submitters' folders at or up to two levels below a path (a repository of results)."""
    candidates = [folder, *sorted(p for p in folder.glob("*") if p.is_dir()), *sorted(folder.glob("*/*"))]
    found: list[Path] = []
    for path in candidates:
        below = any(parent in found for parent in path.parents)
        if path.is_dir() and not below and is_submitter(path):
            found.append(path)
    return found


def _check_package(org: Path, ruleset: str | None) -> list[Verdict]:
    verdicts: list[Verdict] = []
    results: list[Result] = []
    for folder in sorted(p for p in (org / RESULTS).glob("*/*") if p.is_dir()):
        result = Result(folder, folder.parent.name, folder.name)
        own: list[Verdict] = []
        paths = numbered_logs(folder)
        for path in paths:
            own.append(_check_log(path, ruleset, result.logs))
        if not paths:
            own.append(Verdict(str(folder), "folder", None, [FOLDER_LOGS.id], apply([FOLDER_LOGS], folder, folder)))
        if result.ours:
            own += _check_runs(result.logs, folder, own, submitted=True)
            own += _check_records(org, result)
        results.append(result)
        verdicts += own
    package = read_package(org, results)
    ids = [rule.id for rule in PACKAGE_RULES]
    verdicts.append(Verdict(str(org), "package", None, ids, apply(PACKAGE_RULES, package, org)))
    return verdicts


def _check_records(org: Path, result: Result) -> Iterator[Verdict]:
    locks = locks_of(org, result.benchmark)
    for log in result.own_logs:
        path = file_of_run(log.path, RECORD_FILE)
        if path is not None and path.is_file():
            yield _check_record(RecordedRun(path, log, locks[0] if locks else None))


def _logs_in(folder: Path, packages: list[Path]) -> list[Path]:
    """The logs below a folder and outside its packages: result.txt of runs, and result_N.txt.

    If there are neither logs with these names nor packages: any text file that contains events.
    """
    named = [
        path
        for path in sorted(folder.rglob("result*.txt"))
        if is_result(path) and not any(package in path.parents for package in packages)
    ]
    if named or packages:
        return named
    texts = [p for p in sorted(folder.rglob("*")) if p.suffix in LOG_SUFFIXES and p.is_file()]
    return [path for path in texts if _has_token(path)]


def _has_token(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return mllog.TOKEN in file.read(mllog.MAX_LINE_BYTES)
    except OSError:
        return False
