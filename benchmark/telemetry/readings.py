"""What telemetry reads of a GPU, of the host and of the trainer: one table each, one entry a reading.

The columns of telemetry.csv, the running sums and the figures of the summary follow from these tables. Nothing here talks to
NVML: a reading's calls are given pynvml's names by `nvml`, the only gate to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["gauge", "mean", "counter", "flags"]
"""How a reading fills the time between two samples, and what the summary has of it.

`gauge`: read at an instant (trapezoids); its mean and peak. `mean`: the source's own mean over the time since the sample before
(rectangles); its mean and peak. `counter`: counts up, and only differences mean anything; its growth. `flags`: bits with names,
taken to hold since the sample before; for each name its share of the time.
"""

Call = Callable[[Any, Any], float]
"""A question to NVML: takes what pynvml's names are looked up in, and a device handle; returns the value in NVML's unit."""


@dataclass(frozen=True)
class Reading:
    """One value that is sampled. `name` has its unit in it, and is the column in telemetry.csv.

    `calls` are what NVML is asked, best first; each call's answer over `divisor` is in the name's unit. `gpm` is NVML's name of
    a metric of the performance monitors, its value over `gpm_divisor` in the name's unit: a GPU with monitors is asked for that
    and not for `calls`. What the host and the trainer tell has neither: `telemetry_host` reads it.
    `flags` names the bits of a reading of that kind. `growth` is a counter's name in the summary where that is not `name`.
    `whole`: it counts things, so that the summary has whole numbers, of a gauge the peak alone.
    """

    name: str
    kind: Kind
    calls: tuple[Call, ...] = ()
    divisor: float = 1.0
    gpm: str | None = None
    gpm_divisor: float = 1.0
    flags: dict[int, str] = field(default_factory=dict)
    growth: str | None = None
    whole: bool = False

    @property
    def summary_name(self) -> str:
        """What the summary calls it."""
        return self.growth or self.name

    def flag_names(self, bits: float | None) -> list[str] | None:
        """The names of the flags that are set in `bits`; None where the bits could not be read."""
        return None if bits is None else [name for bit, name in self.flags.items() if int(bits) & bit]


def _field(name: str) -> Call:
    """One of NVML's numbered fields, which say themselves of what type they are."""

    def read(nv: Any, gpu: Any) -> float:
        value = nv.nvmlDeviceGetFieldValues(gpu, [getattr(nv, name)])[0]
        if value.nvmlReturn != nv.NVML_SUCCESS:
            raise nv.NVMLError(value.nvmlReturn)
        return {
            nv.NVML_VALUE_TYPE_DOUBLE: value.value.dVal,
            nv.NVML_VALUE_TYPE_UNSIGNED_INT: value.value.uiVal,
        }.get(value.valueType, value.value.ullVal)

    return read


_MIB, _KIB = 1 / 1024**2, 1 / 1024

EVENT_REASONS: dict[int, str] = {
    0x001: "gpu_idle",
    0x002: "application_clocks",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake",
    0x100: "display_clocks",
    0x200: "board_limit",
    0x400: "reliability",
}
"""Why a GPU's clocks are not higher: NVML's bits and our names for them."""

GPU_READINGS: tuple[Reading, ...] = (
    # The share of time with at least one kernel running: one busy SM can read 100 %. GPM below tells the truth.
    Reading("utilization_pct", "mean", (lambda nv, gpu: nv.nvmlDeviceGetUtilizationRates(gpu).gpu,)),
    Reading(
        "memory_used_bytes",
        "gauge",
        (
            lambda nv, gpu: nv.nvmlDeviceGetMemoryInfo(gpu, version=nv.nvmlMemory_v2).used,
            lambda nv, gpu: nv.nvmlDeviceGetMemoryInfo(gpu).used,
        ),
    ),
    # Field 185 is the mean of the last second, which suits sampling; field 186 is the power at this instant.
    Reading(
        "power_w",
        "gauge",
        (_field("NVML_FI_DEV_POWER_AVERAGE"), lambda nv, gpu: nv.nvmlDeviceGetPowerUsage(gpu)),
        divisor=1e3,
    ),
    Reading("power_instant_w", "gauge", (_field("NVML_FI_DEV_POWER_INSTANT"),), divisor=1e3),
    Reading(
        "energy_counter_j",
        "counter",
        (lambda nv, gpu: nv.nvmlDeviceGetTotalEnergyConsumption(gpu),),
        divisor=1e3,
        growth="energy_j",
    ),
    Reading(
        "temperature_c",
        "gauge",
        (
            lambda nv, gpu: nv.nvmlDeviceGetTemperatureV(gpu, nv.NVML_TEMPERATURE_GPU),
            lambda nv, gpu: nv.nvmlDeviceGetTemperature(gpu, nv.NVML_TEMPERATURE_GPU),
        ),
    ),
    Reading("sm_clock_mhz", "gauge", (lambda nv, gpu: nv.nvmlDeviceGetClockInfo(gpu, nv.NVML_CLOCK_SM),)),
    Reading("memory_clock_mhz", "gauge", (lambda nv, gpu: nv.nvmlDeviceGetClockInfo(gpu, nv.NVML_CLOCK_MEM),)),
    Reading("sm_active_pct", "mean", gpm="NVML_GPM_METRIC_SM_UTIL"),
    Reading("sm_occupancy_pct", "mean", gpm="NVML_GPM_METRIC_SM_OCCUPANCY"),
    Reading("tensor_active_pct", "mean", gpm="NVML_GPM_METRIC_ANY_TENSOR_UTIL"),
    Reading("dram_active_pct", "mean", gpm="NVML_GPM_METRIC_DRAM_BW_UTIL"),
    # NVML waits 20 ms in each call for PCIe traffic: good enough for chips without monitors only.
    Reading(
        "pcie_tx_bytes_per_s",
        "mean",
        (lambda nv, gpu: nv.nvmlDeviceGetPcieThroughput(gpu, nv.NVML_PCIE_UTIL_TX_BYTES),),
        divisor=_KIB,
        gpm="NVML_GPM_METRIC_PCIE_TX_PER_SEC",
        gpm_divisor=_MIB,
    ),
    Reading(
        "pcie_rx_bytes_per_s",
        "mean",
        (lambda nv, gpu: nv.nvmlDeviceGetPcieThroughput(gpu, nv.NVML_PCIE_UTIL_RX_BYTES),),
        divisor=_KIB,
        gpm="NVML_GPM_METRIC_PCIE_RX_PER_SEC",
        gpm_divisor=_MIB,
    ),
    Reading(
        "event_reasons",
        "flags",
        # The older name is what drivers before 535 export, and what CUDA 14 drops.
        (
            lambda nv, gpu: nv.nvmlDeviceGetCurrentClocksEventReasons(gpu),
            lambda nv, gpu: nv.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
        ),
        flags=EVENT_REASONS,
    ),
)
"""What a GPU tells. The order is that of the CSV's columns and of the summary."""

HOST_READINGS: tuple[Reading, ...] = (
    Reading("cpu_pct", "mean"),
    Reading("memory_used_bytes", "gauge"),
    Reading("disk_read_bytes", "counter", whole=True),
    Reading("disk_write_bytes", "counter", whole=True),
)
"""What the whole machine tells: CPU in percent of all cores, memory in use, bytes moved by its disks."""

TRAINER_READINGS: tuple[Reading, ...] = (
    Reading("cpu_pct", "mean"),
    Reading("rss_bytes", "gauge"),
    Reading("processes", "gauge", whole=True),
)
"""What the trainer's process tree tells: CPU in percent of one core, memory summed over its processes, their number."""
