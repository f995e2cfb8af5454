"""Lays out text tables: column widths, wrapping and alignment, measured in terminal cells."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len, chop_cells

_GAP = "  "


def natural_widths(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Width of the widest text of each column."""
    return [max(map(cell_len, column)) for column in zip(headers, *rows, strict=True)]


def table_width(widths: Sequence[int]) -> int:
    """Width of a table with columns of these widths, including the gaps between them."""
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def table_lines(
    headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], widths: Sequence[int]
) -> list[str]:
    """Lines of a table: headers, a rule, then the rows, each cell wrapped to its column's width.

    `right` selects the columns that are aligned to the right.
    """
    lines = [*_row_lines(headers, right, widths), "-" * table_width(widths)]
    for row in rows:
        lines += _row_lines(row, right, widths)
    return lines


def _row_lines(cells: Sequence[str], right: Sequence[bool], widths: Sequence[int]) -> list[str]:
    wrapped = [wrap_cell(cell, width) for cell, width in zip(cells, widths, strict=True)]
    lines = []
    for index in range(max(map(len, wrapped))):
        parts = []
        for pieces, to_the_right, width in zip(wrapped, right, widths, strict=True):
            piece = pieces[index] if index < len(pieces) else ""
            blank = " " * (width - cell_len(piece))
            parts.append(blank + piece if to_the_right else piece + blank)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def wrap_cell(text: str, width: int, word: str = r"[^ _/-]*[ _/-]?") -> list[str]:
    """Split `text` into pieces of at most `width` terminal cells, after a space, `_`, `-` or `/` where possible."""
    pieces = [""]
    for part in re.findall(word, text):
        if cell_len(pieces[-1]) + cell_len(part.rstrip()) <= width:
            pieces[-1] += part
            continue
        first, *rest = chop_cells(part, width)
        pieces += [first, *rest]
    return [piece.rstrip() for piece in pieces if piece.strip()] or [""]


def wrap_line(line: str, width: int, indent: str = "") -> str:
    """Wrap `line` at spaces, with continuation lines indented further than the first."""
    later = indent + "  "
    pieces = wrap_cell(line, width - len(later), r"[^ ]* ?")
    return "\n".join((indent if at == 0 else later) + piece for at, piece in enumerate(pieces))
