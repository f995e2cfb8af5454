"""YAML files without type conversion: every scalar is the text in the file.

PyYAML follows YAML 1.1, which reads 2.10 as 2.1, `no` as false, 010 as 8, 12:30 as 750 and 1e-3 as text. Here nothing
is converted: a caller that needs a number or a boolean converts a `Plain` scalar by its own rules.
"""

from __future__ import annotations

from typing import Any

import yaml

from common.errors import UserError

_NULLS = ("", "~", "null", "Null", "NULL")


class Plain(str):
    """An unquoted scalar, which may be a number or a boolean; a quoted or block scalar is a str."""


def read_yaml(text: str, source: object) -> tuple[Any, dict[str, int]]:
    """The document as dicts with text keys, lists, Plain, str, and None for an unquoted null, ~ or nothing.

    Also returns the line of each key, from 1, by its dotted path. UserError with `source` and the line if it is not
    valid YAML, has a duplicate key, or uses anchors, aliases or tags, whose value is not the text itself.
    """
    lines: dict[str, int] = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
        return (None if node is None else _value(node, "", lines)), lines
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join((getattr(error, "problem", None) or str(error) or type(error).__name__).split())
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            f"not a YAML file ({problem})",
            where=f"{source}:{mark.line + 1}" if mark else source,
            remedy="write `name: value` lines; put a value that contains `: ` or starts with one of & * ! | > % @ ` [ { in quotes",
        ) from None


class _Loader(yaml.BaseLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if event.anchor is not None or getattr(event, "tag", None) is not None:
            problem = "anchors (&), aliases (*) and tags (!) are not supported"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


def _value(node: yaml.Node, prefix: str, lines: dict[str, int]) -> Any:
    if isinstance(node, yaml.ScalarNode):
        if node.style is None:
            return None if node.value in _NULLS else Plain(node.value)
        return _join_surrogates(node)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, prefix, lines) for item in node.value]
    tree: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.composer.ComposerError(None, None, "a key must be text", key.start_mark)
        name = _join_surrogates(key)
        if name in tree:
            raise yaml.composer.ComposerError(None, None, f"the key {name!r} occurs twice", key.start_mark)
        lines[prefix + name] = key.start_mark.line + 1
        tree[name] = _value(value, f"{prefix}{name}.", lines)
    return tree


def _join_surrogates(node: yaml.ScalarNode) -> str:
    # JSON writes a character above U+FFFF as two escapes, which PyYAML leaves as two surrogates that no file can
    # contain.
    try:
        return node.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise yaml.composer.ComposerError(
            None, None, "an unpaired surrogate (\\ud800 to \\udfff)", node.start_mark
        ) from None
