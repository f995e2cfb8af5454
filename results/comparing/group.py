"""A group: rows that may be ranked together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from results.comparing.identity import KEYS, Aspects
from results.comparing.rows import Row


@dataclass
class Group:
    """Rows that may be ranked together, best first.

    `reason` is why they are not ranked with earlier groups; `summary` says in full sentences which row is the fastest,
    by how much and how sure that is, "" if there is nothing to compare.
    """

    number: int
    aspects: Aspects
    reason: str | None
    rows: list[Row] = field(default_factory=list)
    summary: str = ""

    @property
    def differing(self) -> list[str]:
        """The keys in which its rows differ, other than their names."""
        return [key for key in self._keys if len({str(row.identity.get(key)) for row in self.rows}) > 1]

    @property
    def shared(self) -> dict[str, Any]:
        """What all rows have in common of their configuration, by key."""
        differing = self.differing
        alike = [key for key in self._keys if key not in differing]
        return {key: value for key in alike if (value := self.rows[0].identity.get(key)) is not None}

    @property
    def _keys(self) -> list[str]:
        """The keys that say more than a row's name and accelerators, in the order of tables."""
        known = {key for row in self.rows for key in row.identity}
        return [key for key in KEYS if key in known and key not in _NAMES]


_NAMES = ("label", "submitter", "system", "accelerator", "accelerators")
"""The keys that the first columns of every table have."""


def telling(rows: list[Row]) -> list[str]:
    """The keys by which rows of the same name and accelerators can be told apart."""
    by_name: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        by_name.setdefault((row.name, row.accelerator, row.accelerators), []).append(row)
    return [
        key for key in KEYS if any(len({str(row.identity.get(key)) for row in alike}) > 1 for alike in by_name.values())
    ]
