"""Compares the hardware of two sets of runs: a gate is about the code only if both ran on the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results.comparing.identity import KEYS

HARDWARE = ("accelerator", "accelerators", "nodes", "processor", "cores", "processes", "threads")
"""The keys of a configuration that must be the same on both sides for a gate to be about the code."""
_LOGGED_LATER = ("threads",)
"""Logs of earlier versions do not have them, so that an unknown value is no reason to compare nothing."""


def same_hardware(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations are of the same hardware, as far as both say; what only one says is not the same."""
    return not differing(HARDWARE, one, other) and not [
        key for key in HARDWARE if key not in _LOGGED_LATER and _is_known(key, one) != _is_known(key, other)
    ]


def differing(keys: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """In which of the keys both configurations are known to differ: `commit 01234567 -> 89abcdef`."""
    values = [(key, before.get(key), after.get(key)) for key in keys]
    return [f"{KEYS[key]} {one} -> {two}" for key, one, two in values if None not in (one, two) and one != two]


def unknown_hardware(base: Mapping[str, Any], new: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    """What is not known of the hardware: `not known of baseline: host CPU, cores`. `names` are the base's and the new
    one's.
    """
    unknown: dict[tuple[bool, bool], list[str]] = {}
    for key in HARDWARE:
        unknown.setdefault((_is_known(key, base), _is_known(key, new)), []).append(KEYS[key])
    of_whom = {(False, True): names[0], (True, False): names[1], (False, False): "either side"}
    return [f"not known of {name}: {', '.join(unknown[key])}" for key, name in of_whom.items() if key in unknown]


def _is_known(key: str, configuration: Mapping[str, Any]) -> bool:
    """Whether a value is known, or there can be none: a run on a CPU has no accelerator."""
    return configuration.get(key) is not None or (key == "accelerator" and configuration.get("accelerators") == 0)
