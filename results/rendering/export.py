"""Renders a comparison as Markdown, CSV or JSON. docs/results.md defines the fields."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from common.errors import one_line
from common.formats import COMPARISON
from results.comparing.columns import filled_columns
from results.comparing.comparison import Comparison, describe
from results.comparing.fields import RUN_DETAILS, row_fields, run_fields
from results.comparing.footnotes import footnotes, verification_notes
from results.comparing.score_of_runs import UNVERIFIED
from results.rendering.run_table import run_table

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def render_json(comparison: Comparison, inference: Sequence[dict[str, Any]] = ()) -> str:
    """The JSON object of docs/results.md; `inference` has the inference runs as plain values."""
    rows = [
        row_fields(row) | {"run_details": [_plain(run_fields(run), RUN_DETAILS) for run in row.members]}
        for row in comparison.rows
    ]
    groups = [
        {
            "group": group.number,
            "title": describe(group.aspects),
            "reason": group.reason,
            "rows": len(group.rows),
            "summary": group.summary,
            "configuration": group.shared,
        }
        for group in comparison.groups
    ]
    tree = {
        "verification": "; ".join(dict.fromkeys(row.aspects.verification for row in comparison.rows)) or UNVERIFIED,
        "baseline": comparison.baseline,
        "groups": groups,
        "rows": rows,
        "inference": list(inference),
        "problems": comparison.problems,
    }
    return json.dumps(COMPARISON.with_version(tree), indent=1, allow_nan=False) + "\n"


def _plain(fields: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: fields[name] for name in names}


def render_csv(comparison: Comparison) -> str:
    """The DataFrame of systems as CSV: lists are JSON texts, unknown values are empty, booleans are True or False."""
    from results.rendering.frames import systems_frame

    frame = systems_frame(comparison.rows)
    texts = frame.select_dtypes(["object", "string"])
    return frame.assign(**{name: texts[name].map(_csv_cell) for name in texts}).to_csv(index=False, lineterminator="\n")


def _csv_cell(value: object) -> object:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return one_line(value) if isinstance(value, str) else value


def render_markdown(comparison: Comparison, single_runs: bool = False) -> str:
    """One table per group, with every column that has a value; `single_runs` adds a table of each group's runs."""
    lines: list[str] = []
    for group in comparison.groups:
        columns = filled_columns(group)
        lines += [f"### Group {group.number}: {markdown_text(describe(group.aspects))}", ""]
        if group.reason:
            lines += [markdown_text(group.reason[0].upper() + group.reason[1:]) + ".", ""]
        if group.summary:
            lines += [f"**{markdown_text(group.summary)}**", ""]
        cells = [[column.cell(row) for column in columns] for row in group.rows]
        lines += _markdown_table([column.header for column in columns], cells, [column.right for column in columns])
        lines.append("")
        lines += [f"- {markdown_text(note)}" for note in footnotes(group)] + [""]
        if single_runs:
            lines += [f"Runs of group {group.number}:", "", *_markdown_table(*run_table(group)), ""]
    return "\n".join([*lines, *verification_notes(comparison)]) + "\n"


def _markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    lines = ["|" + "|".join("---:" if each else ":---" for each in right) + "|"]
    return [_markdown_row(headers), *lines, *map(_markdown_row, rows)]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, cells)) + " |"


def markdown_text(text: str) -> str:
    """`text` as one line of Markdown, with special characters escaped."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", one_line(text))
