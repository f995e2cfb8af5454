"""Hardware figures of a run from its telemetry summary and record, and readers for unvalidated values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from common.values import is_text, parse_number

MIN_COVERAGE = 0.98
"""Fraction of a run that telemetry must cover for its energy to be the run's."""


@dataclass(frozen=True, slots=True)
class Measures:
    """One run's hardware figures over the timed region.

    Percentages are means over time and over the GPUs used; power and energy are sums over the GPUs used; peak memory
    is that of the GPU with the highest use, or of the trainer on a CPU.
    """

    gpu_utilization_pct: float | None = None
    sm_active_pct: float | None = None
    tensor_active_pct: float | None = None
    cpu_pct: float | None = None
    peak_memory_bytes: float | None = None
    power_w: float | None = None
    energy_kwh: float | None = None


def count(value: object) -> int | None:
    """The non-negative whole number that a value is or spells (`8`, "8 ", "8.0", "82,944"), else None."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,3}(,[0-9]{3})+\s*", value):
        value = value.replace(",", "")
    found = parse_number(value)
    # No machine has more of anything; larger numbers are mistakes.
    return int(found) if found is not None and 0 <= found < 2**31 and found == int(found) else None


def text(value: object) -> str | None:
    """`value` if it is a non-empty text, else None."""
    return value.strip() if is_text(value) else None


def described(value: object) -> str | None:
    """`value` if it is a text that says something: not `N/A`."""
    found = text(value)
    return None if found in ("N/A", "NA", "-") else found


def utc_text(time_ms: float | None, form: str) -> str | None:
    """Milliseconds since the Unix epoch as a date and time in the `form` of strftime; None if unknown or no date."""
    if time_ms is None:
        return None
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return None


def measures_of(telemetry: object, peak_memory_bytes: float | None, run_s: float | None = None) -> Measures:
    """Read a telemetry summary; values that are missing or of an unexpected type are None.

    `peak_memory_bytes` is the trainer's, used if no GPU was. Energy is only given if the summary covers the whole run
    of `run_s` seconds, which that of a resumed run does not.
    """
    summary = telemetry if isinstance(telemetry, dict) else {}
    listed = summary.get("gpus")
    gpus = [gpu for gpu in listed if isinstance(gpu, dict) and gpu.get("used")] if isinstance(listed, list) else []
    trainer = summary.get("trainer")
    region_s = parse_number(summary.get("region_s"))
    whole = run_s is None or region_s is None or region_s >= MIN_COVERAGE * run_s
    energies = [parse_number(gpu.get("energy_j")) if whole else None for gpu in gpus]
    memory = [parse_number(_part(gpu, "memory_used_bytes", "max")) for gpu in gpus]
    peak = max((value for value in memory if value is not None), default=None)
    if peak is None and not gpus:
        peak = peak_memory_bytes or parse_number(_part(trainer, "rss_bytes", "max"))
    return Measures(
        gpu_utilization_pct=_mean_over(gpus, "utilization_pct"),
        sm_active_pct=_mean_over(gpus, "sm_active_pct"),
        tensor_active_pct=_mean_over(gpus, "tensor_active_pct"),
        cpu_pct=parse_number(_part(summary, "host", "cpu_pct", "mean")),
        peak_memory_bytes=peak,
        power_w=_total([parse_number(_part(gpu, "power_w", "mean")) for gpu in gpus]),
        energy_kwh=None if (joules := _total(energies)) is None else joules / 3.6e6,
    )


def mean(values: list[float | None]) -> float | None:
    """Mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _part(tree: object, *keys: str) -> object:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _mean_over(gpus: list[dict[str, Any]], key: str) -> float | None:
    return mean([parse_number(_part(gpu, key, "mean")) for gpu in gpus])


def _total(values: list[float | None]) -> float | None:
    """The sum, or None if a part is unknown: a sum over some of the GPUs would be too low."""
    return sum(value for value in values if value is not None) if values and None not in values else None
