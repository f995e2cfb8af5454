"""The report page: groups with ranking and charts, then systems, parameters and the origin of every figure.

`report.html.j2` has the page's structure; this module collects what each group shows.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import one_line
from common.files import sha256_of
from results.comparing.columns import Column, filled_columns, minutes_text, name_text
from results.comparing.comparison import Comparison, Group, describe
from results.comparing.footnotes import footnotes, verification_notes
from results.comparing.rows import Row
from results.reading.run_data import Run
from results.rendering.charts import series_class
from results.rendering.markup import Markup
from results.rendering.report_figures import PARTS, group_figures, is_weak, mean_parts, telemetry_figures, typical_run

if TYPE_CHECKING:
    from jinja2 import Template

_STYLE = Path(__file__).with_name("report.css")
_TEMPLATE = "report.html.j2"
MAX_NAMES = 12
"""A note names at most so many systems; with more it gives their number."""
_CODE = ("log", "code commit", "log SHA-256")
_ORIGIN = ["system", "log", "verdict", "minutes", "seed", "started (UTC)", "code commit", "log SHA-256"]
"""Columns of the table of origins; _CODE are those in the monospaced font."""


def page(comparison: Comparison, title: str) -> str:
    """The whole page. It loads nothing: its policy allows only the inline style sheet, by hash."""
    style = _STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return _template().render(
        title=title,
        style=Markup(style),
        policy=policy,
        verification=verification_notes(comparison),
        groups=[_group(group) for group in comparison.groups],
        problems=comparison.problems,
        part_names=list(PARTS),
        origin_names=_ORIGIN,
        code_names=_CODE,
        series_class=series_class,
        column_class=_column_class,
    )


@cache
def _template() -> Template:
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
    return environment.get_template(_TEMPLATE)


def _column_class(column: Column) -> Markup:
    if column.right:
        return Markup(' class="number"')
    return Markup(' class="name"' if column.header in ("system", "accelerator") else "")


def _group(group: Group) -> dict[str, Any]:
    """What the page shows of a group, by the names that the template uses."""
    telemetry, omitted = telemetry_figures(group)
    system_names, system_fields = _systems(group)
    parts = [(row, minutes) for row in group.rows if (minutes := mean_parts(row)) is not None]
    return {
        "number": group.number,
        "caption": "Ranking by models per minute" if is_weak(group) else "Ranking by time to target, in minutes",
        "title": f"Group {group.number}: {describe(group.aspects)}",
        "reason": group.reason,
        "columns": filled_columns(group.rows),
        "rows": group.rows,
        "notes": [f"{note[0].upper()}{note[1:]}." for note in footnotes(group, MAX_NAMES)],
        "figures": group_figures(group),
        "time_parts": [(name_text(row), [minutes_text(value) for value in minutes]) for row, minutes in parts],
        "telemetry": telemetry,
        "telemetry_omitted": omitted,
        "system_names": system_names,
        "system_fields": system_fields,
        "parameters": _parameters(group),
        "origins": [_origin(row, run) for row in group.rows for run in row.members],
    }


def _systems(group: Group) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The systems with a description, and each field that any of them fills in with the text of every system."""
    described = [(row.name, fields) for row in group.rows if (fields := description_of(typical_run(row)))]
    names = dict.fromkeys(name for _, fields in described for name, text in fields.items() if text)
    return [system for system, _ in described], [
        (name, [fields.get(name, "") for _, fields in described]) for name in names
    ]


def description_of(run: Run) -> dict[str, str]:
    """The system description, or the one in the record, with its values as text."""
    system = run.description or (run.record.system if run.record else None)
    return {name: _flat(value) for name, value in system.items()} if isinstance(system, dict) else {}


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_flat(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "; ".join(_flat(inner) for inner in value)
    return "" if value is None else str(value)


def _parameters(group: Group) -> list[tuple[str, str]]:
    """The group's parameters, which are the same for all of its rows."""
    run = next((run for row in group.rows for run in row.members if run.hyperparameters), None)
    return [] if run is None else [(name, _flat(value)) for name, value in run.hyperparameters.items()]


def _origin(row: Row, run: Run) -> list[str]:
    """The cells of _ORIGIN for one run."""
    started = "" if run.started_ms is None else _utc(run.started_ms)
    minutes = "" if run.minutes is None else f"{run.minutes:.6f}"
    return [row.name, str(run.log), run.verdict, minutes, _flat(run.seed), started, _commit(run), _sha256(run.log)]


def _commit(run: Run) -> str:
    code = run.record.code if run.record else None
    if code is None or not code.commit:
        return ""
    return f"{code.commit}{'' if code.clean else ' with changes'}"


def _utc(time_ms: float) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return ""  # not a valid date


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError:
        return ""  # already reported when the log was read
