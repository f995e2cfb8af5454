"""Prepares the tables of the report page: which figures the ranking has, the systems, the origin of every figure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import sha256_of
from results.comparing.columns import Column, filled_columns
from results.comparing.group import Group
from results.comparing.rows import Row
from results.reading.measures import utc_text
from results.reading.run_data import Run
from results.rendering.report_figures import typical_run

RANKING_PX = 1300
"""Width that a ranking may need, in CSS pixels: that of the page in a window of 1,400 with a scroll bar."""
_LETTER_PX, _BOLD_PX, _PADDING_PX, _WRAPPED_PX = 9.2, 10.1, 17, 145
"""Widths of a character (of the widest common font) in a cell and in a header, of the space around a text, and the
least width of a cell whose text is wrapped (`td.name` in report.css).
"""
_FIRST = ("#", "system", "models/min", "minutes", "speed-up")
"""The columns to read first: on a phone, the left ones are on the screen."""
_ORIGIN = ("log", "verdict", "minutes", "seed", "started (UTC)", "code commit", "log SHA-256")
"""Columns of the table of origins."""
ORIGIN_CODE = ("log", "code commit", "log SHA-256")
"""Those of them in the monospaced font."""


@dataclass(frozen=True)
class ShownColumn:
    """A column with the class of its cells in the style sheet ("" for none) and its least width in CSS pixels."""

    column: Column
    css: str
    width: float


def ranking_columns(group: Group) -> tuple[list[ShownColumn], list[ShownColumn]]:
    """The columns of the ranking, and those of a second table for which the ranking has no space (none if it has)."""
    columns = filled_columns(group)
    if len({row.score.kind for row in group.rows}) == 1:
        columns = [column for column in columns if column.header != "rule"]  # A note below the table has it.
    columns.sort(key=lambda column: _FIRST.index(column.header) if column.header in _FIRST else len(_FIRST))
    shown = [_shown(column, group.rows) for column in columns]
    kept, width = set(), 0.0
    for each in sorted(shown, key=lambda each: each.column.importance):
        if each.column.importance == 0 or width + each.width <= RANKING_PX:
            kept.add(each)
            width += each.width
    others = [each for each in shown if each not in kept]
    names = [each for each in shown if each.column.header in _FIRST[:2]]
    return [each for each in shown if each in kept], names + others if others else []


def _shown(column: Column, rows: Sequence[Row]) -> ShownColumn:
    header = len(column.header) * _BOLD_PX + _PADDING_PX
    cells = max(len(column.cell(row)) for row in rows) * _LETTER_PX + _PADDING_PX
    if column.right:
        return ShownColumn(column, "number", max(header, cells))
    if column.fold is not None and cells > _WRAPPED_PX:
        return ShownColumn(column, "name", max(header, _WRAPPED_PX))
    return ShownColumn(column, "text", max(header, cells))


def systems(group: Group) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The systems with a description, and each field that any of them fills in with the text of every system.

    A field that is the same for all of them has its text once.
    """
    described = [(row.name, fields) for row in group.rows if (fields := description_of(typical_run(row)))]
    names = dict.fromkeys(name for _, fields in described for name, text in fields.items() if text)
    table = [(name, [fields.get(name, "") for _, fields in described]) for name in names]
    return [system for system, _ in described], [
        (name, texts[:1] if len(set(texts)) == 1 else texts) for name, texts in table
    ]


def description_of(run: Run) -> dict[str, str]:
    """The system description, or the one in the record, with its values as text."""
    system = run.description or (run.record.system if run.record else None)
    return {name: flat(value) for name, value in system.items()} if isinstance(system, dict) else {}


def flat(value: Any) -> str:
    """Any value of a JSON file as text on one line."""
    if isinstance(value, dict):
        return "; ".join(f"{name} {flat(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "; ".join(flat(inner) for inner in value)
    return "" if value is None else str(value)


def parameters(group: Group) -> list[tuple[str, str]]:
    """The group's parameters, which are the same for all of its rows."""
    run = next((run for row in group.rows for run in row.members if run.hyperparameters), None)
    return [] if run is None else [(name, flat(value)) for name, value in run.hyperparameters.items()]


@dataclass(frozen=True)
class Origins:
    """The origin of a group's figures: for each row its name, the folder of its logs, and the cells of each run."""

    names: list[str]
    rows: list[tuple[str, str, list[list[str]]]]

    @property
    def logs(self) -> int:
        """Number of logs."""
        return sum(len(runs) for _, _, runs in self.rows)


def origins(group: Group) -> Origins:
    """The origin of every figure of a group: its logs, by row, with the columns that any of them fills."""
    rows = []
    for row in group.rows:
        logs = [run.log for run in row.members]
        if len({log.is_absolute() for log in logs}) > 1:
            logs = [Path(os.path.abspath(log)) for log in logs]
        folder = os.path.commonpath([log.parent for log in logs])
        cells = [_origin(run, os.path.relpath(log, folder)) for run, log in zip(row.members, logs, strict=True)]
        rows.append((row.name, folder, cells))
    used = [any(cells[at] for _, _, runs in rows for cells in runs) for at in range(len(_ORIGIN))]
    shown = [at for at, filled in enumerate(used) if filled]
    kept = [(name, folder, [[cells[at] for at in shown] for cells in runs]) for name, folder, runs in rows]
    return Origins([_ORIGIN[at] for at in shown], kept)


def _origin(run: Run, log: str) -> list[str]:
    """The cells of _ORIGIN for one run; `log` is its log's path below that of the row."""
    started = utc_text(run.started_ms, "%Y-%m-%d %H:%M:%S") or ""
    minutes = "" if run.minutes is None else f"{run.minutes:.6f}"
    return [log, run.verdict, minutes, flat(run.seed), started, _commit(run), _sha256(run.log)]


def _commit(run: Run) -> str:
    code = run.record.code if run.record else None
    if code is None or not code.commit:
        return ""
    return f"{code.commit}{'' if code.clean else ' with changes'}"


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError:
        return ""  # already reported when the log was read
