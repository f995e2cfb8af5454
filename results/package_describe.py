"""SYSTEM.json: the machine's own description, made to say what was measured, and what a person adds to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark import mllog
from benchmark.system import FIELDS, NOT_APPLICABLE, missing
from datasets.errors import UserError
from results.package_checks import PackagedRun

AVAILABILITY = {
    "onprem": "Available on-premise",
    "cloud": "Available cloud",
    "research": "Research, Development, or Internal (RDI)",
    "preview": "Preview",
}
"""What the log's submission_status is called in a description since MLPerf Training 4.0 (system_desc_checker)."""
_FROM_THE_LOG = {"submitter", "division", "status"}


def read_description(path: Path | None) -> dict[str, Any]:
    """The fields of --describe FILE (YAML, of which JSON is a part): known names, texts; {} without a file.

    UserError where it is missing, is none, or names a field that is unknown or not a person's to give.
    """
    if path is None:
        return {}
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("no such description", where=path) from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"not YAML or JSON ({' '.join(str(error).split())})", where=path) from None
    if not isinstance(tree, dict):
        raise UserError("expected `field: text` lines", where=path, remedy=f"fields: {', '.join(FIELDS)}")
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        if name not in FIELDS:
            raise UserError(f"{name!r} is no field of a system description", where=path, remedy=f"{', '.join(FIELDS)}")
        if name in _FROM_THE_LOG:
            raise UserError(f"{name} is what the logs say and cannot be given here", where=path)
        fields[name] = _checked(name, value, path)
    return fields


def _checked(name: str, value: object, path: Path) -> object:
    if name == "other_software_stack" and isinstance(value, dict):
        return {str(key): str(inner) for key, inner in value.items()}
    if isinstance(value, dict | list) or value is None:
        raise UserError(f"{name} must be text", where=path)
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
    listed = run.logged.get(mllog.ACCELERATORS)
    devices = [device for device in listed if isinstance(device, dict)] if isinstance(listed, list) else []
    gpus = [device for device in devices if not str(device.get("device")).startswith("cpu")]
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
