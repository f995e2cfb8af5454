"""Which pictures a group of comparable rows gets, and the words that go with each."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmark.mllog import SUCCESS
from results.comparing.columns import figure, minutes_text, name_text
from results.comparing.comparison import Group
from results.comparing.rows import Row
from results.reading.load import Run
from results.rendering import charts
from results.rendering.markup import Markup, join, tag
from results.rendering.telemetry_curves import read_curves

MOST_CURVES = 40
"""With more runs than this a group shows one run a row, or the picture is a tangle."""
MOST_TELEMETRY = 6
PARTS = ("waiting for data", "forward, backward, update", "evaluation", "other")


def typical_run(row: Row) -> Run:
    """The run that stands for a row: the converged one nearest to their median time, else the first."""
    good = [run for run in row.members if run.verdict == SUCCESS and run.minutes is not None]
    if not good:
        return row.members[0]
    middle = median(run.minutes for run in good if run.minutes is not None)
    return min(good, key=lambda run: abs((run.minutes or 0.0) - middle))


def group_figures(group: Group) -> Markup:
    """All pictures of a group that its sources have data for."""
    # The two low ones side by side, and below them the two high ones.
    went, table = _where_time_went(group) or (None, None)
    figures = tag("div", _time_bars(group), went, *_accuracy(group), class_="figures")
    return join([figures, table] if table is not None else [figures])


def _figure(title: str, picture: Markup, caption: str, key: Markup | None = None) -> Markup:
    return tag("figure", tag("h3", title), picture, key, tag("figcaption", caption))


def _time_bars(group: Group) -> Markup | None:
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
    told = "; ".join(f"{bar.label}: {bar.text}" for bar in drawn)
    picture = charts.bars(
        f"g{group.number}-time", "Time to target", f"Score of each system in minutes. {told}.", drawn, "minutes"
    )
    return _figure(
        "Time to target",
        picture,
        "Bar: the score. Points: single runs that reached the target. The table above has it all.",
    )


def _accuracy(group: Group) -> list[Markup]:
    """Word error rate (or whatever the benchmark evaluates) against minutes and against epochs."""
    chosen = [(series, run) for series, row in enumerate(group.rows) for run in row.members if run.evals]
    single = len(chosen) > MOST_CURVES
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
        label = f"{name_text(group.rows[series])}, seed {run.seed}"
        scaled = [(epoch, value * (factor or 1.0), time_ms) for epoch, value, time_ms in run.evals]
        if run.started_ms is not None:
            points = [((time_ms - run.started_ms) / 60_000, value) for _, value, time_ms in scaled]
            over_time.append(charts.Line(points, series, label))
        points = [(epoch, value) for epoch, value, _ in scaled if epoch is not None]
        if points:
            over_epochs.append(charts.Line(points, series, label))
    values = [value for _, run in chosen for _, value, _ in run.evals]
    positive = [value for value in values if value > 0]
    log = bool(factor) and bool(positive) and max(positive) > 10 * min(positive)
    axis = charts.Axis(name + (" (logarithmic)" if log else ""), log=log, zero=bool(factor))
    which = "one typical run of each system" if single else "every run"
    key = _key([name_text(row) for row in group.rows]) if len(group.rows) > 1 else None
    target = group.aspects.target_wer if factor else None
    reached = "" if target is None else f" Dashed: the target, {target:g} %."
    made = []
    for part, curves, across in (("time", over_time, "minutes"), ("epoch", over_epochs, "epochs")):
        if curves:
            told = "; ".join(
                f"{curve.name}: from {curve.points[0][1]:.3g} to {curve.points[-1][1]:.3g}" for curve in curves
            )
            title = f"{what} against {'time' if part == 'time' else 'epochs'}"
            picture = charts.lines(
                f"g{group.number}-wer-{part}",
                title,
                f"{told}.",
                curves,
                charts.Axis(across, whole=part == "epoch"),
                axis,
                target=target,
            )
            made.append(_figure(title, picture, f"Evaluations of {which}.{reached}", key))
    return made


def _where_time_went(group: Group) -> tuple[Markup, Markup] | None:
    """The picture, and its figures as a table to unfold."""
    rows = [(row, parts) for row in group.rows if (parts := mean_parts(row)) is not None]
    if not rows:
        return None
    drawn = [charts.Stack(name_text(row), parts) for row, parts in rows]
    told = "; ".join(
        f"{name_text(row)}: " + ", ".join(f"{name} {part:.3g}" for name, part in zip(PARTS, parts, strict=True))
        for row, parts in rows
    )
    picture = charts.stacks(
        f"g{group.number}-parts", "Where the time went", f"Minutes of a run. {told}.", drawn, "minutes"
    )
    header = tag("tr", *[tag("th", name, scope="col") for name in ("system", *PARTS)])
    body = [
        tag("tr", tag("td", name_text(row)), *[tag("td", minutes_text(part), class_="number") for part in parts])
        for row, parts in rows
    ]
    table = scrolled("Where the time went, in minutes", tag("table", tag("thead", header), tag("tbody", *body)))
    drawing = _figure("Where the time went", picture, "Mean over the runs, in minutes.", _key(PARTS))
    return drawing, tag("details", tag("summary", "Where the time went, in figures"), table)


def mean_parts(row: Row) -> list[float] | None:
    """Minutes of a mean run in each of PARTS, over converged runs where there are any; None where no run tells them all."""
    told = []
    for run in [run for run in row.members if run.verdict == SUCCESS] or row.members:
        if run.run_s is None or run.train_s is None or run.eval_s is None or run.data_wait_s is None:
            continue
        other = run.run_s - run.train_s - run.eval_s
        parts = [run.data_wait_s, run.train_s - run.data_wait_s, run.eval_s, other]
        # Clocks of trainer and log differ by milliseconds; anything below 0 by more is a broken log.
        if min(parts) > -0.01 * run.run_s:
            told.append([max(part, 0.0) / 60 for part in parts])
    return [sum(values) / len(told) for values in zip(*told, strict=True)] if told else None


def telemetry_figures(group: Group) -> Markup | None:
    """GPU (or host) figures over a typical run of each row, with the epochs marked."""
    blocks: list[Markup] = []
    for place, row in enumerate(group.rows):
        if len(blocks) == MOST_TELEMETRY:
            blocks.append(
                tag("p", f"Only the first {MOST_TELEMETRY} systems with telemetry are drawn.", class_="quiet")
            )
            break
        run = typical_run(row)
        curves = read_curves(run)
        if not curves:
            continue
        assert run.started_ms is not None
        marks = [(start - run.started_ms) / 60_000 for _, start, _ in run.epoch_marks]
        figures = []
        for number, (quantity, points) in enumerate(curves.items()):
            values = [value for _, value in points]
            average = sum(values) / len(values)
            told = f"Mean {figure(average)} {quantity.unit}, least {figure(min(values))}, most {figure(max(values))}"
            picture = charts.lines(
                f"g{group.number}-t{place}-{number}",
                f"{quantity.name} of {name_text(row)}",
                f"Over {run.minutes:.3g} minutes. {told}.",
                [charts.Line(points, number, quantity.name)],
                charts.Axis("minutes"),
                charts.Axis(f"{quantity.name}, {quantity.unit}", top=quantity.top),
                marks=marks,
            )
            figures.append(_figure(quantity.name, picture, f"{told}. Dotted: epochs begin."))
        blocks.append(tag("h3", f"Hardware over one run: {name_text(row)}, seed {run.seed}"))
        blocks.append(tag("div", *figures, class_="figures"))
    return join(blocks) if blocks else None


def scrolled(label: str, table: Markup) -> Markup:
    """A table that may be wider than a phone, to be scrolled by finger or by keyboard."""
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def _key(names: Sequence[str]) -> Markup:
    items = [
        tag("li", tag("i", class_=charts.series_class(at), aria_hidden="true"), name) for at, name in enumerate(names)
    ]
    return tag("ul", *items, class_="key")
