"""Finds logs in run folders, folders of runs, single files and published MLPerf repositories.

Only directories are read; no file is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmark.submission import (
    LOG_FILE,
    LOG_SUFFIXES,
    RECORD_FILE,
    RESULTS,
    SCALING_KINDS,
    description_of,
    file_of_run,
    is_run_folder,
    is_submitter,
    number_of,
    rounds_above,
)
from benchmark.trainer_contract import CHECKPOINTS
from common.errors import UserError

_SKIPPED_FOLDERS = {CHECKPOINTS, "__pycache__", "node_modules"}


@dataclass(frozen=True)
class Source:
    """One log and the files next to it; None if there is none.

    `submitter`, `system` and `benchmark` are the folders' names in an MLPerf tree; `round` is MLPerf's, from the
    repository's name (`training_results_v1.1` gives "1.1"); `scaling_kind` is HPC's `strong` or `weak`.
    """

    log: Path
    record: Path | None = None
    description: Path | None = None
    scaling: Path | None = None
    submitter: str | None = None
    system: str | None = None
    benchmark: str | None = None
    round: str | None = None
    scaling_kind: str | None = None

    @property
    def published(self) -> bool:
        """Whether the log is in an MLPerf tree (`ORG/results/SYSTEM/BENCHMARK/result_N.txt`)."""
        return self.system is not None


def natural_key(text: object) -> list[tuple[int, int, str]]:
    """Sort key that puts `result_10` after `result_9`."""
    parts = re.split(r"(\d+)", str(text))
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def find_sources(paths: Iterable[Path], problems: list[str] | None = None) -> list[Source]:
    """Every log under `paths`, each once, ordered by path and then by name (natural order).

    Unreadable folders are reported in `problems`. Raises UserError for a path that does not exist or has no log.
    """
    found: dict[Path, Source] = {}
    unreadable = [] if problems is None else problems
    for path in paths:
        if not path.exists():
            raise UserError("no such file or folder", where=path)
        sources = [_source_of(path)] if path.is_file() else _walk(path, unreadable)
        if not sources:
            raise UserError(
                "no result log found",
                where=path,
                remedy="pass a run folder, a folder of runs, a log, or an MLPerf results repository",
            )
        for source in sources:
            found.setdefault(source.log.resolve(), source)
    return list(found.values())


def _walk(top: Path, problems: list[str]) -> list[Source]:
    sources: list[Source] = []

    def report(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read ({error.strerror})")

    for folder, subfolders, files in os.walk(top, onerror=report):
        here = Path(folder)
        if is_run_folder(here):
            # If its log is missing, the reader reports it.
            sources.append(_source_of(here / LOG_FILE))
            subfolders.clear()
            continue
        sources.extend(_source_of(here / name) for name in files if number_of(here / name) is not None)
        if is_submitter(here):
            # The code folders may contain sample logs, which are not results.
            subfolders[:] = [RESULTS]
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in _SKIPPED_FOLDERS]
    if not sources:
        plain = [entry for entry in top.iterdir() if entry.is_file() and entry.suffix in (*LOG_SUFFIXES, "")]
        sources = [_source_of(entry) for entry in plain]
    return sorted(sources, key=lambda source: natural_key(source.log))


def _source_of(log: Path) -> Source:
    """The source for a log, derived from its path."""
    record = file_of_run(log, RECORD_FILE)
    known = record if record is not None and record.is_file() else None
    if number_of(log) is None:
        return Source(log, known)
    folder = Path(os.path.abspath(log)).parent
    kind = folder.parent.name if folder.parent.name in SCALING_KINDS else None
    system = folder.parents[1] if kind else folder.parent
    if system.parent.name != RESULTS:
        return Source(log, known)
    organisation = system.parent.parent
    description = organisation / description_of(system.name)
    scaling = folder / "scaling.json"
    return Source(
        log,
        known,
        description=description if description.is_file() else None,
        scaling=scaling if scaling.is_file() else None,
        submitter=organisation.name,
        system=system.name,
        benchmark=folder.name,
        round=next((each for _, each in rounds_above(organisation)), None),
        scaling_kind=kind,
    )
