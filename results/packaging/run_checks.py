"""Checks the runs of a package: complete, unmodified, and of one submitter, system, dataset, code and parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import mllog
from benchmark.log_summary import summarise
from benchmark.record import RunRecord, read_record
from benchmark.submission import LOG_FILE, RECORD_FILE, UNFINISHED
from common.errors import UserError
from common.files import sha256_of
from results.reading.discover import Source


@dataclass(frozen=True)
class PackagedRun:
    """A run folder with its record, and the first event of each key of its log."""

    folder: Path
    record: RunRecord
    logged: dict[str, Any]


def read_packaged(source: Source) -> PackagedRun:
    """Read one run folder; UserError if it is not one, is unfinished, or does not match the hashes in its record."""
    folder = source.log.parent
    if source.record is None or source.record.name != RECORD_FILE:
        raise UserError(
            f"not a run folder: it has no {RECORD_FILE}", where=source.log, remedy="package the folders that runs made"
        )
    record = read_record(source.record)
    # A failed run is finished and counts: omitting it would be selecting results.
    if record.status in UNFINISHED:
        raise UserError(
            f"this run is {record.status}",
            where=folder,
            remedy=f"resume it first: python -m benchmark run --resume {folder}",
        )
    if LOG_FILE not in record.files:
        raise UserError(f"the record has no hash of {LOG_FILE}, so the run never started", where=folder)
    for name, sha256 in record.files.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise UserError("a file with a hash in the record is missing", where=path)
        if sha256_of(path) != sha256:
            raise UserError(
                "the file was changed after the run (its SHA-256 is not the record's)",
                where=path,
                remedy="restore it as the run wrote it",
            )
    with open(source.log, "rb") as file:
        summary = summarise(mllog.read_lines(file))
    if summary.run_start is None:
        raise UserError("the timed region of this run never started, so it is not a result", where=folder)
    return PackagedRun(folder, record, {key: event.value for key, event in summary.first.items()})


_SYSTEM_FIELDS = (
    "system_name",
    "number_of_nodes",
    "host_processor_model_name",
    "host_processor_core_count",
    "host_memory_capacity",
    "accelerators_per_node",
    "accelerator_model_name",
    "operating_system",
    "framework",
)
"""The fields that identify a machine; clock rates and free space are not included, since they vary on one machine."""
_MUST_MATCH: dict[str, Callable[[PackagedRun], object]] = {
    "variant": lambda run: run.record.variant,
    "division": lambda run: run.record.division,
    "parameters": lambda run: run.record.params_sha256,
    "dataset": lambda run: run.record.dataset.tree_sha256,
    "code": lambda run: run.record.code.commit,
    "lock file": lambda run: run.record.lock_sha256,
    "trainer": lambda run: run.record.trainer,
    "software": lambda run: run.record.software,
    "system": lambda run: {name: run.record.system.get(name) for name in _SYSTEM_FIELDS},
    "number of processes": lambda run: (run.record.run.nproc, run.record.run.nnodes),
    "device": lambda run: run.record.run.device,
    "number of CPU threads": lambda run: run.record.run.threads,
    "OMP_NUM_THREADS": lambda run: run.record.run.omp_num_threads,
    "PYTORCH_ALLOC_CONF": lambda run: run.record.run.pytorch_alloc_conf,
    "PYTORCH_CUDA_ALLOC_CONF": lambda run: run.record.run.pytorch_cuda_alloc_conf,
    "DROP_CACHES": lambda run: run.record.run.drop_caches,
    "input format": lambda run: run.logged.get("input_format"),
    "submission_org": lambda run: run.logged.get(mllog.SUBMISSION_ORG),
    "submission_status": lambda run: run.logged.get(mllog.SUBMISSION_STATUS),
    "submission_platform": lambda run: run.logged.get(mllog.SUBMISSION_PLATFORM),
}


def check_same_kind(runs: Sequence[PackagedRun], org: str, *, allow_dirty: bool) -> None:
    """Raise UserError, naming the run, unless all runs are of one kind, distinct, and of committed code."""
    first = runs[0]
    for run in runs:
        for what, value in _MUST_MATCH.items():
            if value(run) != value(first):
                found = f"{_short(value(run))}, not {_short(value(first))}"
                raise UserError(
                    f"not the same {what} as in {first.folder} ({found})",
                    where=run.folder,
                    remedy="package only runs of one kind",
                )
        code = run.record.code
        if code.commit is None:
            raise UserError("the code that made this run is unknown: it was not a git checkout", where=run.folder)
        if not code.clean and not allow_dirty:
            raise UserError(
                "the run was made with uncommitted changes",
                where=run.folder,
                remedy="commit and run again, or use --allow-dirty (the result will not be compliant)",
            )
    _distinct(runs)
    logged_org = first.logged.get(mllog.SUBMISSION_ORG)
    if logged_org != org:
        raise UserError(
            f"the runs' logs name the submitter {logged_org!r}, not {org!r}",
            where="--org",
            remedy=f"use --org with that name, or make the runs with SUBMISSION_ORG={org!r}: logs are never edited",
        )


def _distinct(runs: Sequence[PackagedRun]) -> None:
    seen: dict[tuple[str, object], PackagedRun] = {}
    for run in runs:
        for what, key in (
            (f"the seed {run.record.seed}", run.record.seed),
            ("the log", run.record.files[LOG_FILE]),
        ):
            other = seen.setdefault((what, key), run)
            if other is not run:
                raise UserError(
                    f"{what} is also that of {other.folder}", where=run.folder, remedy="each run needs its own seed"
                )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
