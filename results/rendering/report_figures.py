"""Makes the charts of a group of comparable rows, with their captions and text descriptions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmark.mllog import SUCCESS
from benchmark.rounds.result_tree import WEAK
from benchmark.rounds.rules_by_round import EPOCHS
from results.comparing.columns import figure, minutes_text, row_title
from results.comparing.comparison import Group
from results.comparing.rows import Row
from results.reading.run_data import Run
from results.rendering import charts
from results.rendering.markup import Markup
from results.rendering.telemetry_curves import Quantity, read_curves

MAX_CURVES = 40
"""With more runs, a group's charts show one run per row to stay readable."""
MAX_TELEMETRY = 6
"""Number of systems in a group whose telemetry is drawn."""
MAX_COLOURED = 8
"""With more systems, a group's charts show so many, and those that the user named, in colour, and the others in grey."""
LONGEST_BAR = 2
"""A grey bar is drawn up to this many times the length of the longest one in colour, so that those stay readable."""
LOG_TIME_FROM = 20
"""With more than this between the slowest and the fastest curve, their time axis is logarithmic."""
PARTS = ("waiting for data", "forward, backward, update", "evaluation", "other")


@dataclass(frozen=True)
class Figure:
    """A chart with its title and caption; `legend` has the names of the series in the order of their colours."""

    title: str
    chart: Markup
    caption: str
    legend: Sequence[str] = ()


def typical_run(row: Row) -> Run:
    """The run that represents a row: the converged one closest to the median time, else the first."""
    converged = [run for run in row.members if run.verdict == SUCCESS and run.minutes is not None]
    if not converged:
        return row.members[0]
    middle = median(run.minutes for run in converged if run.minutes is not None)
    return min(converged, key=lambda run: abs((run.minutes or 0.0) - middle))


def series_of(group: Group) -> dict[Row, int]:
    """The systems that are drawn in colour, each with the number of its series, in the table's order.

    Those are all systems of a small group; of a large one the best, the baseline, and those with a label of the user
    (unless there are many of these).
    """
    rows = group.rows
    if len(rows) > MAX_COLOURED:
        best = sorted(rows, key=lambda row: (row.rank is None, row.rank))[:MAX_COLOURED]
        labelled = [row for row in rows if row.label is not None]
        chosen = {*best, *(labelled if len(labelled) <= MAX_COLOURED else ())}
        rows = [row for row in rows if row in chosen or row.baseline]
    return {row: series for series, row in enumerate(rows)}


def _names(group: Group) -> dict[Row, str]:
    return {row: row_title(row, group.rows) for row in group.rows}


def _others(group: Group, series: dict[Row, int]) -> str:
    """A sentence on the systems whose curves are grey; empty if there are none."""
    count = len(group.rows) - len(series)
    return f" Grey: the other {f'{count} systems' if count > 1 else 'system'}." if count else ""


def group_figures(group: Group) -> list[Figure]:
    """The charts of a group for which its sources have data."""
    series = series_of(group)
    # The two low charts come first, so that they are next to each other above the two high ones.
    low = [_model_bars(group, series) if is_weak(group) else _time_bars(group, series), _time_parts(group, series)]
    return [figure for figure in low if figure is not None] + _accuracy(group, series)


def is_weak(group: Group) -> bool:
    """Whether the group is of MLPerf HPC's weak scaling, which is ranked by models per minute."""
    return group.aspects.scaling_kind == WEAK


def _model_bars(group: Group, series: dict[Row, int]) -> Figure | None:
    names = _names(group)
    drawn = [
        charts.Bar(f"{row.rank}. {names[row]}", rate, f"{figure(rate)} models/min", [], series.get(row))
        for row in group.rows
        if (rate := row.score.models_per_minute) is not None
    ]
    caption = "Bar: the score, models that reached the target per minute."
    return _bars(group, drawn, ("Models per minute", "models per minute"), caption)


def _time_bars(group: Group, series: dict[Row, int]) -> Figure | None:
    names = _names(group)
    drawn = [
        charts.Bar(
            f"{row.rank}. {names[row]}" if row.rank else names[row],
            row.score.minutes,
            f"{minutes_text(row.score.minutes)} min" if row.score.minutes is not None else "no score",
            [run.minutes for run in row.members if run.verdict == SUCCESS and run.minutes is not None],
            series.get(row),
        )
        for row in group.rows
        if row.minutes_min is not None and (row in series or row.score.minutes is not None)
    ]
    caption = "Bar: the score. Points: single runs that reached the target. The table above has all values."
    return _bars(group, drawn, ("Time to target", "minutes"), caption)


def _bars(group: Group, bars: list[charts.Bar], names: tuple[str, str], caption: str) -> Figure | None:
    """Bars with a title and a unit; None without any."""
    title, unit = names
    if not bars:
        return None
    lengths = [max([bar.value or 0.0, *bar.points]) for bar in bars if bar.series is not None]
    longest = LONGEST_BAR * max(lengths, default=0.0) or math.inf
    drawn = [bar for bar in bars if bar.series is not None or (bar.value or 0.0) <= longest]
    others, beyond = sum(bar.series is None for bar in drawn), len(bars) - len(drawn)
    if others:
        caption += f" Grey: {f'{others} other systems' if others > 1 else 'another system'}, in the table's order."
    if beyond:
        caption += f" Not drawn: {f'{beyond} systems' if beyond > 1 else '1 system'} with much longer bars."
    values = "; ".join(f"{bar.label}: {bar.text}" for bar in drawn if bar.series is not None)
    text = f"Score of each system in {unit}. {values}."
    return Figure(title, charts.bars(f"g{group.number}-time", title, text, drawn, unit), caption)


def _accuracy(group: Group, series: dict[Row, int]) -> list[Figure]:
    """Word error rate (or the benchmark's own metric) against minutes and against epochs."""
    chosen = [(row, run) for row in group.rows for run in row.members if run.evals]
    single = len(chosen) > MAX_CURVES
    if single:
        chosen = [(row, run) for row in group.rows if (run := typical_run(row)).evals]
    if not chosen:
        return []
    factor = chosen[0][1].wer_factor
    names = _names(group)
    over_time, over_epochs = [], []
    for row, run in chosen:
        name = names[row] if single else _label(names[row], run)
        scaled = [(epoch, value * (factor or 1.0), time_ms) for epoch, value, time_ms in run.evals]
        if run.started_ms is not None:
            points = [((time_ms - run.started_ms) / 60_000, value) for _, value, time_ms in scaled]
            over_time.append(charts.Line(points, series.get(row), name))
        points = [(epoch, value) for epoch, value, _ in scaled if epoch is not None]
        if points:
            over_epochs.append(charts.Line(points, series.get(row), name))
    positive = [value * (factor or 1.0) for _, run in chosen for _, value, _ in run.evals if value > 0]
    log = bool(factor) and bool(positive) and max(positive) > 10 * min(positive)
    metric = "WER in %" if factor else "evaluation metric"
    y_axis = charts.Axis(metric + (" (logarithmic)" if log else ""), log=log, zero=bool(factor))
    units = {row.progress_unit or EPOCHS for row in group.rows}
    unit = units.pop() if len(units) == 1 else "progress"
    target = group.aspects.target_wer if factor else None
    caption = f"Evaluations of {'one typical run of each system' if single else 'every run'}."
    caption += "" if target is None else f" Dashed: the target, {target:g} %."
    what = "Word error rate" if factor else "Evaluation metric"
    legend = [names[row] for row in series] if len(group.rows) > 1 else []
    figures = []
    for part, curves, against, x_axis in (
        ("time", over_time, "time", _time_axis(over_time)),
        ("epoch", over_epochs, unit, charts.Axis(unit, whole=unit == EPOCHS)),
    ):
        if curves:
            title = f"{what} against {against}"
            identity, text = f"g{group.number}-wer-{part}", _from_to(curves)
            chart = charts.lines(identity, title, text, curves, x_axis, y_axis, target=target)
            figures.append(Figure(title, chart, caption + _others(group, series), legend))
    return figures


def _time_axis(curves: list[charts.Line]) -> charts.Axis:
    """Minutes, on a logarithmic scale if the fastest systems could not be told apart on a linear one."""
    ends = [curve.points[-1][0] for curve in curves if curve.points[-1][0] > 0]
    log = bool(ends) and max(ends) > LOG_TIME_FROM * min(ends)
    return charts.Axis("minutes (logarithmic)" if log else "minutes", log=log)


def _from_to(curves: list[charts.Line]) -> str:
    """The first and the last value of each curve in colour."""
    values = [
        f"{curve.name}: from {curve.points[0][1]:.3g} to {curve.points[-1][1]:.3g}"
        for curve in curves
        if curve.series is not None
    ]
    return f"{'; '.join(values)}."


def _label(name: str, run: Run) -> str:
    """A run's name in a chart: its system, and its seed if it has logged one."""
    return name if run.seed is None else f"{name}, seed {run.seed}"


def _time_parts(group: Group, series: dict[Row, int]) -> Figure | None:
    rows = [(row, parts) for row in group.rows if (parts := mean_parts(row)) is not None]
    shown = [(row, parts) for row, parts in rows if row in series]
    if not shown:
        return None
    names = _names(group)
    drawn = [charts.Stack(names[row], parts) for row, parts in shown]
    values = "; ".join(
        f"{names[row]}: " + ", ".join(f"{name} {part:.3g}" for name, part in zip(PARTS, parts, strict=True))
        for row, parts in shown
    )
    title = "Where the time went"
    chart = charts.stacks(f"g{group.number}-parts", title, f"Minutes of a run. {values}.", drawn, "minutes")
    left_out = "" if len(shown) == len(rows) else f" The table below has all {len(rows)} systems."
    return Figure(title, chart, f"Mean over the runs, in minutes.{left_out}", PARTS)


def mean_parts(row: Row) -> list[float] | None:
    """Mean minutes in each of PARTS, over the converged runs if any; None if no run has all of them."""
    complete = []
    for run in [run for run in row.members if run.verdict == SUCCESS] or row.members:
        if run.run_s is None or run.train_s is None or run.eval_s is None or run.data_wait_s is None:
            continue
        other = run.run_s - run.train_s - run.eval_s
        parts = [run.data_wait_s, run.train_s - run.data_wait_s, run.eval_s, other]
        # The trainer's clock and the log's differ by milliseconds; a larger negative part means a broken log.
        if min(parts) > -0.01 * run.run_s:
            complete.append([max(part, 0.0) / 60 for part in parts])
    return [sum(values) / len(complete) for values in zip(*complete, strict=True)] if complete else None


def telemetry_figures(group: Group) -> tuple[list[tuple[str, list[Figure]]], bool]:
    """GPU (or host) curves over a typical run of each row, with the run's name; whether further rows were omitted.

    Of many rows, those in colour are drawn: the baseline and those with a label before others.
    """
    found: dict[Row, dict[Quantity, list[tuple[float, float]]]] = {}
    omitted = False
    for row in sorted(series_of(group), key=lambda row: not row.baseline and row.label is None):
        curves = read_curves(typical_run(row))
        if curves and len(found) == MAX_TELEMETRY:
            omitted = True
            break
        if curves:
            found[row] = curves
    names = _names(group)
    drawn = [
        (_label(names[row], typical_run(row)), _telemetry(f"g{group.number}-t{place}", names[row], row, found[row]))
        for place, row in enumerate(group.rows)
        if row in found
    ]
    return drawn, omitted


def _telemetry(identity: str, name: str, row: Row, curves: dict[Quantity, list[tuple[float, float]]]) -> list[Figure]:
    run = typical_run(row)
    started_ms = run.started_ms or 0.0
    marks = [(start - started_ms) / 60_000 for _, start, _ in run.epoch_marks]
    figures = []
    for number, (quantity, points) in enumerate(curves.items()):
        values = [value for _, value in points]
        average = sum(values) / len(values)
        summary = f"Mean {figure(average)} {quantity.unit}, min {figure(min(values))}, max {figure(max(values))}"
        chart = charts.lines(
            f"{identity}-{number}",
            f"{quantity.name} of {name}",
            f"Over {run.minutes:.3g} minutes. {summary}.",
            [charts.Line(points, number, quantity.name)],
            charts.Axis("minutes"),
            charts.Axis(f"{quantity.name}, {quantity.unit}", top=quantity.top),
            marks=marks,
        )
        figures.append(Figure(quantity.name, chart, f"{summary}. Dotted: epoch starts."))
    return figures
