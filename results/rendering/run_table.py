"""The table of single runs below a group, in the columns that text and Markdown share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.errors import one_line
from results.comparing.columns import figure, minutes_text, row_title
from results.comparing.fields import run_fields
from results.comparing.group import Group

_COLUMNS: tuple[tuple[str, str, Callable[[Any], str], bool], ...] = (
    ("verdict", "verdict", str, False),
    ("minutes", "minutes", minutes_text, True),
    ("epochs_to_target", "to target", figure, True),
    ("best_wer_pct", "WER %", "{:.2f}".format, True),
    ("samples_per_s", "samples/s", figure, True),
    ("energy_kwh", "kWh", figure, True),
    ("seed", "seed", lambda value: one_line(str(value)), True),
    ("file", "log", lambda value: one_line(str(value)), False),
)
"""Field, header, text and whether it is aligned to the right."""


def run_table(group: Group) -> tuple[list[str], list[list[str]], list[bool]]:
    """Headers, cells and alignment of the table of a group's single runs; columns without a value are left out."""
    titles = [row_title(row, group.rows) for row in group.rows for _ in row.members]
    runs = [run_fields(run) for row in group.rows for run in row.members]
    used = [column for column in _COLUMNS if any(run[column[0]] is not None for run in runs)]
    cells = [
        [title, *("" if run[name] is None else text(run[name]) for name, _, text, _ in used)]
        for title, run in zip(titles, runs, strict=True)
    ]
    return ["system", *(header for _, header, _, _ in used)], cells, [False, *(right for _, _, _, right in used)]
