"""Finds logs in run folders, folders of runs, single files and published MLPerf repositories.

Only directories are read; no file is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from benchmark.rounds.result_tree import ResultFolder, is_log_name, is_submitter, result_at, results_in
from benchmark.rounds.rules_by_round import canonical_name
from benchmark.submission import BENCHMARK, LOG_FILE, LOG_SUFFIXES, RECORD_FILE, RESULTS, file_of_run, is_run_folder
from benchmark.trainer_contract import CHECKPOINTS
from common.errors import UserError, listed
from common.files import natural_key

_SKIPPED_FOLDERS = {CHECKPOINTS, "__pycache__", "node_modules"}
_EXAMPLES = 3


class LabelledPath(NamedTuple):
    """A path that a user gave, and the name that its runs have in tables, None for their system's."""

    path: Path
    label: str | None = None


def labelled_path(text: str) -> LabelledPath:
    """`PATH` or `LABEL=PATH`; an existing path is never taken for a label. ValueError for an empty label or path.

    A path that does not exist and has a `=` in the name of a folder (`runs/lr=0.1/x`) is no label either.
    """
    label, equals, path = text.partition("=")
    if not equals or Path(text).exists() or ("/" in label and not Path(path).exists()):
        return LabelledPath(Path(text))
    if not label.strip() or not path:
        raise ValueError(text)
    return LabelledPath(Path(path), label.strip())


@dataclass(frozen=True)
class Source:
    """One log, its record (None if there is none), and the result of an MLPerf tree that it belongs to, if any.

    `label` is the name that the user gave its path.
    """

    log: Path
    record: Path | None = None
    result: ResultFolder | None = None
    label: str | None = None

    @property
    def published(self) -> bool:
        """Whether the log is in an MLPerf tree (`ORG/results/SYSTEM/BENCHMARK/result_N.txt`)."""
        return self.result is not None

    @property
    def benchmark(self) -> str | None:
        """The benchmark by the folder's name; None outside an MLPerf tree."""
        return self.result.benchmark if self.result else None

    @property
    def round(self) -> str | None:
        """The version of the MLPerf round, `4.0`; None if it is not known."""
        return self.result.round.version if self.result and self.result.round else None

    @property
    def scaling_kind(self) -> str | None:
        """MLPerf HPC's `strong` or `weak`."""
        return self.result.kind if self.result else None

    @property
    def files(self) -> list[Path]:
        """All files that are read for this log."""
        described = [self.result.description, self.result.scaling] if self.result else []
        return [path for path in (self.log, self.record, *described) if path is not None]

    @property
    def power(self) -> Path | None:
        """The folder with the power logs of the result; None if it has none."""
        return self.result.power if self.result else None

    @property
    def place(self) -> Path:
        """The folder whose logs have a common origin: a submitter's, a folder of runs, or the log's own."""
        if self.result is not None:
            return self.result.org
        folder = Path(os.path.abspath(self.log)).parent
        return folder.parent if self.log.name == LOG_FILE else folder


def find_sources(
    paths: Iterable[Path | LabelledPath], problems: list[str] | None = None, benchmark: str | None = None
) -> list[Source]:
    """Every log under `paths`, each once, ordered by path and then by name (natural order).

    A log that several paths lead to has the label of the first.

    `benchmark` leaves out the results of other MLPerf benchmarks. Folders that cannot be read, and what lies in the
    results of an MLPerf tree and is not read, are reported in `problems`. Raises UserError for a path that does not
    exist or has no log.
    """
    wanted = None if benchmark is None else canonical_name(benchmark)
    found: dict[Path, Source] = {}
    reported = [] if problems is None else problems
    labels: dict[Path, str | None] = {}
    walk = _Walk(reported)
    labelled = [path if isinstance(path, LabelledPath) else LabelledPath(path) for path in paths]
    for path, label in labelled:
        if not path.exists():
            raise UserError("no such file or folder", where=path)
        sources = walk.file(path) if path.is_file() else walk.folder(path)
        if not sources:
            raise UserError(
                "no result log found",
                where=path,
                remedy="pass a run folder, a folder of runs, a log, or an MLPerf results repository",
            )
        for source in sources:
            log = source.log.resolve()
            labels.setdefault(log, label)
            if wanted is None or source.benchmark in (None, BENCHMARK, wanted):
                found.setdefault(log, replace(source, label=label) if label else source)
    _require_labels(labelled, set(labels.values()))
    if not found and wanted is not None:
        # All were left out: without the filter, the comparison can name what there is.
        return find_sources(labelled, [])
    kept = {source.result.folder for source in found.values() if source.result}
    reported += _unread([result for result in walk.results.values() if result and result.folder in kept])
    return list(found.values())


def _require_labels(paths: Sequence[LabelledPath], used: set[str | None]) -> None:
    """UserError for a label that no log has: all of its logs have another one."""
    for path, label in paths:
        if label is not None and label not in used:
            raise UserError(
                "all runs under this path are under an earlier path too",
                where=f"{label}={path}",
                remedy="give each set of runs once, the inner folder first",
            )


class _Walk:
    """Looks for logs; remembers the results of MLPerf trees that it has seen."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        self.results: dict[Path, ResultFolder | None] = {}

    def file(self, log: Path) -> list[Source]:
        """The source for one log."""
        result = self._result(log.parent)
        return [
            Source(log, _record_of(log), result if result and log.name in {each.name for each in result.logs} else None)
        ]

    def folder(self, top: Path) -> list[Source]:
        """The logs in a folder, in natural order."""
        sources: list[Source] = []
        for folder, subfolders, files in os.walk(top, onerror=self._report):
            here = Path(folder)
            if is_run_folder(here):
                # If its log is missing, the reader reports it.
                sources += self.file(here / LOG_FILE)
                subfolders.clear()
                continue
            if result := self._result(here):
                sources += self._logs(result)
                subfolders.clear()
                continue
            named = [name for name in files if is_log_name(name, None)]
            sources += [source for name in named for source in self.file(here / name)]
            if named:
                self._report_others(here, set(files) - set(named))
            if RESULTS in subfolders:
                sources += self._published(here, subfolders)
            subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in _SKIPPED_FOLDERS]
        if not sources:
            plain = [entry for entry in top.iterdir() if entry.is_file() and entry.suffix in (*LOG_SUFFIXES, "")]
            sources = [source for entry in plain for source in self.file(entry)]
        return sorted(sources, key=lambda source: natural_key(source.log))

    def _published(self, org: Path, subfolders: list[str]) -> list[Source]:
        """The logs of a submitter's results, if `org` is one; `subfolders` keeps those that may contain other runs."""
        unread: list[str] = []
        results = list(results_in(org, unread, self._report))
        submitter = is_submitter(org)
        if results or (submitter and unread):
            self.problems += unread
            subfolders.clear()
        elif submitter:
            # The code folders may contain sample logs, which are not results.
            subfolders[:] = [RESULTS]
        self.results.update((result.folder, result) for result in results)
        return [source for result in results for source in self._logs(result)]

    def _logs(self, result: ResultFolder) -> list[Source]:
        return [Source(log, _record_of(log) if result.ours else None, result) for log in result.logs]

    def _result(self, folder: Path) -> ResultFolder | None:
        if folder not in self.results:
            self.results[folder] = result_at(folder)
        return self.results[folder]

    def _report_others(self, folder: Path, names: set[str]) -> None:
        """Report the files next to logs `result_*.txt` that may be logs too."""
        others = sorted((name for name in names if name.endswith(LOG_SUFFIXES)), key=natural_key)
        if others:
            self.problems.append(f"{folder}: not read: {listed(others, _EXAMPLES, 'files')}")

    def _report(self, error: OSError) -> None:
        self.problems.append(f"{error.filename}: cannot be read ({error.strerror})")


def _record_of(log: Path) -> Path | None:
    """The record of a log's run; None if there is none."""
    record = file_of_run(log, RECORD_FILE)
    return record if record is not None and record.is_file() else None


def _unread(results: list[ResultFolder]) -> list[str]:
    """What lies in results and is not read: a line for each result, or one for each submitter with many of them."""
    by_org: dict[Path, list[ResultFolder]] = {}
    for result in results:
        if result.unread:
            by_org.setdefault(result.org, []).append(result)
    lines = []
    for org, found in by_org.items():
        if len(found) <= _EXAMPLES:
            lines += [f"{result.folder}: not read: {'; '.join(result.unread)}" for result in found]
        else:
            examples = "; ".join(dict.fromkeys(part for result in found for part in result.unread))
            short = examples if len(examples) < 160 else examples[:160] + "..."
            lines.append(f"{org}: not read in {len(found)} results: {short}")
    return lines
