"""The record of one run: record.json in its folder, the one currency of everything that looks at runs afterwards.

Written when the run begins (status `unfinished`) and again at its end whatever happened, each time atomically, so that
a run interrupted at any moment leaves a readable record that says so. What could not be measured is null, never 0.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from datasets.errors import UserError
from datasets.manifest import write_atomically

from . import mllog
from .mllog import Event

SCHEMA = 1
FILE_NAME = "record.json"
HASHED_FILES = ("result.txt", "params.yaml", "telemetry.csv", "trainer.err")

Status = Literal["unfinished", "success", "aborted", "failed", "interrupted"]
"""`aborted`: the trainer ended properly without the target; `failed`: it broke; `interrupted`: a signal ended it;
`unfinished`: the run is still going, or the harness was killed."""


@dataclass(frozen=True, kw_only=True)
class CodeVersion:
    """The checkout's commit, and whether nothing in it was changed; None outside a git checkout."""

    commit: str | None
    clean: bool | None


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What the run trained on. `verified`: the last verification passed and was of this content."""

    name: str
    tree_sha256: str
    tar_cksum: int
    tar_bytes: int
    train_utterances: int
    train_hours: float
    eval_utterances: int
    eval_hours: float
    verified_at: str | None
    verified: bool


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """How the run went. Error rates in percent; `run_s` counts from the first run_start to run_stop, whatever lies between.

    `resumed_epochs` holds, for each resumption, the last epoch that was kept. `peak_memory_bytes` is the trainer's.
    """

    nproc: int
    nnodes: int
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


@dataclass(frozen=True, kw_only=True)
class EpochFacts:
    """One epoch that was evaluated, counted from 1. Error rates in percent, throughput per second of training."""

    epoch_num: int
    train_loss: float | None
    train_s: float | None
    eval_s: float | None
    wer: float
    cer: float | None
    mean_wer: float | None
    utterances_per_s: float | None
    audio_s_per_s: float | None
    data_wait_s: float | None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run. Times are UTC in ISO 8601; `files` maps file names to SHA-256; `notes` are remarks on the run's course."""

    schema: int = SCHEMA
    status: Status
    reason: str | None
    variant: str
    division: Literal["closed", "open"]
    params: dict[str, Any]
    params_sha256: str
    seed: int
    started_at: str
    ended_at: str | None
    command: tuple[str, ...]
    code: CodeVersion
    lock_sha256: str | None
    dataset: DatasetFacts
    system: dict[str, Any]
    software: dict[str, Any]
    run: RunFacts
    epochs: tuple[EpochFacts, ...] = ()
    telemetry: dict[str, Any] | None = None
    files: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def write_record(record: RunRecord, run_dir: Path) -> None:
    """Write the record into its run's folder, atomically; OSError where that cannot be done."""
    data = orjson.dumps(dataclasses.asdict(record), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    write_atomically(run_dir / FILE_NAME, data)


def read_record(path: Path) -> RunRecord:
    """Read a record (its file, or the run's folder), checking every field; UserError names file and field."""
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    try:
        tree = orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("no run record lies here", where=path) from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"the record is damaged: not JSON ({error})", where=path) from None
    if not isinstance(tree, dict) or "schema" not in tree:
        raise UserError("not a run record: it names no schema", where=path)
    if tree["schema"] != SCHEMA:
        raise UserError(
            f"the record has schema {tree['schema']!r}; this version reads {SCHEMA}",
            where=path,
            remedy="read it with the version of the benchmark that wrote it",
        )
    try:
        return _build(RunRecord, tree, "")
    except UserError as error:
        raise UserError(f"the record is damaged: {error.what}", where=f"{path}: {error.where}") from None


def epochs_of(events: list[Event]) -> tuple[EpochFacts, ...]:
    """The evaluated epochs of a log, in order; where an epoch was evaluated twice the last one counts."""
    edges: dict[tuple[str, int], Event] = {}
    stats: dict[int, dict[str, Any]] = {}
    scores: dict[int, Event] = {}
    for event in events:
        epoch = event.epoch_num
        if not isinstance(epoch, int):
            continue
        if event.key == mllog.TRACKED_STATS and isinstance(event.value, dict):
            stats[epoch] = event.value
        elif event.key == mllog.EVAL_ACCURACY and isinstance(event.value, int | float):
            scores[epoch] = event
        else:
            edges[event.key, epoch] = event
    return tuple(
        EpochFacts(
            epoch_num=epoch,
            train_loss=_number(stats.get(epoch, {}).get("train_loss")),
            train_s=_between(edges.get((mllog.EPOCH_START, epoch)), edges.get((mllog.EPOCH_STOP, epoch))),
            eval_s=_between(edges.get((mllog.EVAL_START, epoch)), edges.get((mllog.EVAL_STOP, epoch))),
            wer=float(score.value),
            cer=_number(score.metadata.get("cer")),
            mean_wer=_number(score.metadata.get("mean_wer")),
            utterances_per_s=_number(stats.get(epoch, {}).get("utterances_per_s")),
            audio_s_per_s=_number(stats.get(epoch, {}).get("audio_s_per_s")),
            data_wait_s=_number(stats.get(epoch, {}).get("data_wait_s")),
        )
        for epoch, score in sorted(scores.items())
    )


class Timing(NamedTuple):
    """Seconds by the log: of the set-up, and of the run by the rules."""

    init_s: float | None
    run_s: float | None


def timing_of(events: list[Event]) -> Timing:
    """The clock by the rules: from the first run_start to the last run_stop, never pausing."""
    first: dict[str, Event] = {}
    last: dict[str, Event] = {}
    for event in events:
        first.setdefault(event.key, event)
        last[event.key] = event
    return Timing(
        init_s=_between(first.get(mllog.INIT_START), first.get(mllog.INIT_STOP)),
        run_s=_between(first.get(mllog.RUN_START), last.get(mllog.RUN_STOP)),
    )


def hash_files(run_dir: Path) -> dict[str, str]:
    """SHA-256 of the run's files that are there, by name."""
    hashes = {}
    for name in HASHED_FILES:
        if (run_dir / name).is_file():
            with open(run_dir / name, "rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _between(start: Event | None, stop: Event | None) -> float | None:
    return (stop.time_ms - start.time_ms) / 1000 if start and stop else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _build(cls: Any, tree: object, prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    if not isinstance(tree, dict):
        raise UserError("expected an object", where=prefix.rstrip("."))
    for key in tree:
        if key not in hints:
            raise UserError("unknown field", where=prefix + str(key))
    for key in hints:
        if key not in tree:
            raise UserError("missing field", where=prefix + key)
    return cls(**{key: _value(hint, tree[key], prefix + key) for key, hint in hints.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is types.UnionType:
        return None if value is None else _value(arguments[0], value, where)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where + ".")
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"expected one of {', '.join(arguments)}, not {value!r}", where=where)
        return value
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, where)
        return tuple(_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), "an object", value, where)
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float:
        _expect(isinstance(value, int | float) and not isinstance(value, bool), "a number", value, where)
        return float(value)
    _expect(type(value) is hint, {int: "a whole number", str: "text", bool: "true or false"}[hint], value, where)
    return value


def _expect(holds: bool, what: str, value: object, where: str) -> None:
    if not holds:
        raise UserError(f"expected {what}, not {value!r:.60}", where=where)
