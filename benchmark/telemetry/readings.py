"""The telemetry readings of a GPU, of the host and of the trainer: one table each, one entry per reading.

The columns of telemetry.csv, the running sums and the figures of the summary follow from these tables. This module
does not import pynvml: `nvml`, the only module that does, passes pynvml's names to the calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["gauge", "mean", "counter", "flags"]
"""How a reading is integrated between two samples, and its figure in the summary.

`gauge`: an instantaneous value (trapezoidal rule); mean and peak. `mean`: the source's own mean since the previous
sample (rectangle rule); mean and peak. `counter`: counts up, only differences matter; its increase. `flags`: bits
with names, assumed to be set since the previous sample; each name's share of the time.
"""

Call = Callable[[Any, Any], float]
"""A call to NVML: takes the namespace of pynvml's names and a device handle; returns the value in NVML's unit."""


@dataclass(frozen=True)
class Reading:
    """One sampled value. `name` includes its unit and is the column in telemetry.csv.

    `calls` are the NVML calls, best first; a call's result divided by `divisor` is in the name's unit. `gpm` is
    NVML's name of a metric of the performance monitors, its value divided by `gpm_divisor` in the name's unit: it
    replaces `calls` on a GPU with monitors. Readings of the host and the trainer have neither:
    `benchmark.telemetry.host` reads them. `flags` names the bits of a reading of that kind. `increase` is a counter's
    name in the summary if it is not `name`. `whole`: a count, so the summary has whole numbers, and only the peak of
    a gauge.
    """

    name: str
    kind: Kind
    calls: tuple[Call, ...] = ()
    divisor: float = 1.0
    gpm: str | None = None
    gpm_divisor: float = 1.0
    flags: dict[int, str] = field(default_factory=dict)
    increase: str | None = None
    whole: bool = False

    @property
    def summary_name(self) -> str:
        """Its name in the summary."""
        return self.increase or self.name

    def flag_names(self, bits: float | None) -> list[str] | None:
        """The names of the flags that are set in `bits`; None if the bits could not be read."""
        return None if bits is None else [name for bit, name in self.flags.items() if int(bits) & bit]


def _field(name: str) -> Call:
    """A call for one of NVML's numbered fields, whose values carry their type."""

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
"""The reasons that limit a GPU's clocks: NVML's bits and our names for them."""

GPU_READINGS: tuple[Reading, ...] = (
    # The share of time with at least one kernel running: one busy SM can read 100 %. GPM below measures the SMs.
    Reading("utilization_pct", "mean", (lambda nv, gpu: nv.nvmlDeviceGetUtilizationRates(gpu).gpu,)),
    Reading(
        "memory_used_bytes",
        "gauge",
        (
            lambda nv, gpu: nv.nvmlDeviceGetMemoryInfo(gpu, version=nv.nvmlMemory_v2).used,
            lambda nv, gpu: nv.nvmlDeviceGetMemoryInfo(gpu).used,
        ),
    ),
    # Field 185 is the mean of the last second, which suits sampling; field 186 is the instantaneous power.
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
        increase="energy_j",
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
    # NVML waits 20 ms in each call for PCIe traffic: used only for GPUs without monitors.
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
        # Drivers before 535 export the older name, which CUDA 14 drops.
        (
            lambda nv, gpu: nv.nvmlDeviceGetCurrentClocksEventReasons(gpu),
            lambda nv, gpu: nv.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
        ),
        flags=EVENT_REASONS,
    ),
)
"""The readings of a GPU, in the order of the CSV's columns and of the summary."""

HOST_READINGS: tuple[Reading, ...] = (
    Reading("cpu_pct", "mean"),
    Reading("memory_used_bytes", "gauge"),
    Reading("disk_read_bytes", "counter", whole=True),
    Reading("disk_write_bytes", "counter", whole=True),
)
"""The readings of the whole machine: CPU in percent of all cores, memory in use, bytes read and written by its
disks."""

TRAINER_READINGS: tuple[Reading, ...] = (
    Reading("cpu_pct", "mean"),
    Reading("rss_bytes", "gauge"),
    Reading("processes", "gauge", whole=True),
)
"""The readings of the trainer's process tree: CPU in percent of one core, memory summed over its processes, their
number."""
