"""Draws the report's charts as inline SVG: horizontal bars with points, curves, stacked bars.

Charts are 480 units wide with large text, so that they are readable on a phone. Colours come from the page's style
sheet by class (`s0`..`s7` for series), so that light, dark and print use the same chart. Every chart has a title and a
text description, and its values are also in a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from results.rendering.markup import Markup, join, tag

WIDTH = 480
SERIES_COLOURS = 8
_LEFT, _RIGHT, _LETTER = 56, 12, 8.4
"""Left and right margins and the mean width of a letter, in units."""


_LARGEST, _SMALLEST = 1e300, 1e-300
"""Sizes between which a chart's arithmetic neither overflows nor divides by zero; a log may have any number."""


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its length (None for no bar), its text, single runs as points, a series number."""

    label: str
    value: float | None
    text: str
    points: Sequence[float] = ()
    series: int = 0


@dataclass(frozen=True)
class Line:
    """One curve: points (x, y) in order of x. Curves of one series share a colour."""

    points: Sequence[tuple[float, float]]
    series: int
    name: str


@dataclass(frozen=True)
class Axis:
    """An axis: its name with unit, whether it is logarithmic, its fixed end `top`, whether it starts at `zero`, and
    whether only `whole` numbers have ticks.
    """

    name: str
    log: bool = False
    top: float | None = None
    zero: bool = True
    whole: bool = False


@dataclass(frozen=True)
class Stack:
    """One stacked bar: its label and the length of each part."""

    label: str
    parts: Sequence[float] = field(default_factory=list)


def bars(identity: str, title: str, description: str, rows: Sequence[Bar], unit: str) -> Markup:
    """Horizontal bars from 0, each below its label, with single runs as points."""
    lengths = [_drawable(value) for row in rows for value in (row.value or 0.0, *row.points)]
    top = max(lengths, default=0.0) or 1.0
    ticks = nice_ticks(0, top)
    top = max(top, ticks[-1])
    height = 44 * len(rows) + 44
    right = WIDTH - _RIGHT
    scale = _linear(0, top, 8, right)
    parts: list[Markup] = [_vertical_grid_line(scale(tick), 8, height - 38, number_text(tick)) for tick in ticks]
    for place, row in enumerate(rows):
        y = 18 + 44 * place
        figure = tag("tspan", row.text, dx=8, class_="strong")
        space = int((WIDTH - 16) / _LETTER) - len(row.text) - 2
        parts.append(tag("text", shortened(row.label, space), figure, x=8, y=y))
        if row.value is not None:
            width = max(scale(row.value) - 8, 1)
            parts.append(tag("rect", x=8, y=y + 7, width=_f(width), height=14, class_=f"bar s{row.series % 8}"))
        dots = [tag("circle", cx=_f(scale(point)), cy=y + 14, r=3, class_="dot") for point in row.points]
        parts += dots
    parts.append(tag("text", unit, x=right, y=height - 4, text_anchor="end", class_="quiet"))
    return _svg(identity, title, description, height, parts)


def lines(
    identity: str,
    title: str,
    description: str,
    curves: Sequence[Line],
    x_axis: Axis,
    y_axis: Axis,
    marks: Sequence[float] = (),
    target: float | None = None,
) -> Markup:
    """Curves; `marks` are vertical lines (epochs), `target` is a horizontal line."""
    height = 300
    xs = [_drawable(x) for curve in curves for x, _ in curve.points] or [0.0, 1.0]
    ys = [_drawable(y) for curve in curves for _, y in curve.points] or [0.0, 1.0]
    ys += [_drawable(target)] if target is not None else []
    x_ticks = nice_ticks(0, max(max(xs), 1e-9))
    x_ticks = [tick for tick in x_ticks if not x_axis.whole or tick == round(tick)]
    x_scale = _linear(0, max(max(xs), 1e-9), _LEFT, WIDTH - _RIGHT)
    y_scale, y_ticks = _y_scale(y_axis, ys, height)
    bottom = height - 46
    parts = [tag("line", x1=_f(x_scale(x)), x2=_f(x_scale(x)), y1=24, y2=bottom, class_="mark") for x in marks]
    parts += [
        _vertical_grid_line(x_scale(tick), 24, bottom, number_text(tick)) for tick in x_ticks if tick <= max(xs) * 1.001
    ]
    for tick in y_ticks:
        y = _f(y_scale(tick))
        parts.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(
            tag("text", number_text(tick), x=_LEFT - 6, y=_f(y_scale(tick) + 5), text_anchor="end", class_="quiet")
        )
    if target is not None:
        y = _f(y_scale(target))
        parts.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="target"))
    for curve in curves:
        parts.append(_curve(curve, x_scale, y_scale))
    parts.append(tag("text", y_axis.name, x=4, y=14, class_="quiet"))
    parts.append(tag("text", x_axis.name, x=WIDTH - _RIGHT, y=height - 6, text_anchor="end", class_="quiet"))
    return _svg(identity, title, description, height, parts)


def stacks(identity: str, title: str, description: str, rows: Sequence[Stack], unit: str) -> Markup:
    """Stacked horizontal bars from 0; part n has the colour of series n."""
    top = max((_drawable(sum(row.parts)) for row in rows), default=0.0) or 1.0
    ticks = nice_ticks(0, top)
    height = 44 * len(rows) + 44
    scale = _linear(0, max(top, ticks[-1]), 8, WIDTH - _RIGHT)
    parts: list[Markup] = [_vertical_grid_line(scale(tick), 8, height - 38, number_text(tick)) for tick in ticks]
    for place, row in enumerate(rows):
        y, start = 18 + 44 * place, 0.0
        parts.append(tag("text", shortened(row.label, int((WIDTH - 16) / _LETTER)), x=8, y=y))
        for series, part in enumerate(row.parts):
            width = max(scale(start + part) - scale(start), 0)
            box = {"x": _f(scale(start)), "y": y + 7, "width": _f(width), "height": 14}
            parts.append(tag("rect", **box, class_=f"bar s{series % 8}"))
            start += part
    parts.append(tag("text", unit, x=WIDTH - _RIGHT, y=height - 4, text_anchor="end", class_="quiet"))
    return _svg(identity, title, description, height, parts)


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About `wanted` round numbers, from at or below `low` to at or above `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [step * n for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten inside the range, or only the powers if there are too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1,)):
        ticks = [m * 10.0**p for p in powers for m in steps if low * 0.999 <= m * 10.0**p <= high * 1.001]
        if len(ticks) <= 9:
            break
    return ticks


def number_text(value: float) -> str:
    """A tick's label: no trailing zeros, an exponent only for very large and small numbers."""
    return f"{value:.6g}"


def shortened(text: str, most: int) -> str:
    """`text` shortened to at most `most` characters, with an ellipsis in the middle."""
    if len(text) <= most:
        return text
    half = max((most - 1) // 2, 1)
    return text[:half] + "…" + text[-half:]


def _y_scale(axis: Axis, ys: list[float], height: int) -> tuple[Callable[[float], float], list[float]]:
    bottom = height - 46
    positive = [y for y in ys if y > 0]
    if axis.log and positive:
        low, high = min(positive) * 0.9, axis.top or max(positive) * 1.1
        place = _linear(math.log(low), math.log(high), bottom, 24)
        return lambda y: place(math.log(min(max(y, low), high))), log_ticks(low, high)
    high = axis.top or max(max(ys), 1e-9)
    ticks = nice_ticks(0 if axis.zero else min(ys), high)
    place = _linear(ticks[0], ticks[-1], bottom, 24)
    return lambda y: place(min(max(y, ticks[0]), ticks[-1])), ticks


def _curve(curve: Line, x_scale: Callable[[float], float], y_scale: Callable[[float], float]) -> Markup:
    title = tag("title", curve.name)
    if len(curve.points) == 1:
        x, y = curve.points[0]
        return tag("circle", title, cx=_f(x_scale(x)), cy=_f(y_scale(y)), r=3, class_=f"dot s{curve.series % 8}")
    points = " ".join(f"{_f(x_scale(x))},{_f(y_scale(y))}" for x, y in curve.points)
    return tag("polyline", title, points=points, class_=f"curve {series_class(curve.series)}")


def series_class(series: int) -> str:
    """A series' classes: one of eight colours, and from the ninth series also a dash pattern."""
    pattern = f" d{(series // SERIES_COLOURS - 1) % 3}" if series >= SERIES_COLOURS else ""
    return f"s{series % SERIES_COLOURS}{pattern}"


def _linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (_drawable(value) - low) / span * (end - start)


def _drawable(value: float) -> float:
    """The value, or the nearest one that a chart can draw."""
    if abs(value) < _SMALLEST:
        return 0.0
    return min(max(value, -_LARGEST), _LARGEST)


def _vertical_grid_line(x: float, top: float, bottom: float, text: str) -> Markup:
    line = tag("line", x1=_f(x), x2=_f(x), y1=top, y2=bottom, class_="grid")
    anchor = "end" if x > WIDTH - 30 else "start" if x < 12 else "middle"
    return join([line, tag("text", text, x=_f(x), y=bottom + 18, text_anchor=anchor, class_="quiet")])


def _f(value: float) -> str:
    return f"{value:.1f}"


def _svg(identity: str, title: str, description: str, height: int, parts: Sequence[Markup]) -> Markup:
    names = f"{identity}-title {identity}-desc"
    head = [tag("title", title, id=f"{identity}-title"), tag("desc", description, id=f"{identity}-desc")]
    return tag("svg", *head, *parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_labelledby=names)
