"""Says how much more or less time something takes, near a limit with as many decimals as show on which side it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MOST_MORE, _MOST_LESS = 10.0, -0.99
"""Beyond these changes (more than 1000 % more, 99 % less), percent are hard to read, and factors are given."""
_MOST_DECIMALS = 9


def as_factors(changes: Sequence[float]) -> bool:
    """Whether changes (fractions of time that are added) are better given as factors: `28 x the time`."""
    return any(not _MOST_LESS <= change <= _MOST_MORE for change in changes)


def amount(change: float, what: str, limit: float | None = None, *, factor: bool = False) -> str:
    """`17 % more time`, `as much time` or, as a factor, `28 x the time`; `what` is the time.

    It shows whether the change is above the `limit`.
    """
    if factor:
        return f"{_factor(change, limit)} the {what}"
    return f"{_changed(change, limit)} {what}"


def interval(low: float, high: float, limit: float | None = None, *, factor: bool = False) -> str:
    """An interval of changes: `8 % to 16 % more`, `3 % less to 8 % more`; as factors `8 x to 13 x`."""
    if factor:
        return f"{_factor(low, limit)} {'or more' if math.isinf(high) else f'to {_factor(high, limit)}'}"
    first, last = _changed(low, limit), _changed(high, limit)
    if first == last:
        return first
    if _NONE in (first, last):
        return f"0 % to {last if first == _NONE else first}"
    if low < 0 < high:
        return f"{first} to {last}"
    least, most = sorted((low, high), key=abs)
    return f"{percent(least, limit)} to {_changed(most, limit)}"


_NONE = "as much"


def _changed(change: float, limit: float | None) -> str:
    text = percent(change, limit)
    return _NONE if text == "0 %" else f"{text} {'more' if change > 0 else 'less'}"


def percent(change: float, limit: float | None = None) -> str:
    """`7.2 %`, `12 %`: one decimal below 10 %, more where they show that the change is above the `limit`, or is not."""
    value = abs(change) * 100
    most = None if limit is None or change <= 0 else limit * 100
    return _number(value, 1 if value < 9.95 else 0, most) + " %"


def _factor(change: float, limit: float | None) -> str:
    value = 1 + change
    if not 0.001 <= value < 1e6:
        return f"{value:.3g} x"
    decimals = 0 if value >= 9.95 else 2 - math.floor(math.log10(value)) if value < 1 else 1
    return _number(value, decimals, None if limit is None else 1 + limit) + " x"


def _number(value: float, decimals: int, limit: float | None) -> str:
    """A number with at least so many decimals that it is above the `limit` as written if it is; no zeros at its end."""
    limit = None if limit is None else round(limit, _MOST_DECIMALS)
    text = f"{value:.{decimals}f}"
    while limit is not None and decimals < _MOST_DECIMALS and (float(text) > limit) != (value > limit):
        decimals += 1
        text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
