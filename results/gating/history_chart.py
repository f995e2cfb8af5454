"""Draws the history of a gate as a stand-alone SVG: one panel for each benchmark, oldest entry left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from results.gating.decision import THROUGHPUT, TIME
from results.gating.history import Entry, find_same, titles_of
from results.gating.same_hardware import same_hardware
from results.rendering.charts import WIDTH, Axis, Line, lines
from results.rendering.markup import Markup, tag

_PANEL, _HEADING = 300, 52
"""Heights of a panel and of the heading above it, in units."""
_LETTERS = 54
"""As many letters of a heading have space."""
_SCORE, _FAILED = 0, 1
"""Series, which have colours of their own."""
_NAMES = {TIME: "Time to train", THROUGHPUT: "Throughput"}
_UNITS = {TIME: "minutes", THROUGHPUT: "samples/s"}
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --quiet: #57606a; --line: #d0d7de; --s0: #0072b2;
  --s1: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --ink: #e6edf3; --quiet: #9fadbb; --line: #38424e;
  --s0: #56b4e9; --s1: #ff8b80; } }
text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
.page { fill: var(--page); }
.quiet { fill: var(--quiet); font-size: 13px; }
.strong { font-weight: 700; }
.grid { stroke: var(--line); stroke-width: 1; }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.dot { fill: var(--page); stroke-width: 1.2; }
.other { stroke: var(--quiet); opacity: .7; }
.s0 { stroke: var(--s0); } .dot.s0 { fill: var(--s0); }
.s1 { stroke: var(--s1); } .dot.s1 { fill: var(--s1); }
"""


def history_chart(history: Sequence[Entry], new: Sequence[Entry], metric: str) -> bytes:
    """The chart as an SVG file: the entries on the hardware of the new runs, and these last if they are not among them.

    A point for each run, a larger one for each entry (red: it failed the gate), joined by a line.
    """
    panels = [
        _panel(f"panel{number}", title, _like(history, entry), metric)
        for number, (entry, title) in enumerate(zip(new, titles_of(new), strict=True))
    ]
    height = len(panels) * (_PANEL + _HEADING)
    headings = ", ".join(panel.heading for panel in panels)
    children = [
        tag("title", f"{_NAMES[metric]} of {headings}, entry by entry", id="title"),
        tag("desc", " ".join(f"{panel.heading}: {panel.description}" for panel in panels), id="desc"),
        tag("style", Markup(_STYLE)),
        tag("rect", width=WIDTH, height=height, class_="page"),
    ]
    for number, panel in enumerate(panels):
        top = number * (_PANEL + _HEADING)
        heading = panel.heading if len(panel.heading) <= _LETTERS else panel.heading[: _LETTERS - 1] + "…"
        children.append(tag("text", heading, x=8, y=top + 22, class_="strong"))
        children.append(tag("text", "rings: runs; dots: scores, red if it failed", x=8, y=top + 42, class_="quiet"))
        children.append(tag("svg", panel.chart, y=top + _HEADING, width=WIDTH, height=_PANEL))
    size = {"width": WIDTH, "height": height, "viewBox": f"0 0 {WIDTH} {height}"}
    about = {"role": "img", "aria_labelledby": "title desc"}
    return (tag("svg", *children, xmlns="http://www.w3.org/2000/svg", **size, **about) + "\n").encode()


@dataclass(frozen=True)
class _Panel:
    heading: str
    description: str
    chart: Markup


def _like(history: Sequence[Entry], new: Entry) -> list[Entry]:
    """The entries that can be compared with these runs, and the runs themselves."""
    alike = [entry for entry in history if entry.aspects == new.aspects]
    found = [entry for entry in alike if same_hardware(entry.configuration, new.configuration)]
    return found if find_same(new, found) else [*found, new]


def _panel(identity: str, title: str, entries: Sequence[Entry], metric: str) -> _Panel:
    unit = _UNITS[metric]
    values = [_value(entry, metric) for entry in entries]
    scores = [(place, value) for place, value in enumerate(values, 1) if value is not None]
    curves = [Line(scores, _SCORE, _NAMES[metric])] if len(scores) > 1 else []
    for place, entry in enumerate(entries, 1):
        text = f"{unit}, one run, {entry.origin}"
        curves += [Line([(place, value)], None, f"{value:.4g} {text}") for value in _known(entry, metric)]
    for place, value in scores:
        entry = entries[place - 1]
        series = _FAILED if entry.failed else _SCORE
        curves.append(Line([(place, value)], series, f"{value:.4g} {unit}, {entry.origin}{_outcome(entry)}"))
    description = _description(entries, values, unit)
    x_axis, y_axis = Axis("entry, oldest first", whole=True), Axis(unit, zero=False)
    chart = lines(identity, f"{title}: {unit}", description, curves, x_axis, y_axis)
    return _Panel(title, description, chart)


def _outcome(entry: Entry) -> str:
    if entry.accepted:
        return ", accepted"
    if entry.passed is None:
        return ""
    return ", failed the gate" if entry.failed else ", passed, in doubt" if entry.doubtful else ", passed"


def _description(entries: Sequence[Entry], values: Sequence[float | None], unit: str) -> str:
    failed = sum(entry.failed for entry in entries)
    last = "has no score" if values[-1] is None else f"has {values[-1]:.4g} {unit}"
    return f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}, {failed} failed the gate; the last {last}."


def _value(entry: Entry, metric: str) -> float | None:
    """What an entry is judged by."""
    known = _known(entry, metric)
    if metric == TIME:
        return entry.score.minutes
    return sum(known) / len(known) if known else None


def _known(entry: Entry, metric: str) -> list[float]:
    values = [run.minutes if metric == TIME else run.samples_per_s for run in entry.runs]
    return [value for value in values if value is not None]
