"""Integrity rules: a run's files match the hashes in its record, and the record agrees with the log.

The record contains the hashes of the run's files, the code's commit, the dataset's digest and the lock file's hash, so
a result can be checked from its files alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark import mllog
from benchmark.machine.system import lock_sha256
from benchmark.params import params_from_dict
from benchmark.record import RunRecord, read_record
from benchmark.submission import LOCK_FILE, LOG_FILE, file_of_run, number_of
from common.errors import UserError
from common.files import sha256_of
from common.values import is_digest, is_integer
from compliance.findings import ERROR, WARNING, Fault, Rule, shown
from compliance.log import Log


@dataclass
class RecordedRun:
    """A run's record with its log and other files, in a run folder or (with numbered names) in a package.

    `lock_file` is the lock file that the record's hash is compared with, if there is one: the package's, or that of the
    checkout that runs the check, whose git history has the version of the run's commit.
    """

    path: Path
    log: Log
    lock_file: Path | None = None
    record: RunRecord | None = None
    fault: str | None = None
    remedy: str = "restore the record as the run wrote it"

    def __post_init__(self) -> None:
        try:
            self.record = read_record(self.path)
        except UserError as error:
            self.fault, self.remedy = f"{error.where}: {error.what}", error.remedy or self.remedy
        except OSError as error:
            self.fault = error.strerror or str(error)

    def file(self, name: str) -> Path:
        """Path of a file of the run: its own name in a run folder, a name with the run's number in a package."""
        return file_of_run(self.log.path, name) or self.path.parent / name

    @property
    def in_package(self) -> bool:
        """Whether this is part of a submission package."""
        return number_of(self.log.path) is not None


def integrity_record(run: RecordedRun) -> Iterator[Fault]:
    """The record can be read."""
    if run.fault is not None:
        yield Fault("a readable run record", run.fault, run.remedy)


def integrity_files(run: RecordedRun) -> Iterator[Fault]:
    """The run's files match the hashes in the record."""
    if run.record is None:
        return
    if LOG_FILE not in run.record.files:
        yield Fault(f"the SHA-256 of {LOG_FILE}", "none", "the run did not end normally: make it again")
    for name, sha256 in run.record.files.items():
        path = run.file(Path(name).name)
        try:
            found = sha256_of(path)
        except FileNotFoundError:
            # A package may omit files that MLPerf does not require; then that one hash cannot be checked.
            severity = _severity(warn=run.in_package and name != LOG_FILE)
            remedy = "restore the file as the run wrote it"
            yield Fault(f"{path.name}, whose hash is in the record", "no such file", remedy, None, severity, path)
            continue
        except OSError as error:
            yield Fault(f"a readable {path.name}", str(error.strerror), "check its permissions", file=path)
            continue
        if found != sha256:
            remedy = "restore the file as the run wrote it; an edited file is not a result"
            yield Fault(f"{path.name} with SHA-256 {sha256}", found, remedy, file=path)


def integrity_agreement(run: RecordedRun) -> Iterator[Fault]:
    """The record agrees with the log."""
    record, log = run.record, run.log
    if record is None or not log.events:
        # An empty log is one finding of the rule log-events.
        return
    summary = log.summary
    dataset = log.value(mllog.DATASET)
    pairs = [
        ("variant", record.variant, log.value(mllog.VARIANT)),
        ("seed", record.seed, log.value(mllog.SEED)),
        ("params_sha256", record.params_sha256, log.value(mllog.PARAMS_SHA256)),
        (
            "dataset.tree_sha256",
            record.dataset.tree_sha256,
            dataset.get("tree_sha256") if isinstance(dataset, dict) else None,
        ),
        ("dataset.train_utterances", record.dataset.train_utterances, log.value(mllog.TRAIN_SAMPLES)),
        ("dataset.eval_utterances", record.dataset.eval_utterances, log.value(mllog.EVAL_SAMPLES)),
        # The harness records only a whole number from 1, and the event is optional.
        (
            "run.threads",
            record.run.threads,
            threads if is_integer(threads := log.value(mllog.CPU_THREADS), 1) else None,
        ),
        ("run.init_s", record.run.init_s, summary.init_s),
        ("run.epochs", record.run.epochs, len(summary.evaluations)),
        ("run.final_wer", record.run.final_wer, summary.final),
        ("run.best_wer", record.run.best_wer, summary.best),
        ("run.target_wer", record.run.target_wer, log.value(mllog.TARGET_WER)),
        ("run.run_s", record.run.run_s, summary.run_s),
        ("run.minutes", record.run.minutes, summary.minutes),
    ]
    pairs.append(("epochs", len(record.epochs), len(summary.epochs)))
    for place, (own, logged) in enumerate(zip(record.epochs, summary.epochs, strict=False)):
        pairs += [(f"epochs[{place}].{name}", value, getattr(logged, name)) for name, value in vars(own).items()]
    remedy = "restore the record and the log as the run wrote them"
    for name, mine, theirs in pairs:
        if not _alike(mine, theirs):
            yield Fault(f"{name} {shown(theirs)}, as in the log", shown(mine), remedy, related=log.path)
    if _LOGGED_AS.get(record.status) != summary.status:
        expected = f"the status {shown(summary.status)}, as in the log"
        yield Fault(expected, record.status, remedy, related=log.path)
    try:
        sha256 = params_from_dict(record.params, "params").sha256
    except UserError as error:
        remedy = "restore the record as the run wrote it, or check it with the benchmark version that wrote it"
        yield Fault("valid parameters in the record", str(error), remedy)
        return
    if sha256 != record.params_sha256:
        remedy = "restore the record as the run wrote it"
        yield Fault(f"params_sha256 {sha256}, the hash of the record's parameters", record.params_sha256, remedy)


_LOGGED_AS = {"success": mllog.SUCCESS, "aborted": mllog.ABORTED, "failed": mllog.ABORTED, "interrupted": mllog.ABORTED}
"""The log's name for each status of a record; an unfinished run logged none."""


def _alike(mine: object, theirs: object) -> bool:
    if isinstance(mine, int | float) and isinstance(theirs, int | float):
        return math.isclose(mine, theirs, rel_tol=1e-9, abs_tol=1e-9)
    return mine == theirs


def integrity_code(run: RecordedRun) -> Iterator[Fault]:
    """The code that ran is known: a commit without uncommitted changes."""
    if run.record is None:
        return
    code = run.record.code
    if not code.commit:
        yield Fault("the code's commit", "none", "run from a git checkout", None, _severity(warn=not run.in_package))
    elif not code.clean:
        remedy = "commit the changes and make the run again"
        yield Fault(
            f"commit {code.commit} unchanged", "uncommitted changes", remedy, None, _severity(warn=not run.in_package)
        )


def integrity_dataset(run: RecordedRun) -> Iterator[Fault]:
    """The dataset was verified and is identified by its digest."""
    if run.record is None:
        return
    dataset = run.record.dataset
    if not is_digest(dataset.tree_sha256):
        remedy = "prepare the dataset again"
        yield Fault("dataset.tree_sha256: 64 hexadecimal digits", shown(dataset.tree_sha256), remedy)
    if not dataset.verified:
        remedy = "run `sh verify_dataset.sh` before the timed run"
        yield Fault("a dataset verified before the run", "not verified", remedy, None, WARNING)


def integrity_lock(run: RecordedRun) -> Iterator[Fault]:
    """The environment is identified by the lock file's hash."""
    if run.record is None:
        return
    lock = run.record.lock_sha256
    if not is_digest(lock):
        remedy = "run in the environment that script/setup.sh makes"
        yield Fault("lock_sha256: 64 hexadecimal digits", shown(lock), remedy)
    elif run.lock_file is not None and run.lock_file.is_file():
        commit = None if run.in_package else run.record.code.commit
        then = lock_sha256(run.lock_file.parent, commit) if commit else None
        found = then or sha256_of(run.lock_file)
        if found != lock:
            remedy = f"compare with the {LOCK_FILE} of the commit that ran"
            severity = _severity(warn=not run.in_package)
            yield Fault(f"{LOCK_FILE} with SHA-256 {lock}", found, remedy, None, severity, run.lock_file)


def _severity(*, warn: bool) -> str:
    return WARNING if warn else ERROR


INTEGRITY_RULES = [
    Rule("integrity-record", "The run's record can be read.", integrity_record),
    Rule("integrity-files", "The files of a run have the SHA-256 that its record gives.", integrity_files),
    Rule(
        "integrity-agreement",
        "Variant, seed, data, status, times and scores of the record are those of the log.",
        integrity_agreement,
    ),
    Rule(
        "integrity-code",
        "The record names the code's commit, without uncommitted changes (a warning outside a package).",
        integrity_code,
    ),
    Rule(
        "integrity-dataset",
        "The record names the dataset's digest, verified before the run (a warning if not).",
        integrity_dataset,
    ),
    Rule(
        "integrity-lock",
        "The record has the hash of the lock file of the package, or of the commit that ran.",
        integrity_lock,
    ),
]
