"""The notes below a group's table: the rules of its scores and speed-ups, with the rows they apply to, and caveats."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import one_line
from results.comparing.columns import configuration_notes, row_title
from results.comparing.comparison import Comparison
from results.comparing.group import Group
from results.comparing.rows import Row
from results.comparing.speedup import CONFIDENCE, Ratio


def footnotes(group: Group, most_names: int = 3) -> list[str]:
    """The notes of a group, one line each. A rule for more than `most_names` rows gives their number, not their names."""
    rules: dict[str, list[Row]] = {}
    for row in group.rows:
        rules.setdefault(row.score.rule, []).append(row)
    notes = [f"minutes: {one_line(rule)}{_which(rows, group.rows, most_names)}" for rule, rows in rules.items()]
    compared = [row.speedup for row in group.rows if row.speedup and not row.baseline]
    for name, ratios in (
        ("speed-up", [speedup.time for speedup in compared]),
        ("step speed-up", [speedup.throughput for speedup in compared]),
    ):
        notes += [f"{name}: {text}" for text in dict.fromkeys(_how(ratio) for ratio in ratios if ratio)]
    notes += configuration_notes(group)
    return notes + [
        f"{row_title(row, group.rows)}: {one_line('; '.join(row.notes))}" for row in group.rows if row.notes
    ]


def _how(ratio: Ratio) -> str:
    """How a speed-up and its interval were computed."""
    return ratio.method if ratio.low is None else f"{CONFIDENCE * 100:.0f} % interval, {ratio.method}"


def _which(rows: Sequence[Row], all_rows: Sequence[Row], most_names: int) -> str:
    """The names of the rows that a rule applies to, unless it applies to all."""
    if len(rows) == len(all_rows):
        return ""
    return (
        f" - {', '.join(row_title(row, all_rows) for row in rows)}"
        if len(rows) <= most_names
        else f" - {len(rows)} rows"
    )


def verification_notes(comparison: Comparison) -> list[str]:
    """What the scores are worth: a sentence for runs of users, and one for those of published MLPerf rounds."""
    statements: dict[str, list[Row]] = {}
    for row in comparison.rows:
        statements.setdefault(row.aspects.verification, []).append(row)
    if len(statements) < 2:
        return [f"Scores are {statement}." for statement in statements]
    return [f"Scores of {_groups(rows)} are {statement}." for statement, rows in statements.items()]


def _groups(rows: Sequence[Row]) -> str:
    numbers = sorted({row.group for row in rows})
    return f"group {numbers[0]}" if len(numbers) == 1 else f"groups {', '.join(map(str, numbers))}"
