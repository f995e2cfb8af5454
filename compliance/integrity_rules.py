"""Seals: a record carries the hashes of its run's files, the code's commit, the data's digest and the lock file's hash.

With them a result is re-checked from its files alone: nothing was edited afterwards, and what the record says is what
the log shows.
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
from common.sha256 import sha256_of
from common.values import is_digest
from compliance.findings import WARNING, Fault, Rule, shown
from compliance.log import Log


@dataclass
class Sealed:
    """A run's record beside its log and other files, in a run folder or, numbered, in a package.

    `lock_file` is the lock file that the record's hash is compared with, where there is one: that of the package, or of the
    checkout that checks, from which git has it as it was when the run was made.
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
        """Where a file of the run lies: by its own name in a run folder, with its run's number in a package."""
        return file_of_run(self.log.path, name) or self.path.parent / name

    @property
    def in_package(self) -> bool:
        """Whether this is part of a submission package."""
        return number_of(self.log.path) is not None


def seal_record(sealed: Sealed) -> Iterator[Fault]:
    """The record can be read."""
    if sealed.fault is not None:
        yield Fault("a readable run record", sealed.fault, sealed.remedy)


def seal_files(sealed: Sealed) -> Iterator[Fault]:
    """The run's files are those that the record sealed."""
    if sealed.record is None:
        return
    if LOG_FILE not in sealed.record.files:
        yield Fault(f"the SHA-256 of {LOG_FILE}", "none", "the run did not end in order: make it again")
    for name, sha256 in sealed.record.files.items():
        path = sealed.file(Path(name).name)
        try:
            found = sha256_of(path)
        except FileNotFoundError:
            # A package may leave out what MLPerf does not ask for; then that one seal cannot be re-checked.
            mild = sealed.in_package and name != LOG_FILE
            remedy = "restore the file as the run wrote it"
            yield Fault(f"{path.name}, which the record seals", "no such file", remedy, None, _mild(mild), path)
            continue
        except OSError as error:
            yield Fault(f"a readable {path.name}", str(error.strerror), "check its permissions", file=path)
            continue
        if found != sha256:
            remedy = "restore the file as the run wrote it; an edited one is no result"
            yield Fault(f"{path.name} with SHA-256 {sha256}", found, remedy, file=path)


def seal_agreement(sealed: Sealed) -> Iterator[Fault]:
    """What the record says is what the log shows."""
    record, log = sealed.record, sealed.log
    if record is None or not log.events:
        # That an emptied log shows nothing is one finding, of log-events.
        return
    said = log.summary
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
        ("run.init_s", record.run.init_s, said.init_s),
        ("run.epochs", record.run.epochs, len(said.evaluations)),
        ("run.final_wer", record.run.final_wer, said.final),
        ("run.best_wer", record.run.best_wer, said.best),
        ("run.target_wer", record.run.target_wer, log.value(mllog.TARGET_WER)),
        ("run.run_s", record.run.run_s, said.run_s),
        ("run.minutes", record.run.minutes, said.minutes),
    ]
    pairs.append(("epochs", len(record.epochs), len(said.epochs)))
    for place, (own, logged) in enumerate(zip(record.epochs, said.epochs, strict=False)):
        pairs += [(f"epochs[{place}].{name}", value, getattr(logged, name)) for name, value in vars(own).items()]
    remedy = "restore record and log as the run wrote them"
    for name, mine, theirs in pairs:
        if not _alike(mine, theirs):
            yield Fault(f"{name} {shown(theirs)}, as in the log", shown(mine), remedy)
    if _LOGGED_AS.get(record.status) != said.status:
        yield Fault(f"a status that the log calls {shown(said.status)}", record.status, remedy)
    try:
        sha256 = params_from_dict(record.params, "params").sha256
    except UserError as error:
        remedy = "restore the record as the run wrote it, or check it with the version of the benchmark that wrote it"
        yield Fault("valid parameters in the record", str(error), remedy)
        return
    if sha256 != record.params_sha256:
        remedy = "restore the record as the run wrote it"
        yield Fault(f"params_sha256 {sha256}, of the record's own parameters", record.params_sha256, remedy)


_LOGGED_AS = {"success": mllog.SUCCESS, "aborted": mllog.ABORTED, "failed": mllog.ABORTED, "interrupted": mllog.ABORTED}
"""What a record's status is called in a log; an unfinished run logged none."""


def _alike(mine: object, theirs: object) -> bool:
    if isinstance(mine, int | float) and isinstance(theirs, int | float):
        return math.isclose(mine, theirs, rel_tol=1e-9, abs_tol=1e-9)
    return mine == theirs


def seal_code(sealed: Sealed) -> Iterator[Fault]:
    """The code that ran is known: a commit, with nothing changed."""
    if sealed.record is None:
        return
    code = sealed.record.code
    if not code.commit:
        yield Fault("the code's commit", "none", "run from a git checkout", None, _mild(not sealed.in_package))
    elif not code.clean:
        remedy = "commit the changes and make the run again"
        yield Fault(
            f"commit {code.commit} unchanged", "uncommitted changes", remedy, None, _mild(not sealed.in_package)
        )


def seal_dataset(sealed: Sealed) -> Iterator[Fault]:
    """The data set was verified, and is named by its digest."""
    if sealed.record is None:
        return
    dataset = sealed.record.dataset
    if not is_digest(dataset.tree_sha256):
        remedy = "prepare the data set again"
        yield Fault("dataset.tree_sha256: 64 hexadecimal digits", shown(dataset.tree_sha256), remedy)
    if not dataset.verified:
        remedy = "run `sh verify_dataset.sh` before the timed run"
        yield Fault("a data set verified before the run", "not verified", remedy, None, WARNING)


def seal_lock(sealed: Sealed) -> Iterator[Fault]:
    """The environment is named by the lock file's hash."""
    if sealed.record is None:
        return
    lock = sealed.record.lock_sha256
    if not is_digest(lock):
        remedy = "run in the environment that script/setup.sh makes"
        yield Fault("lock_sha256: 64 hexadecimal digits", shown(lock), remedy)
    elif sealed.lock_file is not None and sealed.lock_file.is_file():
        commit = None if sealed.in_package else sealed.record.code.commit
        then = lock_sha256(sealed.lock_file.parent, commit) if commit else None
        found = then or sha256_of(sealed.lock_file)
        if found != lock:
            remedy = f"compare with the {LOCK_FILE} of the commit that ran"
            severity = _mild(not sealed.in_package)
            yield Fault(f"{LOCK_FILE} with SHA-256 {lock}", found, remedy, None, severity, sealed.lock_file)


def _mild(mild: bool) -> str:
    return WARNING if mild else "error"


SEAL_RULES = [
    Rule("seal-record", "The run's record can be read.", seal_record),
    Rule("seal-files", "The files of a run have the SHA-256 that its record gives.", seal_files),
    Rule(
        "seal-agreement",
        "Variant, seed, data, status, times and scores of the record are those of the log.",
        seal_agreement,
    ),
    Rule(
        "seal-code",
        "The record names the code's commit, without uncommitted changes (a warning outside a package).",
        seal_code,
    ),
    Rule(
        "seal-dataset",
        "The record names the data set's digest, verified before the run (a warning if not).",
        seal_dataset,
    ),
    Rule(
        "seal-lock",
        "The record names the hash of the lock file, that of the package or of the commit that ran.",
        seal_lock,
    ),
]
