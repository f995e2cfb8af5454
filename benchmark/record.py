"""The record of one run: record.json in its folder, the input of every tool that reads runs afterwards.

It is written when the run starts (status `unfinished`) and again when it ends, however it ends. Each write is atomic,
so a run interrupted at any moment leaves a readable record that says so. What could not be measured is null, never 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from benchmark.log_summary import EpochFacts
from benchmark.submission import HASHED_FILES, RECORD_FILE, Division
from common.errors import UserError
from common.files import sha256_of, write_atomically
from common.formats import RECORD

Status = Literal["unfinished", "success", "aborted", "failed", "interrupted"]
"""`aborted`: the trainer ended in order without reaching the target; `failed`: it broke; `interrupted`: a signal
ended it; `unfinished`: the run is still in progress, or the harness was killed."""

TIMING_VARIABLES = ("OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Environment variables that the harness passes on as they are and that change how long a run takes. `RunFacts` has
each under its name in lower case."""


@dataclass(frozen=True, kw_only=True)
class CodeVersion:
    """The checkout's commit, and whether the work tree is unchanged; None outside a git checkout."""

    commit: str | None = None
    clean: bool | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What the run trained on. `verified`: the last verification passed and was of this content."""

    name: str
    tree_sha256: str
    tar_cksum: int | None = None
    tar_bytes: int | None = None
    train_utterances: int
    train_hours: float | None = None
    eval_utterances: int
    eval_hours: float | None = None
    verified_at: str | None = None
    verified: bool = False


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The run's processes, durations and error rates.

    Error rates are in percent; `run_s` counts from run_start to run_stop, as `log_summary` has them.

    `resumed_epochs` holds, for each resumption, the last epoch that was kept. `peak_memory_bytes` is the trainer's.
    `threads` is the number of CPU threads of each trainer process, as the trainer logged it. The last four fields are
    the settings at the run's start: the values of TIMING_VARIABLES (None: not set), and whether the file caches were to
    be dropped (None: not known).
    """

    nproc: int
    nnodes: int = 1
    device: str
    cache_cleared: bool | None = None
    init_s: float | None = None
    run_s: float | None = None
    minutes: float | None = None
    epochs: int = 0
    best_wer: float | None = None
    final_wer: float | None = None
    target_wer: float
    resumed_epochs: tuple[int, ...] = ()
    peak_memory_bytes: int | None = None
    threads: int | None = None
    omp_num_threads: str | None = None
    pytorch_alloc_conf: str | None = None
    pytorch_cuda_alloc_conf: str | None = None
    drop_caches: bool | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run. Times are UTC in ISO 8601; `files` maps file names to SHA-256; `notes` are remarks on how the run went.

    A field that has a default may be missing in the file.
    """

    status: Status
    reason: str | None = None
    variant: str
    division: Division
    params: dict[str, Any]
    params_sha256: str
    seed: int
    started_at: str
    ended_at: str | None = None
    command: tuple[str, ...] = ()
    code: CodeVersion = field(default_factory=CodeVersion)
    lock_sha256: str | None = None
    dataset: DatasetFacts
    system: dict[str, Any] = field(default_factory=dict)
    software: dict[str, Any] = field(default_factory=dict)
    run: RunFacts
    epochs: tuple[EpochFacts, ...] = ()
    telemetry: dict[str, Any] | None = None
    files: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def trainer(self) -> str | None:
        """The module that trained, from its command line; None if the record does not say."""
        at = self.command.index("--params") if "--params" in self.command else 0
        return self.command[at - 1] if at else None


def timing_variables(environ: Mapping[str, str]) -> dict[str, Any]:
    """The values of TIMING_VARIABLES by their fields in `RunFacts`; None: not set.

    JSON is UTF-8: other bytes become U+FFFD.
    """
    values = {}
    for name in TIMING_VARIABLES:
        value = environ.get(name)
        values[name.lower()] = value and value.encode(errors="surrogateescape").decode(errors="replace")
    return values


def write_record(record: RunRecord, run_dir: Path) -> None:
    """Write the record into its run's folder, atomically; OSError if that fails."""
    data = orjson.dumps(
        RECORD.with_version(dataclasses.asdict(record)), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    )
    write_atomically(run_dir / RECORD_FILE, data)


def read_record(path: Path) -> RunRecord:
    """Read a record (its file, or the run's folder) of this or an older version; UserError names file and field."""
    path = Path(path)
    if path.is_dir():
        path = path / RECORD_FILE
    try:
        tree = orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("no run record here", where=path) from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"the run record is damaged: not JSON ({error})", where=path) from None
    return RECORD.read(RunRecord, tree, path)


def hash_files(run_dir: Path) -> dict[str, str]:
    """SHA-256 of the run's existing files, by name."""
    hashes = {}
    for name in HASHED_FILES:
        if (run_dir / name).is_file():
            hashes[name] = sha256_of(run_dir / name)
    return hashes
