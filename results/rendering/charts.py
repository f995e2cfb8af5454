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
_LEFT, _RIGHT, _LETTER = 56, 12, 9
"""Left and right margins and the mean width of a letter, where it is largest (on a phone and in print), in units."""
_INSET, _HIGH, _THIN = 8, 44, 7
"""Left margin of horizontal bars, and the heights of a bar with its label and of one without, in units."""


_LARGEST, _SMALLEST = 1e300, 1e-300
"""Sizes between which a chart's arithmetic neither overflows nor divides by zero; a log may have any number."""


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its length (None for no bar), its text, single runs as points, a series number.

    A bar without a series is thin and grey, without label and points; its label and text are its tooltip.
    """

    label: str
    value: float | None
    text: str
    points: Sequence[float] = ()
    series: int | None = 0


@dataclass(frozen=True)
class Line:
    """One curve: points (x, y) in order of x. Curves of one series share a colour; those of none are thin and grey."""

    points: Sequence[tuple[float, float]]
    series: int | None
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
    right = WIDTH - _RIGHT
    scale = _linear(0, top, _INSET, right)
    parts: list[Markup] = []
    y = 4
    for row in rows:
        if row.series is None:
            parts.append(_thin_bar(row, scale(row.value or 0.0), y))
            y += _THIN
        else:
            parts += _labelled_bar(row, scale, y)
            y += _HIGH
    height = y + 40
    grid = [_vertical_grid_line(scale(tick), 8, height - 38, number_text(tick)) for tick in ticks]
    parts.append(tag("text", unit, x=right, y=height - 4, text_anchor="end", class_="quiet"))
    return _svg(identity, title, description, height, grid + parts)


def _labelled_bar(row: Bar, scale: Callable[[float], float], y: int) -> list[Markup]:
    figure = tag("tspan", row.text, dx=8, class_="strong")
    space = int((WIDTH - 2 * _INSET) / _LETTER) - len(row.text) - 2
    parts = [tag("text", shortened(row.label, space), figure, x=_INSET, y=y + 14)]
    if row.value is not None:
        parts.append(_box(_INSET, y + 21, max(scale(row.value) - _INSET, 1), f"bar {series_class(row.series)}"))
    if row.points:
        # A line of no length with round ends is a point: the points of a bar are one element.
        dots = "".join(f"M{_f(scale(point))} {y + 28}h0" for point in row.points)
        parts += [tag("path", d=dots, class_=name) for name in ("rings", "dots")]
    return parts


def _thin_bar(row: Bar, end: float, y: int) -> Markup:
    title = tag("title", f"{row.label}: {row.text}")
    return _box(_INSET, y + 1, max(end - _INSET, 1), "bar other", 5, title)


def _box(x: float, y: float, width: float, classes: str, height: int = 14, *children: Markup) -> Markup:
    return tag("rect", *children, x=_f(x), y=y, width=_f(width), height=height, class_=classes)


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
    x_scale, x_ticks = _x_scale(x_axis, xs)
    y_scale, y_ticks = _y_scale(y_axis, ys, height)
    bottom = height - 46
    parts = [tag("line", x1=_f(x_scale(x)), x2=_f(x_scale(x)), y1=24, y2=bottom, class_="mark") for x in marks]
    parts += [_vertical_grid_line(x_scale(tick), 24, bottom, number_text(tick)) for tick in x_ticks]
    for tick in y_ticks:
        y = _f(y_scale(tick))
        parts.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(
            tag("text", number_text(tick), x=_LEFT - 6, y=_f(y_scale(tick) + 5), text_anchor="end", class_="quiet")
        )
    if target is not None:
        y = _f(y_scale(target))
        parts.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="target"))
    # The grey ones first, so that they are behind the others.
    parts += [_curve(curve, x_scale, y_scale) for curve in sorted(curves, key=lambda curve: curve.series is not None)]
    parts.append(tag("text", y_axis.name, x=4, y=14, class_="quiet"))
    parts.append(tag("text", x_axis.name, x=WIDTH - _RIGHT, y=height - 6, text_anchor="end", class_="quiet"))
    return _svg(identity, title, description, height, parts)


def stacks(identity: str, title: str, description: str, rows: Sequence[Stack], unit: str) -> Markup:
    """Stacked horizontal bars from 0; part n has the colour of series n."""
    top = max((_drawable(sum(row.parts)) for row in rows), default=0.0) or 1.0
    ticks = nice_ticks(0, top)
    height = _HIGH * len(rows) + 44
    scale = _linear(0, max(top, ticks[-1]), _INSET, WIDTH - _RIGHT)
    parts: list[Markup] = [_vertical_grid_line(scale(tick), 8, height - 38, number_text(tick)) for tick in ticks]
    for place, row in enumerate(rows):
        y, start = 18 + _HIGH * place, 0.0
        parts.append(tag("text", shortened(row.label, int((WIDTH - 2 * _INSET) / _LETTER)), x=_INSET, y=y))
        for series, part in enumerate(row.parts):
            width = max(scale(start + part) - scale(start), 0)
            parts.append(_box(scale(start), y + 7, width, f"bar {series_class(series)}"))
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


def _x_scale(axis: Axis, xs: list[float]) -> tuple[Callable[[float], float], list[float]]:
    high = max(max(xs), 1e-9)
    positive = [x for x in xs if x > 0]
    if axis.log and positive:
        low = min(positive)
        place = _linear(math.log(low), math.log(high), _LEFT, WIDTH - _RIGHT)
        return lambda x: place(math.log(min(max(x, low), high))), log_ticks(low, high)
    ticks = [tick for tick in nice_ticks(0, high) if not axis.whole or tick == round(tick)]
    return _linear(0, high, _LEFT, WIDTH - _RIGHT), [tick for tick in ticks if tick <= max(xs) * 1.001]


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
        classes = f"dot {series_class(curve.series)}"
        return tag("circle", title, cx=_f(x_scale(x)), cy=_f(y_scale(y)), r=3, class_=classes)
    # Points that are drawn in one place count once.
    points = dict.fromkeys(f"{_f(x_scale(x))},{_f(y_scale(y))}" for x, y in curve.points)
    return tag("polyline", title, points=" ".join(points), class_=f"curve {series_class(curve.series)}")


def series_class(series: int | None) -> str:
    """A series' classes: one of eight colours, and from the ninth series also a dash pattern; `other` for none."""
    if series is None:
        return "other"
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
    return f"{value:.1f}".removesuffix(".0")


def _svg(identity: str, title: str, description: str, height: int, parts: Sequence[Markup]) -> Markup:
    names = f"{identity}-title {identity}-desc"
    head = [tag("title", title, id=f"{identity}-title"), tag("desc", description, id=f"{identity}-desc")]
    return tag("svg", *head, *parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_labelledby=names)
