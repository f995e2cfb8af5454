"""The report's page: groups with ranking and pictures, then systems, parameters and where every figure came from."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.sha256 import sha256_of
from results.comparing.columns import COLUMNS
from results.comparing.comparison import Comparison, Group, describe
from results.comparing.rows import Row
from results.comparing.scoring import UNVERIFIED
from results.reading.load import Run
from results.rendering.markup import Markup, join, tag
from results.rendering.report_figures import group_figures, scrolled, telemetry_figures, typical_run

_STYLE = Path(__file__).with_name("report.css")
_LEFT_COLUMNS = {"system": "name", "accelerator": "name"}


def page(comparison: Comparison, title: str) -> str:
    """The whole page. It loads nothing: one style sheet inside, whose hash is the only thing that its policy lets in."""
    style = _STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#results", class_="skip"),
        tag("header", tag("h1", title), tag("p", f"Scores are {UNVERIFIED}.", class_="unverified")),
        _contents(comparison),
        tag("main", *[_group(group) for group in comparison.groups], _problems(comparison), id="results"),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _contents(comparison: Comparison) -> Markup | None:
    items = [tag("li", tag("a", _title(group), href=f"#g{group.number}")) for group in comparison.groups]
    if comparison.problems:
        items.append(tag("li", tag("a", "Problems with the sources", href="#problems")))
    return tag("nav", tag("ul", *items), aria_label="Contents") if len(items) > 1 else None


def _title(group: Group) -> str:
    return f"Group {group.number}: {describe(group.aspects)}"


def _group(group: Group) -> Markup:
    reason = None if group.reason is None else tag("p", group.reason.capitalize() + ".", class_="quiet")
    return tag(
        "section",
        tag("h2", _title(group), id=f"g{group.number}-h"),
        reason,
        _ranking(group),
        _notes(group),
        group_figures(group),
        telemetry_figures(group),
        _systems(group),
        _parameters(group),
        _provenance(group),
        id=f"g{group.number}",
        aria_labelledby=f"g{group.number}-h",
    )


def _ranking(group: Group) -> Markup:
    columns = [column for column in COLUMNS if any(column.cell(row) for row in group.rows)]
    header = [
        tag("th", column.header, scope="col", class_="number" if column.right else _LEFT_COLUMNS.get(column.header))
        for column in columns
    ]
    rows = []
    for row in group.rows:
        cells = [
            tag("td", column.cell(row), class_="number" if column.right else _LEFT_COLUMNS.get(column.header))
            for column in columns
        ]
        rows.append(tag("tr", *cells, class_="base" if row.baseline else None))
    caption = tag("caption", "Ranking by time to target, in minutes")
    table = tag("table", caption, tag("thead", tag("tr", *header)), tag("tbody", *rows))
    return scrolled(f"Ranking of group {group.number}", table)


def _notes(group: Group) -> Markup:
    rules = dict.fromkeys(row.score.rule for row in group.rows)
    methods = dict.fromkeys(row.speedup_method for row in group.rows if row.speedup_method and not row.baseline)
    notes = [f"Minutes: {rule}." for rule in rules] + [f"Speed-up: {method}." for method in methods]
    notes += [f"{row.name}: {'; '.join(row.notes)}." for row in group.rows if row.notes]
    return tag("ul", *[tag("li", note) for note in notes], class_="notes")


def _systems(group: Group) -> Markup | None:
    """The system descriptions side by side, without the fields that none of them fills."""
    described = [(row, description_of(typical_run(row))) for row in group.rows]
    described = [(row, fields) for row, fields in described if fields]
    names = list(dict.fromkeys(name for _, fields in described for name, value in fields.items() if value))
    if not names:
        return None
    header = tag("tr", tag("th", "field", scope="col"), *[tag("th", row.name, scope="col") for row, _ in described])
    rows = [
        tag("tr", tag("th", name, scope="row"), *[tag("td", fields.get(name, "")) for _, fields in described])
        for name in names
    ]
    table = tag("table", tag("thead", header), tag("tbody", *rows), class_="wide")
    return tag("details", tag("summary", "Systems"), scrolled("System descriptions", table))


def description_of(run: Run) -> dict[str, str]:
    """A system description, or the record's own, as flat texts."""
    system = run.description or (run.record.system if run.record else None)
    return {name: _flat(value) for name, value in system.items()} if isinstance(system, dict) else {}


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_flat(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "; ".join(_flat(inner) for inner in value)
    return "" if value is None else str(value)


def _parameters(group: Group) -> Markup | None:
    """The group's parameters: the same for all of its rows, or they would stand in another group."""
    run = next((run for row in group.rows for run in row.members if run.hyperparameters), None)
    if run is None:
        return None
    rows = [
        tag("tr", tag("th", name, scope="row"), tag("td", _flat(value))) for name, value in run.hyperparameters.items()
    ]
    head = tag("thead", tag("tr", tag("th", "parameter", scope="col"), tag("th", "value", scope="col")))
    table = tag("table", head, tag("tbody", *rows))
    return tag("details", tag("summary", "Parameters"), scrolled("Parameters", table))


_PROVENANCE = ("system", "log", "verdict", "minutes", "seed", "started (UTC)", "code commit", "log SHA-256")


def _provenance(group: Group) -> Markup:
    rows = [tag("tr", *_origin(row, run)) for row in group.rows for run in row.members]
    header = tag("tr", *[tag("th", name, scope="col") for name in _PROVENANCE])
    table = tag("table", tag("thead", header), tag("tbody", *rows), class_="wide")
    return tag("details", tag("summary", f"Provenance (logs: {len(rows)})"), scrolled("Provenance", table))


def _origin(row: Row, run: Run) -> list[Markup]:
    started = "" if run.started_ms is None else _utc(run.started_ms)
    minutes = "" if run.minutes is None else f"{run.minutes:.6f}"
    seed = "" if run.seed is None else _flat(run.seed)
    texts = [row.name, str(run.log), run.verdict, minutes, seed, started, _commit(run), _sha256(run.log)]
    return [tag("td", tag("code", text) if at in (1, 6, 7) and text else text) for at, text in enumerate(texts)]


def _utc(time_ms: float) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return ""  # a time that no calendar has


def _commit(run: Run) -> str:
    code = run.record.code if run.record else None
    if code is None or not code.commit:
        return ""
    return f"{code.commit}{'' if code.clean else ' with changes'}"


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError:
        return ""  # reported when it was read


def _problems(comparison: Comparison) -> Markup | None:
    if not comparison.problems:
        return None
    items = join(tag("li", problem) for problem in comparison.problems)
    return tag("section", tag("h2", "Problems with the sources"), tag("ul", items, class_="notes"), id="problems")
