"""Builds SYSTEM.json from the description detected on the machine, the runs, and the fields given with --describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark import mllog
from benchmark.machine.system import FIELDS, NOT_APPLICABLE, missing
from benchmark.submission import AVAILABILITY, devices_of
from benchmark.yaml_text import read_yaml
from common.errors import UserError
from results.packaging.run_checks import PackagedRun

_FROM_THE_RUNS = {"submitter", "division", "status", "number_of_nodes"}


def read_description(path: Path | None) -> dict[str, Any]:
    """The fields of --describe FILE (YAML, which includes JSON) with their texts as written; {} without a file.

    Raises UserError if the file is missing or invalid, or if a field is unknown, empty or determined by the runs.
    """
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("no such description file", where=path) from None
    except UnicodeDecodeError:
        raise UserError("not a text file in UTF-8", where=path, remedy="save it as UTF-8") from None
    tree, lines = read_yaml(text, path)
    if not isinstance(tree, dict):
        raise UserError("expected `field: text` lines", where=path, remedy=f"fields: {', '.join(FIELDS)}")
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        place = f"{path}:{lines[name]}"
        if name not in FIELDS:
            raise UserError(
                f"{name!r} is not a field of a system description", where=place, remedy=f"{', '.join(FIELDS)}"
            )
        if name in _FROM_THE_RUNS:
            raise UserError(f"{name} is determined by the runs and cannot be set here", where=place)
        if name == "other_software_stack" and isinstance(value, dict):
            fields[name] = {part: _text(part, its, f"{path}:{lines[f'{name}.{part}']}") for part, its in value.items()}
        else:
            fields[name] = _text(name, value, place)
    return fields


def _text(name: str, value: object, place: str) -> str:
    if value is None:
        remedy = 'write a text ("" for an empty one) or remove the line; use quotes if the text is null or ~, or starts with #'
        raise UserError(f"{name} has no text", where=place, remedy=remedy)
    if not isinstance(value, str):
        remedy = f"write `{name}: one, two`; use quotes if the text starts with [ or {{"
        raise UserError(f"{name} must be text, not a {type(value).__name__}", where=place, remedy=remedy)
    return str(value)


def describe_system(run: PackagedRun, org: str, system: str, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The 33 fields of MLPerf's description, and the names of those that are still empty.

    `given` overrides what was detected. Accelerators are those that the run used, not all of the machine's.
    """
    own = {name: run.record.system.get(name) or "" for name in FIELDS}
    status = run.logged.get(mllog.SUBMISSION_STATUS)
    fields = own | _accelerators(run) | given
    fields |= {
        "submitter": org,
        "division": run.record.division,
        "status": AVAILABILITY.get(str(status), str(status)),
        "number_of_nodes": str(run.record.run.nnodes),
    }
    if "system_name" not in given:
        fields["system_name"] = system
    return fields, missing(fields)


def _accelerators(run: PackagedRun) -> dict[str, str]:
    devices, gpus = devices_of(run.logged.get(mllog.ACCELERATORS))
    if not devices:
        return {}
    if not gpus:
        names = [name for name in FIELDS if name.startswith("accelerator")]
        return dict.fromkeys(names, NOT_APPLICABLE) | {"accelerators_per_node": "0"}
    per_node, rest = divmod(len(gpus), run.record.run.nnodes)
    if rest:
        raise UserError(
            f"{len(gpus)} accelerators do not divide evenly over {run.record.run.nnodes} nodes", where=run.folder
        )
    return {"accelerators_per_node": str(per_node), "accelerator_model_name": str(gpus[0].get("name") or "")}
