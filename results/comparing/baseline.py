"""Finds the rows that a user names, chooses the baseline of each group, and fills in the speed-ups over it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import UserError
from common.values import parse_number
from results.comparing.columns import row_title
from results.comparing.group import Group
from results.comparing.rows import Row
from results.comparing.speedup import speedup_of


def matching(groups: Sequence[Group], wanted: str) -> list[Row]:
    """The rows that `wanted` names; [] if there are none. The first of these that names any row decides:

    a label; a name (`SUBMITTER/SYSTEM` or `SYSTEM`); the number of a row (its rank, or `GROUP.RANK` with several
    groups); a path that all logs of a row are under; a part of a name. Case is ignored.
    """
    rows = [row for group in groups for row in group.rows]
    folded = wanted.casefold().replace(" / ", "/")

    def name(row: Row) -> str:
        return row.name.casefold().replace(" / ", "/")

    def system(row: Row) -> str:
        return "/".join(part for part in (row.submitter, row.system) if part).casefold()

    return (
        [row for row in rows if row.label is not None and row.label.casefold() == folded]
        or [row for row in rows if folded in (name(row), system(row), (row.system or "").casefold())]
        or _numbered(groups, wanted)
        or _under(rows, wanted)
        or [row for row in rows if folded in name(row) or folded in system(row)]
    )


def number_of(row: Row, groups: Sequence[Group]) -> str:
    """The number by which `matching` finds a row; "" for one without a rank."""
    if row.rank is None:
        return ""
    return str(row.rank) if len(groups) == 1 else f"{row.group}.{row.rank}"


def _numbered(groups: Sequence[Group], wanted: str) -> list[Row]:
    found = re.fullmatch(r"(?:([0-9]+)\.)?([0-9]+)", wanted.strip())
    if not found or (found[1] is None and len(groups) != 1):
        return []
    group = int(found[1] or groups[0].number)
    return [row for each in groups for row in each.rows if each.number == group and row.rank == int(found[2])]


def _under(rows: Sequence[Row], wanted: str) -> list[Row]:
    path = Path(wanted)
    if not wanted or not path.exists():
        return []
    top = path.resolve()
    return [row for row in rows if all(run.log.resolve().is_relative_to(top) for run in row.members)]


def _require(groups: Sequence[Group], wanted: str, option: str) -> list[Row]:
    """The rows that `wanted` names; UserError if there are none."""
    rows = matching(groups, wanted)
    if not rows:
        names = dict.fromkeys(row.name for group in groups for row in group.rows)
        raise UserError(f"no row is named {wanted!r}", where=option, remedy=f"one of: {'; '.join(sorted(names))}")
    return rows


def set_prices(groups: Sequence[Group], prices: Mapping[str, float]) -> None:
    """Fill in the price of an hour of the rows that each key names; UserError for a key that names none."""
    for wanted, price in prices.items():
        for row in _require(groups, wanted, "--price"):
            row.price_per_hour = price


def price(text: str) -> tuple[str, float]:
    """`ROW=USD` as name and price per hour; ValueError unless the price is a positive number."""
    name, _, amount = text.rpartition("=")
    value = parse_number(amount)
    if not name or value is None or not 0 < value < math.inf:
        raise ValueError(text)
    return name, float(value)


def set_baseline(groups: Sequence[Group], wanted: str | None) -> None:
    """Fill in the speed-ups of every group that has a baseline.

    That is the row that `wanted` names; without it, of two rows with a score, the slower. UserError if it names none,
    or several rows of a group.
    """
    if wanted is None:
        for group in groups:
            scored = [row for row in group.rows if row.score.cost is not None]
            if len(scored) == 2:
                _fill(max(scored, key=lambda row: (row.score.cost or 0.0, row.rank or 0)), group)
        return
    matches = _require(groups, wanted, "--baseline")
    for group in groups:
        found = [row for row in group.rows if row in matches]
        if len(found) > 1:
            rows = "; ".join(f"{number_of(row, groups)}: {row_title(row, group.rows)}" for row in found)
            raise UserError(
                f"{wanted!r} names {len(found)} rows of group {group.number} ({rows})",
                where="--baseline",
                remedy=f"name one by its number, such as --baseline {number_of(found[0], groups) or 'NAME'}",
            )
        if found:
            _fill(found[0], group)


def _fill(base: Row, group: Group) -> None:
    side = base.side
    for row in group.rows:
        row.baseline = row is base
        row.speedup = speedup_of(side, row.side)
