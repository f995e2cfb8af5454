"""A system description, as MLPerf's system_desc_checker checks it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmark.machine.system import FIELDS
from benchmark.rounds.round_names import TRAINING
from benchmark.submission import AVAILABILITY
from compliance.findings import Fault, shown
from compliance.mlperf.official_logs import RuleSet

_TEXTS = (
    "submitter",
    "system_name",
    "host_processor_model_name",
    "host_processor_core_count",
    "accelerator_model_name",
    "accelerators_per_node",
    "framework",
)
"""Fields that system_desc_checker joins into one row: it stops with a traceback on anything but text."""


def system_faults(path: Path, rules: RuleSet) -> Iterator[Fault]:
    """The faults of a description: missing fields, values that are not text where the checker wants it, the status.

    Numbers for text elsewhere are accepted, as MLPerf's checker does.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield Fault(
            "the system's description",
            "no such file",
            f"write {path.name} (docs: MLPerf's submission rules)",
            file=path,
        )
        return
    except (OSError, ValueError, RecursionError) as error:
        yield Fault("the system's description, in JSON", str(error), "correct the file", file=path)
        return
    if not isinstance(tree, dict):
        yield Fault("a JSON object with the system's description", shown(tree), "correct the file", file=path)
        return
    # Before round 1.0, package_checker reads only the division.
    early = (rules.name or "").startswith("0.")
    yield from _missing(tree, ("division",) if early else FIELDS, path)
    yield from _not_text(tree, () if early else _TEXTS, path)
    statuses = list(AVAILABILITY.values())
    major = int((rules.name or "0").split(".")[0])
    if rules.usage == TRAINING and major >= 4 and "status" in tree and tree["status"] not in statuses:
        remedy = f"write one of: {'; '.join(statuses)}"
        yield Fault(
            "an availability of MLPerf", shown(tree["status"]), remedy, line_of_field(path, "status"), file=path
        )


def _missing(tree: dict[str, Any], names: Iterable[str], path: Path) -> Iterator[Fault]:
    for name in names:
        if name not in tree:
            yield Fault(f"the field {name}", "missing", "add it; N/A where it does not apply", file=path)


def _not_text(tree: dict[str, Any], names: Iterable[str], path: Path) -> Iterator[Fault]:
    for name in names:
        if name in tree and not isinstance(tree[name], str):
            remedy = "write it in quotes: MLPerf's checker stops on anything else in this field"
            yield Fault(f"{name}: text", shown(tree[name]), remedy, line_of_field(path, name), file=path)


def line_of_field(path: Path, name: str) -> int | None:
    """The line of a JSON file that contains a field."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if f'"{name}"' in line:
            return number
    return None
