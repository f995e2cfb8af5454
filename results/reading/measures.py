"""What a run's telemetry summary and record say of the hardware, and the small readers of values nobody vouches for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.values import is_text, number_or_text

WHOLE_SHARE = 0.98
"""Of a run's time, what telemetry must cover for its energy to be the run's."""


@dataclass(frozen=True, slots=True)
class Measures:
    """One run's hardware figures over the timed region. Percentages are means over time and over the GPUs used; power
    and energy are sums over the GPUs used; peak memory is that of the fullest GPU, or of the trainer on a CPU.
    """

    gpu_utilization_pct: float | None = None
    sm_active_pct: float | None = None
    tensor_active_pct: float | None = None
    cpu_pct: float | None = None
    peak_memory_bytes: float | None = None
    power_w: float | None = None
    energy_kwh: float | None = None


def count(value: object) -> int | None:
    """A whole number that is not negative, else None."""
    found = number_or_text(value)
    return int(found) if found is not None and found >= 0 and found == int(found) else None


def text(value: object) -> str | None:
    """A non-empty text, else None."""
    return value.strip() if is_text(value) else None


def measures_of(telemetry: object, peak_memory_bytes: float | None, run_s: float | None = None) -> Measures:
    """Read a telemetry summary; whatever is missing, or of another type than promised, is None.

    `peak_memory_bytes` is the trainer's, which counts where no GPU was used. Energy is that
    of the whole run of `run_s` seconds: a summary of a part of it (a resumed run) does not tell it.
    """
    summary = telemetry if isinstance(telemetry, dict) else {}
    listed = summary.get("gpus")
    gpus = [gpu for gpu in listed if isinstance(gpu, dict) and gpu.get("used")] if isinstance(listed, list) else []
    trainer = summary.get("trainer")
    region_s = number_or_text(summary.get("region_s"))
    whole = run_s is None or region_s is None or region_s >= WHOLE_SHARE * run_s
    energies = [number_or_text(gpu.get("energy_j")) if whole else None for gpu in gpus]
    memory = [number_or_text(_part(gpu, "memory_used_bytes", "max")) for gpu in gpus]
    peak = max((value for value in memory if value is not None), default=None)
    if peak is None and not gpus:
        peak = peak_memory_bytes or number_or_text(_part(trainer, "rss_bytes", "max"))
    return Measures(
        gpu_utilization_pct=_mean_over(gpus, "utilization_pct"),
        sm_active_pct=_mean_over(gpus, "sm_active_pct"),
        tensor_active_pct=_mean_over(gpus, "tensor_active_pct"),
        cpu_pct=number_or_text(_part(summary, "host", "cpu_pct", "mean")),
        peak_memory_bytes=peak,
        power_w=_total([number_or_text(_part(gpu, "power_w", "mean")) for gpu in gpus]),
        energy_kwh=None if (joules := _total(energies)) is None else joules / 3.6e6,
    )


def mean(values: list[float | None]) -> float | None:
    """Mean of what is known, None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _part(tree: object, *keys: str) -> object:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _mean_over(gpus: list[dict[str, Any]], key: str) -> float | None:
    return mean([number_or_text(_part(gpu, key, "mean")) for gpu in gpus])


def _total(values: list[float | None]) -> float | None:
    """The sum where every part is known: a sum over some of the GPUs would read as too little."""
    return sum(value for value in values if value is not None) if values and None not in values else None
