"""YAML files as their authors see them: every scalar is the text that stands there.

PyYAML follows YAML 1.1, which reads 2.10 as 2.1, `no` as false, 010 as 8, 12:30 as 750 and 1e-3 as text. Here nothing is
converted: who wants a number or a truth value takes it from a `Plain` scalar by a rule of its own.
"""

from __future__ import annotations

from typing import Any

import yaml

from common.errors import UserError

_NULLS = ("", "~", "null", "Null", "NULL")


class Plain(str):
    """A scalar without quotes, which may stand for a number or a truth value; one in quotes, or a block, is a mere str."""


def read_yaml(text: str, source: object) -> tuple[Any, dict[str, int]]:
    """The document as dicts with keys of text, lists, Plain, str, and None for a plain null, ~ or nothing.

    With it the line of each key, counted from 1, by its dotted path. UserError that names `source` and the line where it is
    no YAML, gives a key twice, or uses anchors, aliases or tags, which stand for something other than the text that is there.
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
            remedy="write `name: value` lines; a value that holds `: ` or begins with one of & * ! | > % @ ` [ { in quotes",
        ) from None


class _Loader(yaml.BaseLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if event.anchor is not None or getattr(event, "tag", None) is not None:
            problem = "anchors (&), aliases (*) and tags (!) are not taken"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


def _value(node: yaml.Node, prefix: str, lines: dict[str, int]) -> Any:
    if isinstance(node, yaml.ScalarNode):
        if node.style is None:
            return None if node.value in _NULLS else Plain(node.value)
        return _whole_characters(node)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, prefix, lines) for item in node.value]
    tree: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.composer.ComposerError(None, None, "a key must be text", key.start_mark)
        name = _whole_characters(key)
        if name in tree:
            raise yaml.composer.ComposerError(None, None, f"the key {name!r} occurs twice", key.start_mark)
        lines[prefix + name] = key.start_mark.line + 1
        tree[name] = _value(value, f"{prefix}{name}.", lines)
    return tree


def _whole_characters(node: yaml.ScalarNode) -> str:
    # JSON writes a character beyond U+FFFF as two escapes, which PyYAML leaves as two halves that no file can hold.
    try:
        return node.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise yaml.composer.ComposerError(
            None, None, "half a character (\\ud800 to \\udfff)", node.start_mark
        ) from None
