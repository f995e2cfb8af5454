"""Renders a comparison as plain text: fewer columns in a narrow terminal, lists in a very narrow one."""

from __future__ import annotations

from rich.cells import cell_len

from common.errors import one_line
from results.comparing.columns import Column, filled_columns
from results.comparing.comparison import Comparison, describe
from results.comparing.footnotes import footnotes, verification_notes
from results.comparing.group import Group
from results.comparing.rows import Row
from results.rendering.run_table import run_table
from results.rendering.table_layout import natural_widths, table_lines, table_width, wrap_line

MIN_TABLE_WIDTH = 58
"""Below this width the essential columns do not fit, and rows are printed as lists."""


def render_text(comparison: Comparison, width: int, single_runs: bool = False) -> str:
    """The whole comparison in lines of at most `width` terminal cells (at least 20).

    `single_runs` adds a list of each group's runs.
    """
    width = max(width, 20)
    blocks = [_group(group, width) + (_runs(group, width) if single_runs else "") for group in comparison.groups]
    if not blocks:
        blocks = ["No comparable run."]
    return "\n\n".join([*blocks, *(wrap_line(note, width) for note in verification_notes(comparison))]) + "\n"


def _group(group: Group, width: int) -> str:
    lines = [wrap_line(f"Group {group.number}: {one_line(describe(group.aspects))}", width)]
    if group.reason:
        lines.append(wrap_line(one_line(group.reason), width, indent="  "))
    if group.summary:
        lines.append(wrap_line(one_line(group.summary), width, indent="  "))
    lines.append("")
    columns = filled_columns(group)
    if len({row.score.kind for row in group.rows}) == 1:
        columns = [column for column in columns if column.header != "rule"]  # the note below the table has it
    shown, hidden = choose_columns(columns, group.rows, width)
    lines += _table(group.rows, shown, width) if shown else [_as_lists(group.rows, columns, width)]
    lines += [wrap_line(line, width, indent="  ") for line in _footnotes(group, hidden, width)]
    return "\n".join(lines)


def _runs(group: Group, width: int) -> str:
    """The single runs of a group: a table, or in a narrow terminal a line each."""
    headers, cells, right = run_table(group)
    widths = natural_widths(headers, cells)
    # The first and the last column have names, which can be wrapped.
    spare = width - table_width(widths)
    for at, least in ((0, 18), (len(widths) - 1, 30)):
        cut = max(min(-spare, widths[at] - least), 0)
        widths[at] -= cut
        spare += cut
    title = f"\n\n  Runs of group {group.number}\n\n"
    if spare >= 0:
        return title + "\n".join(table_lines(headers, cells, right, widths))
    lines = [", ".join(f"{name} {cell}" for name, cell in zip(headers, run, strict=True) if cell) for run in cells]
    return title + "\n".join(wrap_line(line, width) for line in lines)


def _footnotes(group: Group, hidden: list[Column], width: int) -> list[str]:
    notes = footnotes(group)
    if hidden:
        notes.append(f"not shown in {width} columns: {', '.join(column.header for column in hidden)}")
    return notes


def choose_columns(columns: list[Column], rows: list[Row], width: int) -> tuple[list[Column], list[Column]]:
    """The most important columns that fit into `width`, and the others, in order; ([], []) if too few fit."""
    if width < MIN_TABLE_WIDTH:
        return [], []
    kept: list[Column] = []
    widths = {column: min_width(column, rows) for column in columns}
    medians = any(row.score.kind == "median" for row in rows)

    def importance(column: Column) -> int:
        # A median is of little use without its range.
        return 1 if medians and column.header == "min-max" else column.importance

    for column in sorted(columns, key=importance):
        if table_width([widths[each] for each in (*kept, column)]) <= width:
            kept.append(column)
        elif column.importance == 0:
            return [], []
    return [c for c in columns if c in kept], [c for c in columns if c not in kept]


def min_width(column: Column, rows: list[Row]) -> int:
    """Minimum width of a column in terminal cells."""
    natural = _natural_width(column, rows)
    return natural if column.fold is None else min(natural, max(column.fold, cell_len(column.header)))


def _natural_width(column: Column, rows: list[Row]) -> int:
    return max(cell_len(column.header), *(cell_len(column.cell(row)) for row in rows))


def _table(rows: list[Row], columns: list[Column], width: int) -> list[str]:
    widths = [min_width(column, rows) for column in columns]
    spare = width - table_width(widths)
    for index, column in enumerate(columns):
        if column.fold is not None:
            more = min(spare, _natural_width(column, rows) - widths[index])
            widths[index] += more
            spare -= more
    cells = [[column.cell(row) for column in columns] for row in rows]
    return table_lines([column.header for column in columns], cells, [column.right for column in columns], widths)


def _as_lists(rows: list[Row], columns: list[Column], width: int) -> str:
    """Each row as a list of `header: value`, for terminals that are too narrow for a table."""
    blocks = []
    for row in rows:
        cells = [f"{column.header}: {column.cell(row)}" for column in columns if column.cell(row)]
        blocks.append("\n".join(wrap_line(cell, width) for cell in cells))
    return "\n\n".join(blocks)
