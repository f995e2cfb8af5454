"""Makes the charts of a group of comparable rows, with their captions and text descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmark.mllog import SUCCESS
from benchmark.rounds.result_tree import WEAK
from benchmark.rounds.rules_by_round import EPOCHS
from results.comparing.columns import figure, minutes_text, name_text
from results.comparing.comparison import Group
from results.comparing.rows import Row
from results.reading.run_data import Run
from results.rendering import charts
from results.rendering.markup import Markup
from results.rendering.telemetry_curves import read_curves

MAX_CURVES = 40
"""With more runs, a group's charts show one run per row to stay readable."""
MAX_TELEMETRY = 6
"""Number of systems in a group whose telemetry is drawn."""
MAX_LEGEND = 12
"""Number of systems in a chart of curves that are named in a legend."""
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


def group_figures(group: Group) -> list[Figure]:
    """The charts of a group for which its sources have data."""
    # The two low charts come first, so that they are next to each other above the two high ones.
    low = [_model_bars(group) if is_weak(group) else _time_bars(group), _time_parts(group)]
    return [figure for figure in low if figure is not None] + _accuracy(group)


def is_weak(group: Group) -> bool:
    """Whether the group is of MLPerf HPC's weak scaling, which is ranked by models per minute."""
    return group.aspects.scaling_kind == WEAK


def _model_bars(group: Group) -> Figure | None:
    rows = [row for row in group.rows if row.score.models_per_minute is not None]
    if not rows:
        return None
    drawn = [
        charts.Bar(f"{row.rank}. {name_text(row)}", rate, f"{figure(rate)} models/min", [], series=0)
        for row in rows
        if (rate := row.score.models_per_minute) is not None
    ]
    values = "; ".join(f"{bar.label}: {bar.text}" for bar in drawn)
    title = "Models per minute"
    text = f"Score of each system in models per minute. {values}."
    chart = charts.bars(f"g{group.number}-time", title, text, drawn, "models per minute")
    return Figure(title, chart, "Bar: the score, models that reached the target per minute.")


def _time_bars(group: Group) -> Figure | None:
    rows = [row for row in group.rows if row.minutes_min is not None]
    if not rows:
        return None
    drawn = [
        charts.Bar(
            f"{row.rank}. {name_text(row)}" if row.rank else name_text(row),
            row.score.minutes,
            f"{minutes_text(row.score.minutes)} min" if row.score.minutes is not None else "no score",
            [run.minutes for run in row.members if run.verdict == SUCCESS and run.minutes is not None],
            series=0 if row.rank else 6,
        )
        for row in rows
    ]
    values = "; ".join(f"{bar.label}: {bar.text}" for bar in drawn)
    chart = charts.bars(
        f"g{group.number}-time", "Time to target", f"Score of each system in minutes. {values}.", drawn, "minutes"
    )
    return Figure(
        "Time to target",
        chart,
        "Bar: the score. Points: single runs that reached the target. The table above has all values.",
    )


def _accuracy(group: Group) -> list[Figure]:
    """Word error rate (or the benchmark's own metric) against minutes and against epochs."""
    chosen = [(series, run) for series, row in enumerate(group.rows) for run in row.members if run.evals]
    single = len(chosen) > MAX_CURVES
    if single:
        chosen = [(series, typical_run(row)) for series, row in enumerate(group.rows)]
        chosen = [(series, run) for series, run in chosen if run.evals]
    if not chosen:
        return []
    factor = chosen[0][1].wer_factor
    name = "WER in %" if factor else "evaluation metric"
    what = "Word error rate" if factor else "Evaluation metric"
    over_time, over_epochs = [], []
    for series, run in chosen:
        label = _label(group.rows[series], run)
        scaled = [(epoch, value * (factor or 1.0), time_ms) for epoch, value, time_ms in run.evals]
        if run.started_ms is not None:
            points = [((time_ms - run.started_ms) / 60_000, value) for _, value, time_ms in scaled]
            over_time.append(charts.Line(points, series, label))
        points = [(epoch, value) for epoch, value, _ in scaled if epoch is not None]
        if points:
            over_epochs.append(charts.Line(points, series, label))
    positive = [value for _, run in chosen for _, value, _ in run.evals if value > 0]
    log = bool(factor) and bool(positive) and max(positive) > 10 * min(positive)
    axis = charts.Axis(name + (" (logarithmic)" if log else ""), log=log, zero=bool(factor))
    units = {row.progress_unit or EPOCHS for row in group.rows}
    unit = units.pop() if len(units) == 1 else "progress"
    which = "one typical run of each system" if single else "every run"
    # More systems than that cannot be told apart by colour; the curves' tooltips name them.
    legend = [name_text(row) for row in group.rows] if 1 < len(group.rows) <= MAX_LEGEND else []
    target = group.aspects.target_wer if factor else None
    reached = "" if target is None else f" Dashed: the target, {target:g} %."
    figures = []
    for part, curves, x_name in (("time", over_time, "minutes"), ("epoch", over_epochs, unit)):
        if curves:
            values = "; ".join(
                f"{curve.name}: from {curve.points[0][1]:.3g} to {curve.points[-1][1]:.3g}" for curve in curves
            )
            title = f"{what} against {'time' if part == 'time' else unit}"
            chart = charts.lines(
                f"g{group.number}-wer-{part}",
                title,
                f"{values}.",
                curves,
                charts.Axis(x_name, whole=x_name == EPOCHS),
                axis,
                target=target,
            )
            figures.append(Figure(title, chart, f"Evaluations of {which}.{reached}", legend))
    return figures


def _label(row: Row, run: Run) -> str:
    """A run's name in a chart: its system, and its seed if it has logged one."""
    return name_text(row) if run.seed is None else f"{name_text(row)}, seed {run.seed}"


def _time_parts(group: Group) -> Figure | None:
    rows = [(row, parts) for row in group.rows if (parts := mean_parts(row)) is not None]
    if not rows:
        return None
    drawn = [charts.Stack(name_text(row), parts) for row, parts in rows]
    values = "; ".join(
        f"{name_text(row)}: " + ", ".join(f"{name} {part:.3g}" for name, part in zip(PARTS, parts, strict=True))
        for row, parts in rows
    )
    title = "Where the time went"
    chart = charts.stacks(f"g{group.number}-parts", title, f"Minutes of a run. {values}.", drawn, "minutes")
    return Figure(title, chart, "Mean over the runs, in minutes.", PARTS)


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
    """GPU (or host) curves over a typical run of each row, with the run's name; whether further rows were omitted."""
    drawn: list[tuple[str, list[Figure]]] = []
    for place, row in enumerate(group.rows):
        run = typical_run(row)
        curves = read_curves(run)
        if not curves:
            continue
        if len(drawn) == MAX_TELEMETRY:
            return drawn, True
        assert run.started_ms is not None
        marks = [(start - run.started_ms) / 60_000 for _, start, _ in run.epoch_marks]
        figures = []
        for number, (quantity, points) in enumerate(curves.items()):
            values = [value for _, value in points]
            average = sum(values) / len(values)
            summary = f"Mean {figure(average)} {quantity.unit}, min {figure(min(values))}, max {figure(max(values))}"
            chart = charts.lines(
                f"g{group.number}-t{place}-{number}",
                f"{quantity.name} of {name_text(row)}",
                f"Over {run.minutes:.3g} minutes. {summary}.",
                [charts.Line(points, number, quantity.name)],
                charts.Axis("minutes"),
                charts.Axis(f"{quantity.name}, {quantity.unit}", top=quantity.top),
                marks=marks,
            )
            figures.append(Figure(quantity.name, chart, f"{summary}. Dotted: epoch starts."))
        drawn.append((_label(row, run), figures))
    return drawn, False
