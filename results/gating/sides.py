"""Reads the two sides of a gate and finds the baseline of each set of new runs."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError, listed
from results.comparing.columns import row_title
from results.comparing.comparison import compare_runs, differences, why_apart
from results.comparing.group import Group
from results.comparing.identity import IDENTITY, KEYS, MACHINE, Rules, value_of
from results.comparing.rows import Row
from results.gating.decision import TIME, Decision, Outcome, decide
from results.gating.history import Entry, have_common_runs
from results.reading.configuration import NOTED
from results.reading.discover import LabelledPath, find_sources
from results.reading.load import read_run

HARDWARE = ("accelerator", "accelerators", "nodes", "processor", "cores", "processes", "threads")
"""What must be the same on both sides for a gate to be about the code."""
_COMPARED = [key for key in (*MACHINE, *IDENTITY, *NOTED) if key not in ("label", "cards")]


@dataclass(frozen=True)
class Runs:
    """The runs that a user named: an entry for each benchmark, the notes of each, and the files that were read."""

    name: str
    entries: list[Entry]
    notes: list[list[str]]
    files: list[Path]
    logs: list[Path]
    problems: list[str]


@dataclass(frozen=True)
class Gated:
    """One set of new runs and what became of it. `baseline` is None if there was nothing to compare with."""

    new: Entry
    baseline: Entry | None
    decision: Decision
    new_name: str = "new"
    base_name: str = "baseline"
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_runs(given: LabelledPath, name: str, rules: Rules) -> Runs:
    """The runs of one side, which is called by its label, else `name`.

    UserError if it has no run that ended, or runs of several configurations of one benchmark.
    """
    name = given.label or name
    problems: list[str] = []
    sources = find_sources([LabelledPath(given.path, name)], problems)
    comparison = compare_runs((read_run(source).slim() for source in sources), rules=rules)
    rows = [row for group in comparison.groups for row in [_only_row(group, name)] if row]
    if not rows:
        raise UserError("no run that has ended", where=given.path, remedy="wait for the runs, or pass other ones")
    return Runs(
        name,
        [_entry_of(row, given.label) for row in rows],
        [[f"{name}: {note}" for note in row.notes] for row in rows],
        [file.resolve() for source in sources for file in source.files],
        [source.log.resolve() for source in sources],
        problems + comparison.problems,
    )


def _only_row(group: Group, name: str) -> Row | None:
    """The row of a group; None if none of its runs has ended, UserError if there are several."""
    rows = [row for row in group.rows if row.runs]
    if len(rows) > 1:
        differing = [key for key in (*MACHINE, *IDENTITY) if len({str(row.identity.get(key)) for row in rows}) > 1]
        remedy = "pass the folder of one of them"
        if not set(differing) & set(HARDWARE):
            remedy += f", or take them as the same with --ignore {','.join(differing)}"
        kinds = "; ".join(f"{row_title(row, rows)}: {row.runs} run{'s' * (row.runs > 1)}" for row in rows)
        raise UserError(f"runs of {len(rows)} kinds, but a gate compares one: {kinds}", where=name, remedy=remedy)
    return rows[0] if rows else None


def _entry_of(row: Row, label: str | None) -> Entry:
    side = row.side
    started = max((run.started_ms for run in row.scored if run.started_ms is not None), default=None)
    return Entry(
        aspects=row.aspects,
        configuration={key: _shared(row, key) for key in _COMPARED},
        runs=tuple(side.runs),
        score=row.score,
        dropped=side.dropped,
        progress_unit=row.progress_unit,
        started_at=_utc(started),
        label=label,
        parameters=next((run.hyperparameters for run in row.members if run.hyperparameters), {}),
    )


def _shared(row: Row, key: str) -> str | int | None:
    """What all runs of a row have in common; None if they differ, or it is not known."""
    if key in row.identity:
        return row.identity[key]
    values = {str(value) for run in row.members if (value := value_of(run, key)) is not None}
    return values.pop() if len(values) == 1 else None


def _utc(time_ms: float | None) -> str | None:
    if time_ms is None:
        return None
    try:
        return datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return None


def require_apart(new: Runs, baseline: Runs) -> None:
    """UserError if both sides have runs in common."""
    if common := sorted(map(str, set(new.logs) & set(baseline.logs))):
        raise UserError(
            f"these runs are on both sides: {listed(common, 1)}",
            where="--baseline",
            remedy="pass two folders neither of which contains the other",
        )


def against_runs(new: Runs, baseline: Runs, metric: str, margin: float) -> tuple[list[Gated], list[str]]:
    """Each set of new runs against its baseline, and what only one side has. UserError if they have nothing in common."""
    by_aspects = {entry.aspects: entry for entry in baseline.entries}
    gated, alone = [], []
    for entry, notes in zip(new.entries, new.notes, strict=True):
        base = by_aspects.pop(entry.aspects, None)
        if base is None:
            alone.append(f"only {new.name} has {entry.full_title}: {_why(entry, baseline.entries)}")
            continue
        base_notes = baseline.notes[baseline.entries.index(base)]
        gated.append(_gated(entry, base, (new.name, baseline.name), notes + base_notes, metric, margin))
    if not gated:
        raise UserError(
            f"{new.name} and {baseline.name} cannot be compared: {_why(new.entries[0], baseline.entries)}",
            remedy="compare runs of one variant with one dataset",
        )
    return gated, alone + [f"only {baseline.name} has {entry.full_title}" for entry in by_aspects.values()]


def against_history(
    new: Runs, history: Sequence[Entry], names: tuple[str, str], metric: str, margin: float, required: bool
) -> list[Gated]:
    """Each set of new runs against the newest entry of a history that fits it.

    An entry fits if it is of the same benchmark on the same hardware, did not fail, and is not later. Without one,
    there is nothing to compare with; if one is `required`, other hardware will do, and else it is a UserError. `names`
    are the history's and that of the entry.
    """
    gated = []
    for entry, notes in zip(new.entries, new.notes, strict=True):
        earlier = _earlier(history, entry)
        fitting = [other for other in earlier if _fits(other, entry, metric)]
        same = [other for other in fitting if not _differing(HARDWARE, other, entry)]
        base = (same or fitting if required else same)[-1:]
        if base:
            gated.append(_gated(entry, base[0], (new.name, names[1]), notes, metric, margin))
            continue
        why = _nothing_fits(entry, earlier, fitting, names[0])
        if required:
            raise UserError(f"nothing to compare {entry.full_title} with: {why}", where="--baseline")
        decision = Decision(Outcome.NOTHING, f"has nothing to compare with yet: {why}")
        gated.append(Gated(entry, None, decision, new.name, names[1], notes))
    return gated


def _earlier(history: Sequence[Entry], new: Entry) -> list[Entry]:
    """The entries before the first one of these runs, so that judging runs a second time gives the same."""
    return list(itertools.takewhile(lambda entry: not have_common_runs(entry, new), history))


def _fits(entry: Entry, new: Entry, metric: str) -> bool:
    if entry.passed is False or entry.aspects != new.aspects:
        return False
    return entry.score.cost is not None if metric == TIME else any(run.samples_per_s for run in entry.runs)


def _nothing_fits(new: Entry, history: Sequence[Entry], fitting: Sequence[Entry], name: str) -> str:
    if not history:
        return f"{name} has no entry of earlier runs"
    if fitting:
        return f"{name} has other hardware only: {', '.join(_differing(HARDWARE, fitting[-1], new))}"
    if any(entry.aspects == new.aspects for entry in history):
        return f"all entries of this benchmark in {name} failed the gate or have no score"
    return f"{name} has {_why(new, history)}"


def _gated(new: Entry, base: Entry, names: tuple[str, str], notes: Sequence[str], metric: str, margin: float) -> Gated:
    decision = decide(base.side, new.side, metric, margin)
    changes = _differing([key for key in _COMPARED if key not in HARDWARE], base, new)
    told = [f"differs in: {', '.join(changes)}"] if changes else []
    hardware = _differing(HARDWARE, base, new)
    warnings = [f"other hardware, so this may not be about the code: {', '.join(hardware)}"] if hardware else []
    if new.side.failed * len(base.runs) > base.side.failed * len(new.runs):
        sides = zip(names, (new.side, base.side), strict=True)
        failed = ", ".join(f"{name}: {side.failed} of {len(side.runs)}" for name, side in sides)
        warnings.append(f"more runs did not reach the target ({failed})")
    if decision.outcome in _UNDECIDED and new.side.pairable and decision.speedup and not decision.speedup.pairs:
        told.append("with the same seeds on both sides, fewer runs would do (docs/gate.md)")
    return Gated(new, base, decision, *names, [*told, *notes], warnings)


_UNDECIDED = (Outcome.UNCLEAR, Outcome.SEEMS_SLOWER, Outcome.TOO_FEW)


def _differing(keys: Sequence[str], base: Entry, new: Entry) -> list[str]:
    """In which of the keys both are known to differ: `commit 01234567 -> 89abcdef`."""
    values = [(key, base.configuration.get(key), new.configuration.get(key)) for key in keys]
    return [
        f"{KEYS[key]} {before} -> {after}"
        for key, before, after in values
        if None not in (before, after) and before != after
    ]


def _why(new: Entry, others: Sequence[Entry]) -> str:
    """In what these runs differ from the nearest of the others."""
    nearest = min(others, key=lambda entry: len(differences(new.aspects, entry.aspects)))
    return why_apart(new.aspects, nearest.aspects, new.parameters, nearest.parameters)
