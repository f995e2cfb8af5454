"""The comparison as plain text for a terminal of any width: fewer columns in a narrow one, a list in a very narrow one."""

from __future__ import annotations

import re

from rich.cells import cell_len, chop_cells

from common.errors import one_line
from results.comparing.columns import Column, filled_columns, note_name
from results.comparing.comparison import Comparison, Group, describe
from results.comparing.rows import Row
from results.comparing.scoring import UNVERIFIED

LEAST_TABLE_WIDTH = 58
"""Below this the essential columns do not fit, and rows are printed as lists."""
_GAP = "  "


def render_text(comparison: Comparison, width: int) -> str:
    """The whole comparison in lines of at most `width` characters (never under 20)."""
    width = max(width, 20)
    blocks = [_group(group, width) for group in comparison.groups]
    if not blocks:
        blocks = ["No comparable run."]
    return "\n\n".join([*blocks, _wrap(f"Scores are {UNVERIFIED}.", width)]) + "\n"


def _group(group: Group, width: int) -> str:
    lines = [_wrap(f"Group {group.number}: {one_line(describe(group.aspects))}", width)]
    if group.reason:
        lines.append(_wrap(one_line(group.reason), width, indent="  "))
    lines.append("")
    columns = filled_columns(group.rows)
    if len({row.score.kind for row in group.rows}) == 1:
        columns = [column for column in columns if column.header != "rule"]  # the line below the table says it
    shown, hidden = choose_columns(columns, group.rows, width)
    lines.append(_table(group.rows, shown, width) if shown else _stacked(group.rows, columns, width))
    lines += [_wrap(line, width, indent="  ") for line in _footnotes(group, hidden, width)]
    return "\n".join(lines)


def _footnotes(group: Group, hidden: list[Column], width: int) -> list[str]:
    rules: dict[str, list[Row]] = {}
    for row in group.rows:
        rules.setdefault(row.score.rule, []).append(row)
    notes = [f"minutes: {one_line(rule)}" + _whose(rows, group) for rule, rows in rules.items()]
    methods = dict.fromkeys(row.speedup_method for row in group.rows if row.speedup_method and not row.baseline)
    notes += [f"speed-up: {method}" for method in methods]
    notes += [f"{note_name(row, group.rows)}: {'; '.join(row.notes)}" for row in group.rows if row.notes]
    if hidden:
        notes.append(f"not shown in {width} columns: {', '.join(column.header for column in hidden)}")
    return notes


def _whose(rows: list[Row], group: Group) -> str:
    """Which rows a rule is about, where it is not about all."""
    if len(rows) == len(group.rows):
        return ""
    return f" - {', '.join(note_name(row, group.rows) for row in rows)}" if len(rows) <= 3 else f" - {len(rows)} rows"


def choose_columns(columns: list[Column], rows: list[Row], width: int) -> tuple[list[Column], list[Column]]:
    """The most important columns that fit into `width`, in their order, and those left out; none fit: ([], [])."""
    if width < LEAST_TABLE_WIDTH:
        return [], []
    kept: list[Column] = []
    used = 0
    medians = any(row.score.kind == "median" for row in rows)

    def importance(column: Column) -> int:
        # A median says little without its range.
        return 1 if medians and column.header == "min-max" else column.importance

    for column in sorted(columns, key=importance):
        needed = least_width(column, rows) + (len(_GAP) if kept else 0)
        if used + needed <= width:
            kept.append(column)
            used += needed
        elif column.importance == 0:
            return [], []
    return [c for c in columns if c in kept], [c for c in columns if c not in kept]


def natural_width(column: Column, rows: list[Row]) -> int:
    """Terminal cells of the widest text of a column."""
    return max(cell_len(column.header), *(cell_len(column.cell(row)) for row in rows))


def least_width(column: Column, rows: list[Row]) -> int:
    """Terminal cells that a column needs at least."""
    natural = natural_width(column, rows)
    return natural if column.fold is None else min(natural, max(column.fold, cell_len(column.header)))


def _table(rows: list[Row], columns: list[Column], width: int) -> str:
    widths = [least_width(column, rows) for column in columns]
    spare = width - sum(widths) - len(_GAP) * (len(columns) - 1)
    for index, column in enumerate(columns):
        if column.fold is not None:
            more = min(spare, natural_width(column, rows) - widths[index])
            widths[index] += more
            spare -= more
    lines = _lines([column.header for column in columns], columns, widths)
    lines.append("-" * (sum(widths) + len(_GAP) * (len(columns) - 1)))
    for row in rows:
        lines += _lines([column.cell(row) for column in columns], columns, widths)
    return "\n".join(lines)


def _lines(cells: list[str], columns: list[Column], widths: list[int]) -> list[str]:
    """One row of cells as lines, each cell wrapped to its column's width."""
    wrapped = [break_cell(cell, width) for cell, width in zip(cells, widths, strict=True)]
    lines = []
    for index in range(max(map(len, wrapped))):
        parts = []
        for pieces, column, width in zip(wrapped, columns, widths, strict=True):
            piece = pieces[index] if index < len(pieces) else ""
            blank = " " * (width - cell_len(piece))
            parts.append(blank + piece if column.right else piece + blank)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def break_cell(text: str, width: int, word: str = r"[^ _/-]*[ _/-]?") -> list[str]:
    """`text` in pieces of at most `width` terminal cells, broken between words: after a space, `_`, `-` or `/`."""
    pieces = [""]
    for part in re.findall(word, text):
        if cell_len(pieces[-1]) + cell_len(part.rstrip()) <= width:
            pieces[-1] += part
            continue
        first, *rest = chop_cells(part, width)
        pieces += [first, *rest]
    return [piece.rstrip() for piece in pieces if piece.strip()] or [""]


def _stacked(rows: list[Row], columns: list[Column], width: int) -> str:
    """Each row as a list of `header: value`, for terminals that no table fits into."""
    blocks = []
    for row in rows:
        cells = [f"{column.header}: {column.cell(row)}" for column in columns if column.cell(row)]
        blocks.append("\n".join(_wrap(cell, width) for cell in cells))
    return "\n\n".join(blocks)


def _wrap(line: str, width: int, indent: str = "") -> str:
    """`line` over as many lines as it needs, the later ones set in."""
    later = indent + "  "
    pieces = break_cell(line, width - len(later), r"[^ ]* ?")
    return "\n".join((indent if at == 0 else later) + piece for at, piece in enumerate(pieces))
