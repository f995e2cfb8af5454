"""Divides a report into pages that a browser opens at once: one page, or an index with a page for each benchmark."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import quote

from results.comparing.comparison import Comparison
from results.comparing.group import Group
from results.rendering.report_page import Link, Section, index_page, page_of_sections, section

MAX_PAGE_BYTES = 3_000_000
"""A page that is larger is divided, if it has more than one group."""
_MAX_SLUG = 40
"""The length to which a name in the name of a file is cut."""


@dataclass(frozen=True)
class Page:
    """A page to write: the name of its file, its content, and its groups; an index only links to these."""

    name: str
    content: bytes
    groups: Sequence[Group]
    index: bool = False


def report_pages(comparison: Comparison, title: str, name: str, most_bytes: int = MAX_PAGE_BYTES) -> list[Page]:
    """The pages of a report. The last one is called `name`: it has everything, or is an index of the others.

    What is larger than `most_bytes` is divided by benchmark, then by round, then by group.
    """
    sections = [section(group) for group in comparison.groups]
    whole = page_of_sections(comparison, title, sections)
    if len(whole) <= most_bytes or len(sections) == 1:
        return [Page(name, whole, comparison.groups)]
    taken = {name.casefold()}
    pages, links = [], []
    for names, part, content in _Divider(comparison, title, name, most_bytes).divided([], sections):
        groups = [each.group for each in part]
        pages.append(Page(_file_name(name, names, taken), content, groups))
        links.append(Link(", ".join(names), quote(pages[-1].name), groups))
    return [*pages, Page(name, index_page(comparison, title, links), comparison.groups, index=True)]


def _levels(group: Group) -> tuple[str, str, str]:
    """By what pages are divided: first, and where the result is still too large."""
    aspects = group.aspects
    return (
        aspects.benchmark or "unknown benchmark",
        f"round {aspects.round}" if aspects.round else "no round",
        f"group {group.number}",
    )


@dataclass(frozen=True)
class _Divider:
    comparison: Comparison
    title: str
    name: str
    most_bytes: int

    def divided(
        self, names: list[str], sections: Sequence[Section], level: int = 0
    ) -> Iterator[tuple[list[str], Sequence[Section], bytes]]:
        """The sections in parts that fit on a page, each with what distinguishes its groups and the page."""
        parts: dict[str, list[Section]] = {}
        for each in sections:
            parts.setdefault(_levels(each.group)[level], []).append(each)
        for text, part in parts.items():
            # The benchmark is always named, and what does not divide is not.
            mine = [*names, text] if level == 0 or len(parts) > 1 else names
            index = (self.title, quote(self.name))
            title = f"{self.title}: {', '.join(mine)}"
            content = page_of_sections(self.comparison, title, part, index)
            if len(content) <= self.most_bytes or len(part) == 1:
                yield mine, part, content
            else:
                yield from self.divided(mine, part, level + 1)


def _file_name(name: str, names: Sequence[str], taken: set[str]) -> str:
    """The file of a part: `report-bert.html`; `taken` has the names of the others, with case ignored, and gets this."""
    path = PurePath(name)
    slugs = [re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:_MAX_SLUG] or "unnamed" for text in names]
    stem = "-".join([path.stem, *slugs])
    chosen, number = f"{stem}{path.suffix}", 1
    while chosen.casefold() in taken:
        number += 1
        chosen = f"{stem}-{number}{path.suffix}"
    taken.add(chosen.casefold())
    return chosen
