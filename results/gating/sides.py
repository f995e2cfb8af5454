"""Reads the runs of one side of a gate: an entry for each benchmark that it has runs of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError, listed
from results.comparing.columns import row_title
from results.comparing.comparison import compare_runs
from results.comparing.group import Group
from results.comparing.identity import MACHINE, RowKeys, value_of
from results.comparing.rows import Row
from results.gating.history import Entry, is_history
from results.gating.same_hardware import HARDWARE
from results.reading.configuration import IDENTITY, NOTED
from results.reading.discover import LabelledPath, Source, find_sources
from results.reading.load import read_run
from results.reading.measures import utc_text

COMPARED = [key for key in (*MACHINE, *IDENTITY, *NOTED) if key not in ("label", "cards")]
"""The keys of a configuration that are compared."""
_MOST_KINDS = 3


@dataclass(frozen=True)
class Runs:
    """The runs that a user named: an entry for each benchmark with the notes of each, and where the runs are."""

    name: str
    entries: list[Entry]
    notes: list[list[str]]
    sources: list[Source]


def read_runs(given: LabelledPath, name: str, row_keys: RowKeys, problems: list[str]) -> Runs:
    """The runs of one side, which is called by its label, else `name`; `problems` receives what could not be read.

    UserError if it has no run that ended, or runs of several configurations of one benchmark.
    """
    name = given.label or name
    sources = find_sources([LabelledPath(given.path, name)], problems)
    comparison = compare_runs((read_run(source).slim() for source in sources), row_keys=row_keys)
    problems += comparison.problems
    if not comparison.groups:
        raise _no_run(given.path, len(sources), comparison.problems)
    rows = [row for group in comparison.groups for row in [_only_row(group, name)] if row]
    if not rows:
        raise UserError("no run that has ended", where=given.path, remedy="wait for the runs, or pass other ones")
    return Runs(
        name,
        [_entry_of(row, given.label) for row in rows],
        [[f"{name}: {note}" for note in row.notes] for row in rows],
        sources,
    )


def _no_run(path: Path, count: int, problems: Sequence[str]) -> UserError:
    """The error for files none of which is the log of a run."""
    if path.is_file() and is_history(path):
        remedy = "give it as --history; as --baseline it must be named *.jsonl"
        return UserError("this is the history of a gate, not a log", where=path, remedy=remedy)
    what = "no log lines in any known format"
    if count > 1:
        what += f" in any of {count} files"
    elif problems and what not in problems[0]:
        what = problems[0].removeprefix(f"{path}: ")
    return UserError(what, where=path, remedy="pass a run folder, a folder of runs, or a log")


def _only_row(group: Group, name: str) -> Row | None:
    """The row of a group; None if none of its runs has ended, UserError if there are several."""
    rows = [row for row in group.rows if row.runs]
    if len(rows) > 1:
        differing = _separating(rows)
        remedy = "pass the folder of one of them"
        if not set(differing) & set(HARDWARE):
            remedy += f", or take them as the same with --ignore {','.join(differing)}"
        kinds = [f"{row_title(row, rows)}: {row.runs} run{'s' * (row.runs > 1)}" for row in rows]
        what = f"runs of {len(rows)} kinds, but a gate compares one: {listed(kinds, _MOST_KINDS)}"
        raise UserError(what, where=name, remedy=remedy)
    return rows[0] if rows else None


def _separating(rows: Sequence[Row]) -> list[str]:
    """The keys in which rows are known to differ; if there is none, those that are unknown of some of them."""
    values = {key: {row.identity.get(key) for row in rows} for key in (*MACHINE, *IDENTITY)}
    known = [key for key, found in values.items() if len(found - {None}) > 1]
    return known or [key for key, found in values.items() if len(found) > 1]


def _entry_of(row: Row, label: str | None) -> Entry:
    side = row.side
    started = max((run.started_ms for run in row.scored if run.started_ms is not None), default=None)
    return Entry(
        aspects=row.aspects,
        configuration={key: _shared(row, key) for key in COMPARED},
        runs=tuple(side.runs),
        score=row.score,
        dropped=side.dropped,
        progress_unit=row.progress_unit,
        started_at=utc_text(started, "%Y-%m-%dT%H:%M:%SZ"),
        label=label,
        parameters=next((run.hyperparameters for run in row.members if run.hyperparameters), {}),
    )


def _shared(row: Row, key: str) -> str | int | None:
    """What all runs of a row have in common; None if they differ, or it is not known."""
    if key in row.identity:
        return row.identity[key]
    values = {str(value) for run in row.members if (value := value_of(run, key)) is not None}
    return values.pop() if len(values) == 1 else None
