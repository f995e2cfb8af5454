"""Renders one report page: groups with ranking and charts, then systems, parameters and the origin of every figure.

`report.html.j2` has the page's structure, `report_group.html.j2` that of a group; this module collects what each group
shows.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import one_line
from results.comparing.columns import minutes_text, name_text
from results.comparing.comparison import Comparison, describe
from results.comparing.footnotes import footnotes, verification_notes
from results.comparing.group import Group
from results.rendering.charts import series_class
from results.rendering.markup import Markup
from results.rendering.report_figures import PARTS, group_figures, is_weak, mean_parts, telemetry_figures
from results.rendering.report_tables import ORIGIN_CODE, origins, parameters, ranking_columns, systems

if TYPE_CHECKING:
    from jinja2 import Environment

_STYLE = Path(__file__).with_name("report.css")
MAX_NAMES = 12
"""A note names at most so many systems; with more it gives their number."""
MAX_PROBLEMS = 1000
"""A page lists at most so many problems, and gives the number of the others."""


@dataclass(frozen=True)
class Section:
    """A group with its part of a page."""

    group: Group
    html: Markup


@dataclass(frozen=True)
class Link:
    """An entry of an index: the page of some groups, with the text of its link and its address."""

    text: str
    address: str
    groups: Sequence[Group]


def page(comparison: Comparison, title: str) -> str:
    """The whole comparison as one page."""
    return page_of_sections(comparison, title, [section(group) for group in comparison.groups]).decode()


def section(group: Group) -> Section:
    """A group's part of a page."""
    html = _environment().get_template("report_group.html.j2").render(_group(group))
    return Section(group, Markup(html))


def page_of_sections(
    comparison: Comparison, title: str, sections: Sequence[Section], index: tuple[str, str] | None = None
) -> bytes:
    """A page of some groups of a comparison; `index` is the text and address of the link to the page above it.

    The problems of the sources are on the page that has no other above it.
    """
    groups = [each.group for each in sections]
    shown = replace(comparison, groups=groups, problems=[] if index else comparison.problems)
    return _render(shown, title, sections=[each.html for each in sections], index=index, links=[])


def index_page(comparison: Comparison, title: str, links: Sequence[Link]) -> bytes:
    """A page of links to the pages of a comparison, with what was found in each of their groups."""
    return _render(comparison, title, sections=[], index=None, links=links)


def group_title(group: Group) -> str:
    """A group's heading."""
    return f"Group {group.number}: {describe(group.aspects)}"


def _render(comparison: Comparison, title: str, **content: object) -> bytes:
    """A page. It loads nothing: its policy allows only the inline style sheet, by hash."""
    style = _STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    problems = comparison.problems
    left_out = len(problems) - MAX_PROBLEMS
    more = [f"and {left_out} more, which the command reported on stderr"] if left_out > 0 else []
    pieces = (
        _environment()
        .get_template("report.html.j2")
        .generate(
            title=title,
            style=Markup(style),
            policy=policy,
            verification=verification_notes(comparison),
            groups=comparison.groups,
            problems=problems[:MAX_PROBLEMS] + more,
            **content,
        )
    )
    return b"".join(piece.encode() for piece in pieces)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        # Escaped text also has its control characters made visible; markup is a subclass of str and stays as it is.
        finalize=lambda value: one_line(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {
        "group_title": group_title,
        "series_class": series_class,
    }
    return environment


def _group(group: Group) -> Mapping[str, Any]:
    """What the page shows of a group, by the names that its template uses."""
    telemetry, omitted = telemetry_figures(group)
    system_names, system_fields = systems(group)
    parts = [(row, minutes) for row in group.rows if (minutes := mean_parts(row)) is not None]
    columns, more_columns = ranking_columns(group)
    return {
        "group": group,
        "caption": "Ranking by models per minute" if is_weak(group) else "Ranking by time to target, in minutes",
        "columns": columns,
        "more_columns": more_columns,
        # A note may begin with a system's name, so its case is kept.
        "notes": [f"{note}." for note in footnotes(group, MAX_NAMES)],
        "figures": group_figures(group),
        "part_names": PARTS,
        "time_parts": [(name_text(row), [minutes_text(value) for value in minutes]) for row, minutes in parts],
        "telemetry": telemetry,
        "telemetry_omitted": omitted,
        "system_names": system_names,
        "system_fields": system_fields,
        "parameters": parameters(group),
        "origins": origins(group),
        "origin_code": ORIGIN_CODE,
    }
