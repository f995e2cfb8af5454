"""Reduces a run's telemetry.csv to a few hundred points, in constant memory.

Times are minutes since run_start. Quantities of several GPUs are means (utilisation, memory) or sums (power) over the
GPUs that the run used; a run without GPUs has those of the host and the trainer instead.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass

from benchmark.submission import TELEMETRY_FILE, file_of_run
from common.values import parse_number
from results.reading.run_data import Run

BINS = 240
"""Points of a curve."""


@dataclass(frozen=True)
class Quantity:
    """One chart: its name and unit, the device and column it is read from, and whether GPUs are added or averaged."""

    name: str
    unit: str
    device: str
    column: str
    factor: float = 1.0
    total: bool = False
    top: float | None = None


GPU_QUANTITIES = (
    Quantity("GPU utilisation", "%", "gpu", "utilization_pct", top=100),
    Quantity("GPU power", "W", "gpu", "power_w", total=True),
    Quantity("GPU memory", "GB", "gpu", "memory_used_bytes", 1e-9),
)
HOST_QUANTITIES = (
    Quantity("Host CPU utilisation", "%", "host", "cpu_pct", top=100),
    Quantity("Trainer memory", "GB", "trainer", "rss_bytes", 1e-9),
)


def read_curves(run: Run) -> dict[Quantity, list[tuple[float, float]]]:
    """(minutes, value) of each quantity in the run's telemetry; {} if there is none. Problems are added to the run's."""
    path = file_of_run(run.log, TELEMETRY_FILE)
    if path is None or not path.is_file() or run.started_ms is None or not run.minutes:
        return {}
    used = _used_gpus(run)
    quantities = GPU_QUANTITIES if used else HOST_QUANTITIES
    sums: dict[tuple[Quantity, str, int], list[float]] = {}
    try:
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            _accumulate(csv.DictReader(file), run, quantities, used, sums)
    except (OSError, csv.Error) as error:
        run.problems.append(f"{path.name}: cannot be read ({error})")
        return {}
    curves = {quantity: _curve(quantity, sums, run.minutes) for quantity in quantities}
    return {quantity: curve for quantity, curve in curves.items() if curve}


def _used_gpus(run: Run) -> set[str]:
    listed = (run.telemetry or {}).get("gpus")
    gpus = [gpu for gpu in listed if isinstance(gpu, dict)] if isinstance(listed, list) else []
    return {str(gpu.get("uuid")) for gpu in gpus if gpu.get("used")}


def _accumulate(
    rows: Iterable[dict[str, str]],
    run: Run,
    quantities: Iterable[Quantity],
    used: set[str],
    sums: dict[tuple[Quantity, str, int], list[float]],
) -> None:
    assert run.started_ms is not None and run.minutes
    for row in rows:
        time_s, device = parse_number(row.get("time_unix_s")), row.get("device") or ""
        if time_s is None or device == "mark":
            continue
        minute = (time_s - run.started_ms / 1000) / 60
        if not 0 <= minute <= run.minutes:
            continue
        place = min(int(minute / run.minutes * BINS), BINS - 1)
        for quantity in quantities:
            fits = row.get("uuid") in used if quantity.device == "gpu" else device == quantity.device
            value = parse_number(row.get(quantity.column)) if fits else None
            if value is not None:
                cell = sums.setdefault((quantity, device, place), [0.0, 0])
                cell[0] += value
                cell[1] += 1


def _curve(
    quantity: Quantity, sums: dict[tuple[Quantity, str, int], list[float]], minutes: float
) -> list[tuple[float, float]]:
    devices: dict[int, list[float]] = {}
    for (which, _, place), (total, samples) in sums.items():
        if which is quantity:
            devices.setdefault(place, []).append(total / samples * quantity.factor)
    most = max((len(values) for values in devices.values()), default=0)
    # If a GPU gave no reading, a sum over the others would show a drop that did not happen.
    complete = {place: values for place, values in devices.items() if not quantity.total or len(values) == most}
    return [
        ((place + 0.5) / BINS * minutes, sum(values) if quantity.total else sum(values) / len(values))
        for place, values in sorted(complete.items())
    ]
