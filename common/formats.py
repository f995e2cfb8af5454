"""Versioned file formats: the files that the benchmark writes and reads back, and their decoding into dataclasses.

Files that users write (parameter files) are read strictly. Files that an earlier version of the program wrote are read
leniently: unknown fields are ignored, missing fields take their defaults, and older versions are upgraded step by step.
A version newer than this program supports is rejected. docs/formats.md has the history of each format.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from common.errors import UserError

VERSION_KEY = "schema_version"
_OLDER_KEYS = ("schema", "format")
"""The version's key in version 1 of most formats."""

ConvertLeaf = Callable[[Any, Any, str], Any]
"""Converts a single value from the file to the type of its field: (type, value, dotted name) -> value."""

T = TypeVar("T")
_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of file: its name in error messages, its current version, and the upgrade from older versions.

    `steps[n]` converts a tree of version n to version n + 1. A version without a step differs only by fields with
    defaults.
    """

    name: str
    version: int
    steps: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = dataclasses.field(default_factory=dict)

    @property
    def _with_article(self) -> str:
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"

    def with_version(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """`tree` with the current version as its first key, as it is written to the file."""
        return {VERSION_KEY: self.version, **tree}

    def current(self, tree: object, where: object, remedy: str | None = None) -> dict[str, Any]:
        """The contents of the file `where`, upgraded to the current version.

        UserError if it is not an object, or its version is newer.
        """
        if not isinstance(tree, dict):
            raise UserError(f"not {self._with_article}: expected an object", where=where, remedy=remedy)
        tree = dict(tree)
        keys = [key for key in (VERSION_KEY, *_OLDER_KEYS) if key in tree]
        version = tree.pop(keys[0]) if keys else 1
        if type(version) is not int or version < 1:
            raise UserError(
                f"not {self._with_article}: its {keys[0]} is {quote_value(version)}", where=where, remedy=remedy
            )
        if version > self.version:
            raise UserError(
                f"{self._with_article} of version {version}; this program reads versions up to {self.version}",
                where=where,
                remedy=f"use a version of the benchmark that reads version {version}, such as the one that wrote it",
            )
        for each in range(version, self.version):
            tree = self.steps[each](tree) if each in self.steps else tree
        return tree

    def read(self, cls: type[T], tree: object, where: object, remedy: str | None = None) -> T:
        """The dataclass `cls` read from the file `where`; UserError naming file and field, with `remedy` for damage."""
        current = self.current(tree, where, remedy)
        try:
            return decode(cls, current)
        except UserError as error:
            place = f"{where}: {error.where}" if error.where else where
            raise UserError(
                f"the {self.name} is damaged: {error.what}", where=place, remedy=error.remedy or remedy
            ) from None


RECORD = Format("run record", 2)
SERIES = Format("series of runs", 2)
CHECKPOINT = Format("checkpoint of this trainer", 2)
EXPORTED = Format("network that was imported or exported", 2)
REFERENCE_POINT = Format("reference convergence point", 1)
INFERENCE = Format("inference run", 2)
COMPARISON = Format("comparison", 2)
COMPLIANCE = Format("compliance report", 2)
DATASET = Format("dataset's description", 2)
STAMP = Format("verification stamp", 2)
PACKED = Format("index of packed audio", 2)
HISTORY = Format("entry of a gate's history", 1)
FORMATS = (
    RECORD,
    SERIES,
    CHECKPOINT,
    EXPORTED,
    REFERENCE_POINT,
    INFERENCE,
    COMPARISON,
    COMPLIANCE,
    DATASET,
    STAMP,
    PACKED,
    HISTORY,
)
"""All versioned formats. Version 1 of those now at 2 (except the compliance report) stored its version under another
key, or not at all."""


def decode(cls: type[T], tree: object, *, strict: bool = False, leaf: ConvertLeaf | None = None, name: str = "") -> T:
    """The dataclass `cls` from nested plain values; UserError with the dotted name of the first wrong field as `where`.

    Fields with a default may be missing, and so may dataclasses whose fields all have one. Unknown fields are ignored,
    or rejected if `strict`. `name` is the dotted name of `tree` in an enclosing tree. Types: dataclasses, int, float
    (also written as a whole number; always finite), str, bool, Literal, `X | None`, tuple[X, ...], list[X], dict[str,
    X], list, dict, Any, and any other class of which the value is an instance.
    """
    hints = _hints(typing.cast(Any, cls))
    prefix = f"{name}." if name else ""
    if not isinstance(tree, dict):
        raise UserError(f"expected the keys {', '.join(hints)}", where=name or None)
    if strict and (unknown := [str(key) for key in tree if key not in hints]):
        raise UserError("unknown key", where=prefix + unknown[0], remedy=f"known here: {', '.join(hints)}")
    values = {}
    for field in dataclasses.fields(typing.cast(Any, cls)):
        if field.name in tree:
            values[field.name] = _value(hints[field.name], tree[field.name], prefix + field.name, strict, leaf)
        elif _has_default(field):
            continue
        elif _all_default(hints[field.name]):
            values[field.name] = decode(hints[field.name], {})
        else:
            remedy = "give it: every key without a default is needed" if strict else None
            raise UserError("missing key", where=prefix + field.name, remedy=remedy)
    return cls(**values)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


@functools.cache
def _all_default(hint: Any) -> bool:
    """Whether a type is a dataclass whose fields all have defaults, such as a group of fields added later."""
    return dataclasses.is_dataclass(hint) and all(
        _has_default(field) or _all_default(_hints(typing.cast(Any, hint))[field.name])
        for field in dataclasses.fields(hint)
    )


def _value(hint: Any, value: Any, name: str, strict: bool, leaf: ConvertLeaf | None) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (hint,) = [kind for kind in arguments if kind is not types.NoneType]
        return _value(hint, value, name, strict, leaf)
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(Any, hint), value, strict=strict, leaf=leaf, name=name)
    if origin is Literal:
        _require(value in arguments, name, f"one of {', '.join(map(str, arguments))}", value)
        return arguments[arguments.index(value)]
    if origin in (tuple, list):
        _require(isinstance(value, list | tuple), name, "a list", value)
        return origin(_value(arguments[0], each, f"{name}[{at}]", strict, leaf) for at, each in enumerate(value))
    if origin is dict:
        _require(isinstance(value, dict), name, "an object", value)
        return {key: _value(arguments[1], each, f"{name}.{key}", strict, leaf) for key, each in value.items()}
    return _single(hint, leaf(hint, value, name) if leaf else value, name)


def _single(kind: type, value: Any, name: str) -> Any:
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    # True is an int in Python, but not a whole number.
    matches = type(value) is kind if kind in (int, float, str, bool) else isinstance(value, kind)
    _require(matches, name, _TYPE_NAMES.get(kind) or f"a {kind.__name__}", value)
    _require(not isinstance(value, float) or math.isfinite(value), name, "finite", value)
    return value


def _require(condition: bool, name: str, what: str, value: object) -> None:
    if not condition:
        raise UserError(f"must be {what}, not {quote_value(value)}", where=name)


def quote_value(value: object) -> str:
    """A value as quoted in an error message: truncated, and containers by their type alone."""
    if isinstance(value, dict | list):
        return _TYPE_NAMES[dict if isinstance(value, dict) else list]
    return "null" if value is None else f"{value!r:.80}"
