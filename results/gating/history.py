"""The history of a gate: a file of JSON lines, one for each set of runs, that is a baseline without the runs' folders."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError, from_os_error
from common.formats import HISTORY, VERSION_KEY
from common.locks import FileLock
from common.values import is_integer
from results.comparing.comparison import aspect_text, describe
from results.comparing.identity import ASPECTS, Aspects
from results.comparing.score_of_runs import Score
from results.comparing.speedup import RunFigures, Side
from results.gating.decision import DOUBTS


@dataclass(frozen=True)
class Entry:
    """The runs of one configuration, as far as a gate compares them.

    `configuration` is what they ran on and with; `parameters` are the variant's values. `dropped` runs at each end do
    not count in the score. `started_at` is when the newest run started (UTC). `label` is the name that the user gave
    the runs. `passed` is whether the gate passed, None if there was nothing to compare with; `outcome` the name of the
    gate's Outcome in lower case, None in entries of earlier versions. `accepted`: a user accepted the runs although the
    gate failed or was in doubt.
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
    outcome: str | None = None
    accepted: bool = False

    @property
    def failed(self) -> bool:
        """Whether the runs are no baseline: the gate failed, and nobody accepted them."""
        return self.passed is False and not self.accepted

    @property
    def doubtful(self) -> bool:
        """Whether the runs are a baseline only if there is no better one: they may be slow, or have no score."""
        doubt = self.outcome in [outcome.name.lower() for outcome in DOUBTS]
        return (doubt and not self.accepted) or self.score.minutes is None

    @property
    def side(self) -> Side:
        """What a speed-up compares."""
        return Side(self.score, self.runs, self.dropped, self.aspects.pairable, self.progress_unit)

    @property
    def full_title(self) -> str:
        """Everything that runs must have in common with these."""
        return describe(self.aspects)

    @property
    def origin(self) -> str:
        """The runs' label, commit and start, as far as known."""
        commit = self.configuration.get("commit")
        return ", ".join(part for part in (self.label, commit and f"commit {commit}", self.started_at) if part)


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
    if one.aspects != other.aspects:
        return False
    runs = [{_measured(run) for run in entry.runs if _measured(run)} for entry in (one, other)]
    return not runs[0].isdisjoint(runs[1]) or same_runs(one, other)


def _measured(run: RunFigures) -> tuple[object, ...]:
    """What no other run has; () if nothing of it is known."""
    if run.minutes is None and run.samples_per_s is None:
        return ()
    return str(run.seed), run.minutes, run.samples_per_s


def read_history(path: Path, problems: list[str]) -> list[Entry]:
    """The entries of a history, the oldest first; [] if there is no such file. `problems` receives damaged lines.

    Of several entries of the same runs, the last one counts, in the place of the first; runs that were accepted, or
    passed after they had failed, remain so. UserError for a file of a later version, or one that has lines and no
    entry.
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
            runs = repr((entry.started_at, entry.aspects, entry.runs))
            found[runs] = _after(found[runs], entry) if runs in found else entry
    if not found and any(line.strip() for line in lines):
        raise UserError(
            "this file has no entry that can be read: it is damaged, or something else than a history",
            where=path,
            remedy="restore it from a copy, name another file, or delete it to start again",
        )
    return list(found.values())


def _after(earlier: Entry, entry: Entry) -> Entry:
    """An entry of runs of which there is an earlier one."""
    passed = entry.passed is True and not entry.doubtful
    accepted = earlier.accepted or (passed and earlier.failed)
    return dataclasses.replace(entry, accepted=entry.accepted or accepted)


def is_history(path: Path) -> bool:
    """Whether a file is a history, by its first line that is not empty."""
    try:
        with open(path, "rb") as file:
            line = next((line for line in file if line.strip()), b"")
            return bool(_entry(line, str(path)))
    except (OSError, UserError, _Damaged):
        return False


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
    figures = [value for run in entry.runs for value in (run.minutes, run.samples_per_s)]
    scored = (entry.score.minutes, entry.score.models, entry.score.scaling_factor)
    if any(value is not None and not value > 0 for value in (*figures, *scored)):
        return "a time, a rate or a score is not above 0"
    # Some benchmarks of MLPerf count from 0.
    if any(run.progress is not None and run.progress < 0 for run in entry.runs):
        return "progress is below 0"
    if entry.score.minutes is not None and all(run.minutes is None for run in entry.runs):
        return "a score without a run that has a time"
    if entry.dropped < 0 or 2 * entry.dropped >= max(len(entry.runs), 1):
        return "fewer runs than its score leaves out"
    return ""


HAS_THEM, ACCEPTED = "it has these runs already", "these runs were accepted before"
"""Why an entry is not appended."""


def append(path: Path, entries: Sequence[Entry]) -> list[str]:
    """Append entries to a history, which is created if it is missing; return of each why it was not, "" if it was.

    An entry of runs that it has with the same outcome is not appended again, nor is a failure of runs that were
    accepted, nor what `read_history` could not read. An entry is written whole or not at all; what a crash of the
    machine leaves of one is a damaged line, which the next entry does not continue. UserError for a file that is not a
    history.
    """
    faults = [_unreadable(entry) for entry in entries]
    if all(faults):
        return faults
    with FileLock(path, lambda: None):
        known = read_history(path, [])
        reasons = [fault or _known(entry, known) for entry, fault in zip(entries, faults, strict=True)]
        new = [entry for entry, reason in zip(entries, reasons, strict=True) if not reason]
        if new:
            _append_lines(path, new)
    return reasons


def _line(entry: Entry) -> str:
    return json.dumps(HISTORY.with_version(dataclasses.asdict(entry)))


def _unreadable(entry: Entry) -> str:
    """Why the entry could not be read again; "" if it could."""
    if entry.aspects.unknown:
        # It equals nothing, so it could never be a baseline.
        return "something is unknown"
    try:
        _entry(_line(entry).encode(), "")
    except _Damaged as error:
        return str(error)
    return ""


def _known(entry: Entry, known: Sequence[Entry]) -> str:
    """Why the entry would say nothing new; "" if it does."""
    same = find_same(entry, known)
    if same is None:
        return ""
    if same.accepted:
        return ACCEPTED if entry.failed or entry.accepted else HAS_THEM
    state, before = ((each.passed, each.doubtful, each.accepted) for each in (entry, same))
    # That there is nothing to compare with does not take back what an earlier comparison found.
    return HAS_THEM if state == before or entry.passed is None else ""


def find_same(entry: Entry, history: Sequence[Entry]) -> Entry | None:
    """The entry of the same runs."""
    return next((other for other in history if same_runs(entry, other)), None)


def _append_lines(path: Path, entries: Sequence[Entry]) -> None:
    text = "".join(_line(entry) + "\n" for entry in entries)
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
