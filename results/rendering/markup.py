"""Builds SVG elements. Text is always escaped; only the results of these functions are inserted as markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

from common.errors import one_line


class Markup(str):
    """Text that is already HTML or SVG; Jinja2 does not escape it again."""

    __slots__ = ()

    def __html__(self) -> Markup:
        """The text as markup, as Jinja2 asks for it."""
        return self


def escape(value: object) -> Markup:
    """Any value as escaped text with control characters made visible; Markup is returned unchanged."""
    return value if isinstance(value, Markup) else Markup(html.escape(one_line(str(value))))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. `class_` becomes `class`; other `_` in attribute names become `-`."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    start = "".join(f' {names[key]}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{start}>{join(children)}</{name}>")


def join(parts: Iterable[object]) -> Markup:
    """Several pieces in sequence, each escaped unless it is markup."""
    return Markup("".join(escape(part) for part in parts))
