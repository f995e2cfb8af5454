"""Columns of the text, Markdown and HTML tables: header, cell, width and importance. Unknown is blank, never 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmark.rounds.rules_by_round import EPOCHS
from common.errors import one_line
from results.comparing.group import Group, telling
from results.comparing.identity import KEYS
from results.comparing.rows import Row
from results.comparing.speedup import Ratio
from results.reading.configuration import NOTED


@dataclass(frozen=True)
class Column:
    """A column of a table. `cell` gives a row's text ("" for unknown).

    Narrow tables keep the columns with the lowest `importance` numbers. `fold` is the minimum width of a column whose
    text may be wrapped, None for one that may not.
    """

    header: str
    cell: Callable[[Row], str]
    importance: int
    right: bool = True
    fold: int | None = None


def minutes_text(value: float | None) -> str:
    """Minutes with about four digits: 0.512, 34.24, 112.5; `2.4e-05` if they are very few."""
    if value is None:
        return ""
    if 0 < value < 0.0005:
        return figure(value)
    return f"{value:.{3 if value < 10 else 2 if value < 100 else 1}f}"


def figure(value: float | None) -> str:
    """A number with three significant digits and no exponent: 0.0123, 4.56, 78.9, 123, 4567."""
    if value is None:
        return ""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def accelerator_text(row: Row) -> str:
    """`8 x NVIDIA A100`; the processor for a run on a CPU."""
    if row.accelerators == 0 or (row.accelerators is None and row.accelerator is None):
        return one_line(f"CPU: {row.processor}" if row.processor else "CPU") if row.accelerators == 0 else ""
    count = "" if row.accelerators is None else f"{row.accelerators} x "
    return one_line(count + (row.accelerator or "accelerator"))


def ratio_text(value: float) -> str:
    """A ratio with two decimals, more if it is close to 0 or to 1, fewer if it is large: 0.0033, 0.995, 1.20, 24.5."""
    return f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    """The decimals that show a ratio with three digits, and that it is not 1."""
    distance = abs(value - 1)
    if 0 < distance < 0.02:
        return min(-math.floor(math.log10(distance)), 6)
    if 0 < value < 0.1:
        return min(1 - math.floor(math.log10(value)), 9)
    return 2 if value < 10 else 1 if value < 100 else 0


def bounds_text(ratio: Ratio) -> str:
    """The interval of a ratio, both ends with the decimals of the one that needs more: 1.04-1.39, 0.996-1.390."""
    assert ratio.low is not None and ratio.high is not None
    decimals = max(_decimals(ratio.low), _decimals(ratio.high))
    return f"{ratio.low:.{decimals}f}-{ratio.high:.{decimals}f}"


def speedup_text(row: Row) -> str:
    """The speed-up of the time: `1.52x (1.48-1.57)`; `baseline` for the baseline itself."""
    if row.baseline:
        return "baseline"
    return _ratio(row.speedup.time if row.speedup else None)


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio_text(ratio.value)}x" + ("" if ratio.low is None else f" ({bounds_text(ratio)})")


def _step_speedup(row: Row) -> str:
    return "" if row.baseline or row.speedup is None else _ratio(row.speedup.throughput)


def range_text(row: Row) -> str:
    """Minutes of the fastest and the slowest converged run."""
    if row.minutes_min is None or row.converged < 2:
        return ""
    return f"{minutes_text(row.minutes_min)}-{minutes_text(row.minutes_max)}"


def progress_text(row: Row) -> str:
    """Progress at the target with its unit: `4.9 epochs`, `3.96M samples`."""
    number = _progress_number(row)
    return f"{number} {row.progress_unit}" if number and row.progress_unit else number


def _progress_number(row: Row) -> str:
    if row.epochs_to_target is None:
        return ""
    return figure(row.epochs_to_target) if row.progress_unit == EPOCHS else compact(row.epochs_to_target)


def compact(value: float) -> str:
    """A number with three significant digits and a metric prefix: 5000, 12.3k, 3.96M."""
    for unit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if prefix == 'k' else unit):.3g}{prefix}"
    return figure(value)


def name_text(row: Row) -> str:
    """Submitter and system, with control characters escaped."""
    return one_line(row.name)


def row_title(row: Row, rows: Sequence[Row]) -> str:
    """A row's name in sentences: with its accelerator, and then with what it differs in, if others are named so too."""
    alike = [other for other in rows if other.name == row.name]
    if len(alike) < 2:
        return name_text(row)
    title = f"{name_text(row)} ({accelerator_text(row)})" if accelerator_text(row) else name_text(row)
    if sum(accelerator_text(other) == accelerator_text(row) for other in alike) < 2:
        return title
    values = ", ".join(f"{KEYS[key]} {key_text(row, key) or 'not known'}" for key in telling(alike))
    return f"{name_text(row)} ({values})" if values else title


def key_text(row: Row, key: str) -> str:
    """A row's value of one of KEYS; blank where it is not known or does not apply."""
    value = row.identity.get(key)
    return "" if value is None else one_line(str(value))


def _accelerator_minutes(row: Row) -> str:
    """Blank for one accelerator: these are the minutes again."""
    return figure(row.accelerator_minutes) if row.accelerators != 1 else ""


def _rank(row: Row) -> str:
    return "" if row.rank is None else str(row.rank)


def _whole(value: int | None) -> str:
    return "" if value is None else str(value)


def _scaled(value: float | None, unit: float) -> str:
    return "" if value is None else figure(value / unit)


PROGRESS = Column("to target", progress_text, 4)
"""Progress at the target; in a group with one unit, the unit is the header."""
COLUMNS = (
    Column("#", _rank, 0),
    Column("system", name_text, 0, right=False, fold=18),
    Column("minutes", lambda row: minutes_text(row.score.minutes), 0),
    Column("rule", lambda row: row.score.kind, 3, right=False),
    Column("models", lambda row: _whole(row.score.models), 1),
    Column("models/min", lambda row: figure(row.score.models_per_minute), 0),
    Column("min-max", range_text, 3),
    Column("runs", lambda row: f"{row.converged}/{row.runs}", 0),
    Column("speed-up", speedup_text, 1),
    Column("step speed-up", _step_speedup, 3),
    Column("accelerator", accelerator_text, 2, right=False, fold=14),
    PROGRESS,
    Column("WER %", lambda row: "" if row.final_wer_pct is None else f"{row.final_wer_pct:.2f}", 5),
    Column("samples/s", lambda row: figure(row.samples_per_s), 6),
    Column("audio s/s", lambda row: figure(row.audio_s_per_s), 12),
    Column("GPU %", lambda row: figure(row.gpu_utilization_pct), 8),
    Column("SM %", lambda row: figure(row.sm_active_pct), 10),
    Column("tensor %", lambda row: figure(row.tensor_active_pct), 11),
    Column("mem GB", lambda row: _scaled(row.peak_memory_bytes, 1e9), 9),
    Column("W", lambda row: figure(row.power_w), 13),
    Column("kWh", lambda row: figure(row.energy_kwh), 9),
    Column("acc-min", _accelerator_minutes, 8),
    Column("USD", lambda row: figure(row.cost), 1),
)
_TELLING_IMPORTANCE, _CONFIGURATION_IMPORTANCE = 1, 14
_FEW_ROWS = 3
"""Up to so many rows, a line below the table says what differs; of more, the table has columns for it."""


def filled_columns(group: Group) -> list[Column]:
    """The columns of a group: those that have a value for at least one row, and the configuration that differs."""
    rows = group.rows
    units = {row.progress_unit for row in rows if row.epochs_to_target is not None}
    unit = units.pop() if len(units) == 1 else None
    progress = replace(PROGRESS, header=unit, cell=_progress_number) if unit else PROGRESS
    columns = [progress if column is PROGRESS else column for column in COLUMNS]
    at = next(place for place, column in enumerate(columns) if column.header == "accelerator") + 1
    columns[at:at] = _configuration(group)
    return [column for column in columns if any(column.cell(row) for row in rows)]


def _configuration(group: Group) -> list[Column]:
    """A column for each key that tells rows of one name apart, and in a long table for every key that differs."""
    distinguishing = telling(group.rows)

    def column(key: str) -> Column:
        importance = _TELLING_IMPORTANCE if key in distinguishing else _CONFIGURATION_IMPORTANCE
        return Column(KEYS[key], partial(key_text, key=key), importance, right=False, fold=10)

    long = len(group.rows) > _FEW_ROWS
    return [column(key) for key in group.differing if long or key in distinguishing]


def configuration_notes(group: Group) -> list[str]:
    """Lines below a table: what the configurations of all rows have in common, and in what a few rows differ."""
    notes = []
    if shared := ", ".join(f"{KEYS[key]} {one_line(str(value))}" for key, value in group.shared.items()):
        notes.append(f"{'the same in all rows' if len(group.rows) > 1 else 'configuration'}: {shared}")
    if 1 < len(group.rows) <= _FEW_ROWS and (values := list(_differing_values(group))):
        notes.append(f"not the same, in the order of the rows: {', '.join(values)}")
    return notes


def _differing_values(group: Group) -> Iterator[str]:
    """`KEY VALUE | VALUE` of the keys in which rows differ that no column has, `-` for what is not known."""
    in_table = telling(group.rows)
    for key in [*group.differing, *NOTED]:
        texts = [one_line(str(row.identity.get(key) or row.noted.get(key) or "-")) for row in group.rows]
        # Two rows always have other cards.
        if key not in in_table and key != "cards" and len(set(texts)) > 1:
            yield f"{KEYS[key]} {' | '.join(texts)}"
