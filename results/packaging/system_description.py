"""SYSTEM.json: the machine's own description, made to say what was measured, and what a person adds to it."""

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
    """The fields of --describe FILE (YAML, of which JSON is a part): known names, texts as they stand; {} without a file.

    UserError where it is missing, is none, or names a field that is unknown, empty or not a person's to give.
    """
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("no such description", where=path) from None
    except UnicodeDecodeError:
        raise UserError("not a text file in UTF-8", where=path, remedy="save it as UTF-8") from None
    tree, lines = read_yaml(text, path)
    if not isinstance(tree, dict):
        raise UserError("expected `field: text` lines", where=path, remedy=f"fields: {', '.join(FIELDS)}")
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        place = f"{path}:{lines[name]}"
        if name not in FIELDS:
            raise UserError(f"{name!r} is no field of a system description", where=place, remedy=f"{', '.join(FIELDS)}")
        if name in _FROM_THE_RUNS:
            raise UserError(f"{name} is what the runs say and cannot be given here", where=place)
        if name == "other_software_stack" and isinstance(value, dict):
            fields[name] = {part: _text(part, its, f"{path}:{lines[f'{name}.{part}']}") for part, its in value.items()}
        else:
            fields[name] = _text(name, value, place)
    return fields


def _text(name: str, value: object, place: str) -> str:
    if value is None:
        remedy = 'write one, "" for an empty one, or leave the line out; in quotes if it is null or ~, or begins with #'
        raise UserError(f"{name} has no text", where=place, remedy=remedy)
    if not isinstance(value, str):
        remedy = f"write `{name}: one, two`; in quotes if the text begins with [ or {{"
        raise UserError(f"{name} must be text, not a {type(value).__name__}", where=place, remedy=remedy)
    return str(value)


def describe_system(run: PackagedRun, org: str, system: str, told: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The 33 fields of MLPerf's description, and the names of those that are still empty.

    The machine's own words come first; accelerators are those that the run used, not all that the machine has.
    """
    own = {name: run.record.system.get(name) or "" for name in FIELDS}
    status = run.logged.get(mllog.SUBMISSION_STATUS)
    fields = own | _accelerators(run) | told
    fields |= {
        "submitter": org,
        "division": run.record.division,
        "status": AVAILABILITY.get(str(status), str(status)),
        "number_of_nodes": str(run.record.run.nnodes),
    }
    if "system_name" not in told:
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
