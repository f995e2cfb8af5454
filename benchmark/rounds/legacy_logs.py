"""Reads log lines of the rounds before MLLOG, so that old results can be compared. New logs never use these forms.

v0.6: `:::MLL 1558640006.123 run_stop: {"value": ..., "metadata": {...}}`;
v0.5: `:::MLPv0.5.0 resnet 1541635596.123 (file.py:12) run_stop: {"success": true}`. Times are seconds.

In v0.5 a run stopped when it reached its target, and not all submitters logged so: where run_stop has no `success`, the
last eval_accuracy against eval_target decides. All metrics of that round are better the higher they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from benchmark.log_summary import metrics_of
from benchmark.mllog import (
    ABORTED,
    EPOCH_NUM,
    EVAL_ACCURACY,
    MAX_LINE_BYTES,
    RUN_STOP,
    STATUS,
    SUBMISSION_BENCHMARK,
    SUCCESS,
    BadLine,
    Event,
)

_TOKEN = b":::ML"
_V06 = re.compile(rb":::MLL ([\d.]+) (\w+) ?:\s+(.+)$")
_V05 = re.compile(rb":::MLP(?:v[\d.]+)? (\w+) ([\d.]+) \(.*?\) (\w+)(?::\s*(.*))?$")
_PYTHON_METADATA = re.compile(rb'"metadata": (\{[^"]*\})\}$')
"""The metadata of a line whose writer (minigo in v0.6) printed a Python dictionary instead of JSON."""
_EVAL_TARGET, _SUCCESS_FLAG = "eval_target", "success"


def read_lines(file: BinaryIO) -> Iterator[Event | BadLine]:
    """The events of an open log of round 0.5 or 0.6, converted to the current form."""
    number = 0
    first_round = _FirstRound()
    while raw := file.readline(MAX_LINE_BYTES):
        number += 1
        # Only the last token of a line is tried: searching for the pattern would take time that grows with the square.
        start = raw.rfind(_TOKEN)
        if start < 0:
            continue
        raw = raw.rstrip()
        try:
            if match := _V06.match(raw, start):
                body = _body(match[3])
                value, metadata = (body.get("value"), body.get("metadata")) if isinstance(body, dict) else (body, None)
                yield _event(match[2], value, metadata, match[1], number)
            elif match := _V05.match(raw, start):
                value = orjson.loads(match[4]) if match[4] else None
                yield from first_round.events(match, value, number)
        except ValueError as error:
            yield BadLine(number, f"not a line of round 0.5 or 0.6 ({error})", raw[:200].decode("utf-8", "replace"))


class _FirstRound:
    """Converts the lines of one log of round 0.5."""

    def __init__(self) -> None:
        self.benchmark_known = False
        self.reached: dict[str, float] = {}
        self.target: dict[str, float] = {}

    def events(self, match: re.Match[bytes], value: Any, number: int) -> list[Event]:
        """The event of a line; before the first one, the benchmark's name, which each line has."""
        event = _event(match[3], *_v05_value(value), match[2], number)
        if event.key == EVAL_ACCURACY:
            self.reached = metrics_of(event)
        elif event.key == _EVAL_TARGET:
            # Mask R-CNN's two targets are the whole object.
            self.target = metrics_of(event if event.value is not None else event._replace(value=value))
        elif event.key == RUN_STOP and (status := self._status(value)) is not None:
            event.metadata[STATUS] = status
        if self.benchmark_known:
            return [event]
        self.benchmark_known = True
        return [_event(SUBMISSION_BENCHMARK.encode(), match[1].decode(), None, match[2], number), event]

    def _status(self, value: Any) -> str | None:
        """The status of a run_stop with that value; None if nothing says it."""
        flag = value.get(_SUCCESS_FLAG) if isinstance(value, dict) else None
        if flag is not None:
            return SUCCESS if flag is True or str(flag).lower() == "true" else ABORTED
        if not self.target or not self.reached:
            return None
        passed = all(self.reached.get(name, -math.inf) >= target for name, target in self.target.items())
        return SUCCESS if passed else ABORTED


def _body(text: bytes) -> Any:
    """The JSON value of a line of round 0.6."""
    if found := _PYTHON_METADATA.search(text):
        text = text[: found.start(1)] + found[1].replace(b"'", b'"') + b"}"
    return orjson.loads(text)


def _event(key: bytes, value: Any, metadata: Any, seconds: bytes, number: int) -> Event:
    fields = metadata if isinstance(metadata, dict) else {}
    time_ms = float(seconds) * 1000
    if not math.isfinite(time_ms):
        raise ValueError("the time is too large")
    return Event(key.decode(), value, fields, time_ms, "", "", number)


def _v05_value(value: Any) -> tuple[Any, dict[str, Any]]:
    """Split a value of round 0.5, which included what is now metadata."""
    if not isinstance(value, dict):
        return value, {}
    metadata = dict(value)
    if "epoch" in value:
        metadata[EPOCH_NUM] = value["epoch"]
    return value.get("value"), metadata
