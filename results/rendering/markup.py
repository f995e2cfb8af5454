"""HTML and SVG from Python calls. Text is escaped because it is text: only what these functions return goes in as markup."""

from __future__ import annotations

import html

from common.errors import one_line


class Markup(str):
    """Text that is already HTML or SVG."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """Any value as text, control characters made visible; Markup as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(one_line(str(value)), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. None among children and attributes is left out; `class_` is `class`, `_` in names is `-`."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(child) for child in children if child is not None)
    if not children and name in _VOID:
        return Markup(f"<{name}{told}>")
    return Markup(f"<{name}{told}>{inner}</{name}>")


def join(parts: object) -> Markup:
    """Several pieces one after the other, each escaped unless it is markup."""
    return Markup("".join(escape(part) for part in parts))  # type: ignore[attr-defined]


_VOID = {"meta", "link", "br", "hr"}
