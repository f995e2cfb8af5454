"""System descriptions of MLPerf trees in one form: `systems/SYSTEM.json`, and round 0.5's `results/SYSTEM/entry.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import orjson

from benchmark.submission import STATUSES
from common.errors import UserError, one_line
from common.values import is_integer, is_text

ENTRY_FILE = "entry.json"
"""The description of a system in round 0.5; it has no field for the submitter."""
_DIVISIONS = {"closed": "closed", "close": "closed", "open": "open"}
_STATUS_WORDS = (
    ("preview", "preview"),
    ("cloud", "cloud"),
    ("prem", "onprem"),
    ("research", "research"),
    ("rdi", "research"),
)
"""Words by which a status is recognised; rounds and submitters spell it in many ways."""


def read_description(path: Path) -> dict[str, Any]:
    """The system description in a file, by the field names of `systems/SYSTEM.json`; errors as in `read_object`."""
    tree = read_object(path)
    return _from_entry(tree) if path.name == ENTRY_FILE else tree


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError if it has none, OSError if it cannot be read."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        tree = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        # MLPerf's tools read what Python's json module reads: NaN too, and halves of surrogate pairs.
        try:
            tree = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError):
            raise UserError(f"not JSON ({one_line(str(error))})", where=path) from None
    if not isinstance(tree, dict):
        raise UserError("expected a JSON object", where=path)
    return tree


def division_of(value: object) -> str | None:
    """`closed` or `open` in any spelling of a description or log; other text as it is, None for no text."""
    return _DIVISIONS.get(value.strip().casefold(), value.strip()) if is_text(value) else None


def status_of(value: object) -> str | None:
    """The submission_status (`onprem`, `cloud`, `preview`, `research`) that a description's or log's status means.

    Other text (`available`, of which the place is unknown) is returned as it is, None for no text.
    """
    if not is_text(value):
        return None
    folded = value.strip().casefold()
    if folded in STATUSES:
        return folded
    return next((status for word, status in _STATUS_WORDS if word in folded), value.strip())


def statuses_differ(described: str | None, logged: str | None) -> bool:
    """Whether two statuses contradict each other; `available` only contradicts what is not available."""
    if described is None or logged is None or described == logged:
        return False
    pair = {described.casefold(), logged.casefold()}
    return not ("available" in pair and pair & {"onprem", "cloud"})


def _from_entry(tree: dict[str, Any]) -> dict[str, Any]:
    """Round 0.5's form: a list of kinds of nodes, each with its number, processor and accelerators."""
    nodes = (
        [node for node in tree.get("nodes") or [] if isinstance(node, dict)]
        if isinstance(tree.get("nodes"), list)
        else []
    )
    first = nodes[0] if nodes else {}
    accelerator, number = first.get("accelerator"), first.get("num_accelerators")
    count = sum(node["num_nodes"] for node in nodes) if all(is_integer(n.get("num_nodes")) for n in nodes) else None
    if count and is_integer(number) and re.search(rf"-{number}\Z", str(accelerator)):
        # A TPU slice is named after all of its cores: tpuv3-512 on 64 hosts.
        number = number / count
    return {
        **tree,
        "system_name": tree.get("hardware"),
        "number_of_nodes": count or None,
        "host_processor_model_name": first.get("cpu"),
        "accelerator_model_name": accelerator,
        "accelerators_per_node": number,
        "operating_system": tree.get("os"),
    }
