"""Reads log lines of the rounds before MLLOG, so that old results can be compared. New logs never use these forms.

v0.6: `:::MLL 1558640006.123 run_stop: {"value": ..., "metadata": {...}}`;
v0.5: `:::MLPv0.5.0 resnet 1541635596.123 (file.py:12) run_stop: {"success": true}`. Times are seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from benchmark.mllog import MAX_LINE_BYTES, STATUS, SUBMISSION_BENCHMARK, BadLine, Event

_V06 = re.compile(rb":::MLL ([\d.]+) (\w+) ?:\s+(.+)$")
_V05 = re.compile(rb":::MLP(?:v[\d.]+)? (\w+) ([\d.]+) \(.*?\) (\w+)(?::\s*(.*))?$")


def read_lines(file: BinaryIO) -> Iterator[Event | BadLine]:
    """The events of an open log of round 0.5 or 0.6, converted to the current form."""
    number = 0
    benchmark_logged = False
    while raw := file.readline(MAX_LINE_BYTES):
        number += 1
        if b":::ML" not in raw:
            continue
        raw = raw.rstrip()
        try:
            if match := _V06.search(raw):
                body = orjson.loads(match[3])
                value, metadata = (body.get("value"), body.get("metadata")) if isinstance(body, dict) else (body, None)
                yield _event(match[2], value, metadata, match[1], number)
            elif match := _V05.search(raw):
                value = orjson.loads(match[4]) if match[4] else None
                if not benchmark_logged:
                    benchmark_logged = True
                    yield _event(SUBMISSION_BENCHMARK.encode(), match[1].decode(), None, match[2], number)
                yield _event(match[3], *_v05_value(match[3], value), match[2], number)
        except (orjson.JSONDecodeError, ValueError) as error:
            yield BadLine(number, f"not a line of round 0.5 or 0.6 ({error})", raw[:200].decode("utf-8", "replace"))


def _event(key: bytes, value: Any, metadata: Any, seconds: bytes, number: int) -> Event:
    fields = metadata if isinstance(metadata, dict) else {}
    return Event(key.decode(), value, fields, float(seconds) * 1000, "", "", number)


def _v05_value(key: bytes, value: Any) -> tuple[Any, dict[str, Any]]:
    """Split a value of round 0.5, which included what is now metadata."""
    if not isinstance(value, dict):
        return value, {}
    metadata = dict(value)
    if key == b"run_stop" and "success" in value:
        metadata[STATUS] = "success" if value["success"] else "aborted"
    if "epoch" in value:
        metadata["epoch_num"] = value["epoch"]
    return value.get("value"), metadata
