"""Columns of the text, Markdown and HTML tables: header, cell, width and importance. Unknown is blank, never 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmark.rounds.rules_by_round import EPOCHS
from common.errors import one_line
from results.comparing.rows import Row


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
    """Minutes with about four digits: 0.512, 34.24, 112.5."""
    return "" if value is None else f"{value:.{3 if value < 10 else 2 if value < 100 else 1}f}"


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


def speedup_text(row: Row) -> str:
    """`1.52x (1.48-1.57)`; `baseline` for the baseline itself."""
    if row.baseline:
        return "baseline"
    if row.speedup is None:
        return ""
    bounds = "" if row.speedup_low is None else f" ({row.speedup_low:.2f}-{row.speedup_high:.2f})"
    return f"{row.speedup:.2f}x{bounds}"


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


def note_name(row: Row, rows: Sequence[Row]) -> str:
    """A row's name in the notes below a table, with its accelerator if another of `rows` has the same name."""
    shared = sum(other.name == row.name for other in rows) > 1
    return name_text(row) + (f" ({accelerator_text(row)})" if shared and accelerator_text(row) else "")


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
    Column("accelerator", accelerator_text, 2, right=False, fold=14),
    Column("nodes", lambda row: _whole(row.nodes), 7),
    Column("runs", lambda row: f"{row.converged}/{row.runs}", 0),
    Column("minutes", lambda row: minutes_text(row.score.minutes), 0),
    Column("rule", lambda row: row.score.kind, 0, right=False),
    Column("models", lambda row: _whole(row.score.models), 1),
    Column("models/min", lambda row: figure(row.score.models_per_minute), 0),
    Column("min-max", range_text, 3),
    Column("speed-up", speedup_text, 1),
    PROGRESS,
    Column("WER %", lambda row: "" if row.best_wer_pct is None else f"{row.best_wer_pct:.2f}", 5),
    Column("samples/s", lambda row: figure(row.samples_per_s), 6),
    Column("audio s/s", lambda row: figure(row.audio_s_per_s), 12),
    Column("GPU %", lambda row: figure(row.gpu_utilization_pct), 8),
    Column("SM %", lambda row: figure(row.sm_active_pct), 10),
    Column("tensor %", lambda row: figure(row.tensor_active_pct), 11),
    Column("mem GB", lambda row: _scaled(row.peak_memory_bytes, 1e9), 9),
    Column("W", lambda row: figure(row.power_w), 13),
    Column("kWh", lambda row: figure(row.energy_kwh), 9),
)


def filled_columns(rows: list[Row]) -> list[Column]:
    """The columns that have a value for at least one row."""
    units = {row.progress_unit for row in rows if row.epochs_to_target is not None}
    unit = units.pop() if len(units) == 1 else None
    progress = replace(PROGRESS, header=unit, cell=_progress_number) if unit else PROGRESS
    columns = [progress if column is PROGRESS else column for column in COLUMNS]
    return [column for column in columns if any(column.cell(row) for row in rows)]
