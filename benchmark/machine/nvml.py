"""NVML, NVIDIA's management library: the GPUs of this machine and their current readings. The only module that
imports pynvml.

`readings` lists what is read. Any call can fail alone (not supported on this GPU, hidden by a container or by MIG):
its value is None, and the others are not affected. Call names and units: the NVML API reference, as bound by
nvidia-ml-py (pynvml). Versions of pynvml differ in their names: a missing name is treated like a value that the GPU
does not support. GPUs are identified by UUID: CUDA's order and NVML's differ.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml

from benchmark.telemetry.readings import GPU_READINGS, Reading

GPM_MIN_INTERVAL_S = 0.1
"""Two samples of the GPU performance monitors must be further apart than this (NVML's rule)."""


class _MissingName(Exception):
    """This version of pynvml lacks a name."""


class _Names:
    """pynvml's names, looked up on use. A name that this version lacks raises _MissingName, like a call that failed."""

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(pynvml, name)
        except AttributeError:
            raise _MissingName(f"pynvml has no {name}") from None


_nv = _Names()


def _known(*names: str) -> list[Any]:
    """The values of the names that this version of pynvml has."""
    return [getattr(pynvml, name) for name in names if hasattr(pynvml, name)]


_FAILURES: tuple[type[Exception], ...] = (
    _MissingName,
    *(_known("NVMLError") or [Exception]),
    *_known("NVMLLibraryMismatchError"),
)
"""The exceptions of a failed call; the last one if the driver lacks the version of a function that pynvml calls."""
_NEVER = _known(
    "NVML_ERROR_NOT_SUPPORTED",
    "NVML_ERROR_FUNCTION_NOT_FOUND",
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH",
    "NVML_ERROR_INVALID_ARGUMENT",
    "NVML_ERROR_NO_PERMISSION",
)
"""Errors that a retry will not change: the call is not made again."""
_LOST = _known("NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_RESET_REQUIRED", "NVML_ERROR_GPU_NOT_FOUND")
"""Errors after which a GPU does not respond until it, or the machine, is reset."""


class NvmlUnavailable(Exception):
    """NVML, or a GPU, cannot be used.

    The message has the reason, `code` is NVML's error code (None for another error).
    """

    def __init__(self, what: str, error: Exception) -> None:
        super().__init__(f"{what} ({error})")
        self.code: int | None = getattr(error, "value", None)


class GpuLost(Exception):
    """The GPU fell off the bus or needs a reset."""


@dataclass(frozen=True)
class GpuInfo:
    """The static facts about a GPU (or one MIG slice of it); None for what NVML does not report.

    `index` counts from 0 in NVML's order. `mig_parent_uuid` is the whole GPU's UUID where this is a slice of one.
    """

    index: int
    uuid: str | None
    name: str | None
    compute_capability: str | None
    memory_total_bytes: int | None
    memory_bus_bits: int | None
    power_limit_w: float | None
    sm_clock_max_mhz: float | None
    pcie_generation: int | None
    pcie_width: int | None
    nvlink_links: int | None
    nvlink_version: int | None
    mig_enabled: bool | None
    mig_parent_uuid: str | None
    gpm_supported: bool


class Gpu:
    """One GPU, or one MIG slice: its static facts in `info`, its current readings from `read`.

    `lost` becomes True for good when the GPU falls off the bus; from then on every reading is None.
    """

    def __init__(self, handle: Any, index: int, parent: Any = None, parent_uuid: str | None = None) -> None:
        self._handle = handle
        self._unsupported_calls: set[tuple[str, int]] = set()
        self.lost = False
        self._gpm = _Gpm.open(handle, parent)
        self.info = _gpu_info(handle, index, parent_uuid, self._gpm is not None)

    def read(self, now_s: float) -> dict[str, float | None]:
        """Every reading of GPU_READINGS by name; None if it could not be read. `now_s` is monotonic time."""
        nothing: dict[str, float | None] = dict.fromkeys(reading.name for reading in GPU_READINGS)
        if self.lost:
            return nothing
        try:
            asked = [reading for reading in GPU_READINGS if self._gpm is None or reading.gpm is None]
            values = nothing | {reading.name: self._read_one(reading) for reading in asked}
            if self._gpm is not None:
                values |= self._gpm.read(now_s)
        except GpuLost:
            # Readings just before the loss are dropped too: a row is either complete or marked as lost.
            self.lost = True
            return nothing
        return values

    def _read_one(self, reading: Reading) -> float | None:
        for place, call in enumerate(reading.calls):
            if (reading.name, place) in self._unsupported_calls:
                continue
            try:
                return call(_nv, self._handle) / reading.divisor
            except _FAILURES as error:
                _raise_if_lost(error)
                if getattr(error, "value", None) in _NEVER:
                    self._unsupported_calls.add((reading.name, place))
        return None

    def process_ids(self) -> list[int] | None:
        """The ids of the processes that compute on this GPU, from the driver; None if it does not report them.

        In a container with its own process ids, a driver may list other ids, or none.
        """
        listed = _ask(lambda: _nv.nvmlDeviceGetComputeRunningProcesses(self._handle))
        if listed is None:
            # The plain name is the newest version of the call in this pynvml, which an older driver lacks.
            listed = _ask(lambda: _nv.nvmlDeviceGetComputeRunningProcesses_v2(self._handle))
        return None if listed is None else [process.pid for process in listed]

    def close(self) -> None:
        """Release the GPU performance monitors."""
        if self._gpm is not None:
            self._gpm.close()


class _Gpm:
    """The GPU performance monitors (GPM) of Hopper and newer: means over the time since the previous sample."""

    def __init__(self, take_sample: Callable[[Any], object]) -> None:
        self._take_sample = take_sample
        self._readings = [(number, each) for each in GPU_READINGS if each.gpm for number in _known(each.gpm)]
        self._query = _nv.c_nvmlGpmMetricsGet_t()
        self._query.version = _nv.NVML_GPM_METRICS_GET_VERSION
        self._before, self._after = _nv.nvmlGpmSampleAlloc(), _nv.nvmlGpmSampleAlloc()
        self._before_s: float | None = None

    @classmethod
    def open(cls, handle: Any, parent: Any) -> _Gpm | None:
        """The monitors of a GPU, or of the slice `handle` of the GPU `parent`; None if the GPU has none."""
        try:
            if not _nv.nvmlGpmQueryDeviceSupport(parent or handle).isSupportedDevice:
                return None
            if parent is None:
                return cls(lambda sample: _nv.nvmlGpmSampleGet(handle, sample))
            instance = _nv.nvmlDeviceGetGpuInstanceId(handle)
            return cls(lambda sample: _nv.nvmlGpmMigSampleGet(parent, instance, sample))
        except _FAILURES:
            return None

    def read(self, now_s: float) -> dict[str, float]:
        """The metrics since the previous sample; empty at first, and if the samples are too close together."""
        if self._before_s is not None and now_s - self._before_s <= GPM_MIN_INTERVAL_S:
            return {}
        try:
            self._take_sample(self._after)
            values = {} if self._before_s is None else self._metrics()
        except _FAILURES as error:
            _raise_if_lost(error)
            self._before_s = None
            return {}
        self._before, self._after, self._before_s = self._after, self._before, now_s
        return values

    def _metrics(self) -> dict[str, float]:
        query = self._query
        query.numMetrics = len(self._readings)
        query.sample1, query.sample2 = self._before, self._after
        for place, (number, _) in enumerate(self._readings):
            query.metrics[place].metricId = number
        _nv.nvmlGpmMetricsGet(query)
        values = {}
        for place, (_, reading) in enumerate(self._readings):
            metric = query.metrics[place]
            # A GPU without a metric returns an error, or NaN.
            if metric.nvmlReturn == _nv.NVML_SUCCESS and metric.value == metric.value:
                values[reading.name] = metric.value / reading.gpm_divisor
        return values

    def close(self) -> None:
        for sample in (self._before, self._after):
            _ask(lambda each: _nv.nvmlGpmSampleFree(each), sample)


class Nvml:
    """NVML, opened: `gpus` in NVML's order (whole GPUs, each followed by its MIG slices), and the versions.

    Use as a context manager, or call `close`. Raises NvmlUnavailable without a driver or its library.
    """

    def __init__(self) -> None:
        try:
            _nv.nvmlInit()
        except _FAILURES as error:
            raise NvmlUnavailable("NVML cannot be used", error) from None
        self.driver_version: str | None = _ask(lambda: _nv.nvmlSystemGetDriverVersion())
        self.nvml_version: str | None = _ask(lambda: _nv.nvmlSystemGetNVMLVersion())
        cuda = _ask(lambda: _nv.nvmlSystemGetCudaDriverVersion_v2())
        self.cuda_driver_version: str | None = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None
        self.notices: list[NvmlUnavailable] = []
        self.gpus: list[Gpu] = []
        for index in range(_ask(lambda: _nv.nvmlDeviceGetCount()) or 0):
            try:
                handle = _nv.nvmlDeviceGetHandleByIndex(index)
                gpu = Gpu(handle, index)
                self.gpus += [gpu, *_mig_slices(handle, gpu)]
            except _FAILURES as error:
                self.notices.append(NvmlUnavailable(f"GPU {index} cannot be opened", error))
        self._lock = threading.Lock()
        self._open = True

    def __enter__(self) -> Nvml:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def gpu(self, uuid: str) -> Gpu | None:
        """The GPU with this UUID, with or without the prefix `GPU-` or `MIG-`; None if there is none."""
        wanted = plain_uuid(uuid)
        return next((gpu for gpu in self.gpus if gpu.info.uuid and plain_uuid(gpu.info.uuid) == wanted), None)

    def close(self) -> None:
        """Shut NVML down; a second call does nothing."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        for gpu in self.gpus:
            gpu.close()
        _ask(lambda: _nv.nvmlShutdown())


def plain_uuid(uuid: str) -> str:
    """A UUID without NVML's prefix and in lower case, as torch writes it; NVML writes `GPU-...`."""
    return uuid.lower().removeprefix("gpu-").removeprefix("mig-")


def _ask(call: Callable[..., Any], *arguments: object) -> Any:
    """The result of the call, or None if it fails. The call itself looks up pynvml's names, which may be missing."""
    try:
        answer = call(*arguments)
    except _FAILURES:
        return None
    # Older versions of pynvml (such as 11.495) return bytes for text.
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer


def _raise_if_lost(error: Exception) -> None:
    if getattr(error, "value", None) in _LOST:
        raise GpuLost(str(error)) from None


def _mig_slices(handle: Any, gpu: Gpu) -> list[Gpu]:
    if not gpu.info.mig_enabled:
        return []
    slices = []
    for place in range(_ask(lambda: _nv.nvmlDeviceGetMaxMigDeviceCount(handle)) or 0):
        slice_handle = _ask(lambda each: _nv.nvmlDeviceGetMigDeviceHandleByIndex(handle, each), place)
        if slice_handle is not None:
            slices.append(Gpu(slice_handle, gpu.info.index, handle, gpu.info.uuid))
    return slices


def _gpu_info(handle: Any, index: int, parent_uuid: str | None, gpm_supported: bool) -> GpuInfo:
    capability = _ask(lambda: _nv.nvmlDeviceGetCudaComputeCapability(handle))
    memory = _ask(lambda: _nv.nvmlDeviceGetMemoryInfo(handle))
    limit_mw = _ask(lambda: _nv.nvmlDeviceGetEnforcedPowerLimit(handle))
    mig = _ask(lambda: _nv.nvmlDeviceGetMigMode(handle))
    active = [
        link
        for link in range(_ask(lambda: _nv.NVML_NVLINK_MAX_LINKS) or 0)
        if _ask(lambda each: _nv.nvmlDeviceGetNvLinkState(handle, each) == _nv.NVML_FEATURE_ENABLED, link)
    ]
    return GpuInfo(
        index=index,
        uuid=_ask(lambda: _nv.nvmlDeviceGetUUID(handle)),
        name=_ask(lambda: _nv.nvmlDeviceGetName(handle)),
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        memory_total_bytes=memory.total if memory else None,
        memory_bus_bits=_ask(lambda: _nv.nvmlDeviceGetMemoryBusWidth(handle)),
        power_limit_w=limit_mw / 1e3 if limit_mw is not None else None,
        sm_clock_max_mhz=_ask(lambda: _nv.nvmlDeviceGetMaxClockInfo(handle, _nv.NVML_CLOCK_SM)),
        pcie_generation=_ask(lambda: _nv.nvmlDeviceGetMaxPcieLinkGeneration(handle)),
        pcie_width=_ask(lambda: _nv.nvmlDeviceGetMaxPcieLinkWidth(handle)),
        nvlink_links=len(active) or None,
        nvlink_version=_ask(lambda: _nv.nvmlDeviceGetNvLinkVersion(handle, active[0])) if active else None,
        mig_enabled=bool(mig[0]) if mig else None,
        mig_parent_uuid=parent_uuid,
        gpm_supported=gpm_supported,
    )
