"""The history of a gate: a file of JSON lines, one for each set of runs, that is a baseline without the runs' folders."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.mllog import BENCHMARK
from common.errors import UserError, from_os_error
from common.formats import HISTORY, VERSION_KEY
from common.locks import FileLock
from common.values import is_integer
from results.comparing.comparison import aspect_text, describe
from results.comparing.identity import ASPECTS, Aspects
from results.comparing.score_of_runs import PUBLISHED, UNVERIFIED, Score
from results.comparing.speedup import RunFigures, Side


@dataclass(frozen=True)
class Entry:
    """The runs of one configuration, as far as a gate compares them.

    `configuration` is what they ran on and with; `parameters` are the variant's values. `dropped` runs at each end do
    not count in the score. `started_at` is when the newest run started (UTC). `label` is the name that the user gave
    the runs. `passed` is the outcome of the gate, None if there was nothing to compare with.
    """

    aspects: Aspects
    configuration: dict[str, Any]
    runs: tuple[RunFigures, ...]
    score: Score
    dropped: int = 0
    progress_unit: str | None = None
    started_at: str | None = None
    label: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    passed: bool | None = None

    @property
    def side(self) -> Side:
        """What a speed-up compares."""
        return Side(self.score, self.runs, self.dropped, self.aspects.benchmark == BENCHMARK)

    @property
    def full_title(self) -> str:
        """Everything that runs must have in common with these."""
        return describe(self.aspects)

    @property
    def origin(self) -> str:
        """The runs' label, commit and start, as far as known."""
        commit = self.configuration.get("commit")
        return ", ".join(part for part in (self.label, commit and f"commit {commit}", self.started_at) if part)

    @property
    def verification(self) -> str:
        """What the score is worth."""
        return UNVERIFIED if self.aspects.round is None else PUBLISHED


def titles_of(entries: Sequence[Entry]) -> list[str]:
    """Benchmark and variant of each entry, with what tells it from others of the same: `mini (target WER 23)`."""
    short = [" ".join(filter(None, (entry.aspects.benchmark, entry.aspects.variant))) for entry in entries]
    titles = []
    for title, entry in zip(short, entries, strict=True):
        alike = [other.aspects for other, its_title in zip(entries, short, strict=True) if its_title == title]
        names = [name for name in ASPECTS if len({getattr(aspects, name) for aspects in alike}) > 1]
        values = ", ".join(f"{ASPECTS[name]} {aspect_text(getattr(entry.aspects, name), name)}" for name in names)
        titles.append(f"{title} ({values})" if values else title)
    return titles


def same_runs(one: Entry, other: Entry) -> bool:
    """Whether two entries are of the same runs."""
    return (one.started_at, one.aspects, one.runs) == (other.started_at, other.aspects, other.runs)


def have_common_runs(one: Entry, other: Entry) -> bool:
    """Whether two entries have a run in common, as if one were of a series that was extended later."""
    if (one.aspects, one.configuration) != (other.aspects, other.configuration):
        return False
    return any(run in other.runs for run in one.runs if run.minutes is not None) or same_runs(one, other)


def read_history(path: Path, problems: list[str]) -> list[Entry]:
    """The entries of a history, the oldest first; [] if there is no such file. `problems` receives damaged lines.

    Of several entries of the same runs, the last one counts, in the place of the first. UserError for a file of a later
    version.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found: dict[str, Entry] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            entry = _entry(line, where)
        except _Damaged as error:
            problems.append(f"{where}: this line is damaged and was left out ({error})")
        else:
            found[repr((entry.started_at, entry.aspects, entry.runs))] = entry
    return list(found.values())


class _Damaged(Exception):
    """A line that is not an entry, and why."""


def _entry(line: bytes, where: str) -> Entry:
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Damaged("not JSON") from error
    if isinstance(tree, dict) and is_integer(tree.get(VERSION_KEY), HISTORY.version + 1):
        HISTORY.current(tree, where)  # raises: which version is needed
    try:
        entry = HISTORY.read(Entry, tree, where)
    except UserError as error:
        raise _Damaged(error.what) from error
    if fault := _fault(entry):
        raise _Damaged(fault)
    return entry


def _fault(entry: Entry) -> str:
    """What is impossible in an entry; empty if nothing is."""
    figures = [value for run in entry.runs for value in (run.minutes, run.progress, run.samples_per_s)]
    scored = (entry.score.minutes, entry.score.models, entry.score.scaling_factor)
    if any(value is not None and not value > 0 for value in (*figures, *scored)):
        return "a time, a rate or a score is not above 0"
    if entry.score.minutes is not None and all(run.minutes is None for run in entry.runs):
        return "a score without a run that has a time"
    if entry.dropped < 0 or 2 * entry.dropped >= max(len(entry.runs), 1):
        return "fewer runs than its score leaves out"
    return ""


def append(path: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Append entries to a history, which is created if it is missing; return those that were appended.

    An entry of runs that it has with the same outcome is not appended again. An entry is written whole or not at all;
    what a crash of the machine leaves of one is a damaged line, which the next entry does not continue. UserError for a
    file that is not a history.
    """
    with FileLock(path, lambda: None):
        known = read_history(path, [])
        if not known and path.stat().st_size:
            raise UserError(
                "this file has no entry that can be read, so it may be something else, and nothing was appended",
                where=path,
                remedy="name another file, or delete it",
            )
        new = [entry for entry in entries if not _is_known(entry, known)]
        if new:
            _append_lines(path, new)
    return new


def _is_known(entry: Entry, known: Sequence[Entry]) -> bool:
    return any(same_runs(entry, other) and entry.passed == other.passed for other in known)


def _append_lines(path: Path, entries: Sequence[Entry]) -> None:
    text = "".join(json.dumps(HISTORY.with_version(dataclasses.asdict(entry))) + "\n" for entry in entries)
    with open(path, "r+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            text = text if file.read(1) == b"\n" else "\n" + text
        data = text.encode()
        try:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(end)
            raise from_os_error(OSError(error.errno, error.strerror, str(path))) from error
