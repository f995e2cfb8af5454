"""Telemetry: a thread of the harness that samples GPUs, host and trainer once a second, outside the trainer.

Samples go to telemetry.csv as they are taken (one row per sample and device, so that pandas reads any number of GPUs
the same way) and into running sums, from which `summary` is computed. Nothing here ever stops a run: what cannot be
read is missing, and the reason is reported once.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import psutil

from benchmark import clock
from benchmark.machine.nvml import Gpu, Nvml, NvmlUnavailable, plain_uuid
from benchmark.telemetry.csv_file import CsvFile
from benchmark.telemetry.host import Host, ProcessTree, other_processes
from benchmark.telemetry.integrals import GpuSummary, Integrals, Summary, figures, whole
from benchmark.telemetry.readings import GPU_READINGS, HOST_READINGS, TRAINER_READINGS
from common.errors import one_line

STOP_TIMEOUT_S = 10.0
"""Maximum wait for a driver that hangs."""
MARK_AGE_S = 60.0
"""An event whose timestamp is older than this when it arrives was stamped by another clock."""


def _print_on_stderr(text: str) -> None:
    print(f"telemetry: {one_line(text)}", file=sys.stderr, flush=True)


class Telemetry:
    """Samples from `start` to `stop`, every `interval_s` seconds on fixed deadlines.

    Samples are appended to `csv_path` (None: no file). `notify` gets each notice once; `notices` keeps them. Times in
    arguments are Unix seconds, as in the log; internally a monotonic clock is used, so a clock that is set does no
    harm.
    """

    def __init__(
        self, csv_path: Path | None, interval_s: float = 1.0, notify: Callable[[str], None] = _print_on_stderr
    ) -> None:
        if not interval_s > 0:
            raise ValueError("interval_s must be above 0")
        self.interval_s = interval_s
        self.skipped = 0
        self.notices: list[str] = []
        self._notify = notify
        self._csv = CsvFile(csv_path, self._notice) if csv_path else None
        self._nvml: Nvml | None = None
        self._devices: list[_GpuSeries] = []
        self._host, self._host_sums = Host(), Integrals(HOST_READINGS)
        self._tree: ProcessTree | None = None
        self._tree_sums = Integrals(TRAINER_READINGS)
        self._ranks: Counter[str] = Counter()
        self._process_count_requested = False
        self._marks: dict[float, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._start_s = time.monotonic()

    def start(self) -> None:
        """Open NVML, take the first sample and start the thread."""
        try:
            self._nvml = Nvml()
        except NvmlUnavailable as error:
            self._notice(f"no GPU figures, host figures only: {error}")
        else:
            for notice in self._nvml.notices:
                self._notice(str(notice))
            self._devices = [_GpuSeries(gpu, name) for gpu, name in _named(self._nvml.gpus)]
            if not self._devices:
                self._notice("no GPU figures, host figures only: NVML sees no GPU")
        self._start_s = time.monotonic()
        self._sample()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def watch(self, pid: int) -> None:
        """Sample this process and its descendants as the trainer from now on."""
        tree = ProcessTree(pid)
        self._try(lambda: tree.read(time.monotonic()))  # CPU utilization is a difference: this is the first reading
        with self._lock:
            self._tree = tree

    def use(self, uuids: Iterable[str | None]) -> None:
        """Set the GPU of each rank, by UUID as NVML or as torch writes it; None (a CPU) is ignored."""
        with self._lock:
            self._ranks = Counter(plain_uuid(uuid) for uuid in uuids if uuid)

    def request_process_count(self) -> None:
        """Have the next sample count the processes other than the watched ones that compute on each GPU.

        The sampling thread makes the call to the driver, which may never return: the caller must not wait for it.
        """
        with self._lock:
            self._process_count_requested = True

    def mark(self, name: str, time_s: float | None = None) -> None:
        """Mark `name` at `time_s` (Unix seconds; None: now) in the file, and as an exact edge for `summary`."""
        wall_s = clock.now_s() if time_s is None else time_s
        with self._lock:
            monotonic_s, now_s = self._monotonic(wall_s), time.monotonic()
            if not max(self._start_s, now_s - MARK_AGE_S) <= monotonic_s <= now_s:
                # The trainer's own clock, set during the run: use the time at which the mark arrived.
                monotonic_s = now_s
            self._marks[wall_s] = monotonic_s
            for sums in self._all_sums():
                sums.mark(monotonic_s)
            self._write([self._row(wall_s, monotonic_s, "mark", None, mark=name)])

    def stop(self) -> None:
        """Take a last sample and stop; a second call does nothing."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            self._notice(f"a reading still hangs after {STOP_TIMEOUT_S:g} s and is abandoned")
        else:
            if self._nvml is not None:
                self._nvml.close()
            if self._csv:
                self._csv.close()
        self._thread = None

    def __enter__(self) -> Telemetry:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def summary(self, from_s: float, to_s: float) -> Summary:
        """The summary between two times (Unix seconds), best after `stop`, whose last sample closes the region.

        Times that were passed to `mark` are matched exactly; others are converted by the current clock.
        """
        with self._lock:
            start_s, end_s = (self._marks.get(time_s, self._monotonic(time_s)) for time_s in (from_s, to_s))
            region_s = max(0.0, end_s - start_s)
            host_totals, samples = self._host_sums.over(start_s, end_s)
            tree_totals, _ = self._tree_sums.over(start_s, end_s)
            return Summary(
                interval_s=self.interval_s,
                samples=samples,
                skipped=self.skipped,
                region_s=region_s,
                gpus=tuple(self._gpu_summary(device, start_s, end_s) for device in self._devices),
                host=figures(HOST_READINGS, host_totals, region_s, self.interval_s),
                trainer=figures(TRAINER_READINGS, tree_totals, region_s, self.interval_s),
                notices=tuple(self.notices),
            )

    def _gpu_summary(self, device: _GpuSeries, start_s: float, end_s: float) -> GpuSummary:
        info, (totals, _) = device.gpu.info, device.sums.over(start_s, end_s)
        region_s = max(0.0, end_s - start_s)
        readings = figures(GPU_READINGS, totals, region_s, self.interval_s)
        source: Literal["counter", "integrated_power"] = "counter"
        # The counter misses nothing between samples; without a counter, power is integrated instead.
        if not totals["energy_counter_j"].known_s > 0:
            source = "integrated_power"
            readings["energy_j"] = whole(totals["power_w"], region_s, self.interval_s)
        lost = device.lost_s is not None and device.lost_s <= end_s
        return GpuSummary(
            index=info.index,
            uuid=info.uuid,
            name=info.name,
            used=self._ranks_on(device) > 0,
            other_processes=device.others,
            readings=readings,
            memory_total_bytes=info.memory_total_bytes,
            power_limit_w=info.power_limit_w,
            energy_source=None if readings["energy_j"] is None else source,
            lost_at_s=(device.lost_s or 0.0) - start_s if lost else None,
        )

    def _run(self) -> None:
        deadline_s = self._start_s + self.interval_s
        try:
            while not self._stop.wait(max(0.0, deadline_s - time.monotonic())):
                self._sample()
                # Deadlines are on a fixed grid, so errors do not add up; those that have passed are skipped.
                late = int((time.monotonic() - deadline_s) / self.interval_s)
                self.skipped += late
                deadline_s += (late + 1) * self.interval_s
            self._sample()
        except Exception as error:
            # A bug here must cost the run its telemetry, not its result, and must be visible.
            self._notice(f"sampling ended early by {type(error).__name__}: {error}")

    def _sample(self) -> None:
        now_s, wall_s = time.monotonic(), clock.now_s()
        host = self._try(self._host.read)
        with self._lock:
            tree_of, requested, self._process_count_requested = self._tree, self._process_count_requested, False
        tree = self._try(lambda: tree_of.read(time.monotonic())) if tree_of else {}
        readings = [(device, time.monotonic(), device.gpu.read(time.monotonic())) for device in self._devices]
        if requested:
            self._count_others(tree_of)
        rows = [self._row(wall_s, now_s, "host", None, **host)]
        if tree_of:
            rows.append(self._row(wall_s, now_s, "trainer", None, **tree))
        with self._lock:
            self._host_sums.add(now_s, host)
            self._tree_sums.add(now_s, tree)
            for device, read_s, values in readings:
                device.sums.add(read_s, values)
                if device.gpu.lost and device.lost_s is None:
                    device.lost_s = read_s
                    self._notice(
                        f"{device.name} ({device.gpu.info.uuid}) was lost {read_s - self._start_s:.1f} s after start"
                    )
                rows.append(self._row(wall_s, read_s, device.name, device.gpu.info.uuid, **_with_flag_names(values)))
            self._write(rows)

    def _count_others(self, tree: ProcessTree | None) -> None:
        listed = [device.gpu.process_ids() for device in self._devices]
        # The run's own processes are read after the driver's list: a run that has ended by then may be missing from
        # the list.
        own = tree.process_ids() if tree else None
        if own is None:
            return
        with self._lock:
            counts = [
                (device, other_processes(pids, own, self._ranks_on(device)))
                for device, pids in zip(self._devices, listed, strict=True)
            ]
            # A driver that hides the run's own processes may hide all others too: then no GPU's list is valid.
            if any(count is not None and self._ranks_on(device) for device, count in counts):
                for device, count in counts:
                    device.others = count

    def _ranks_on(self, device: _GpuSeries) -> int:
        uuid = device.gpu.info.uuid
        return self._ranks[plain_uuid(uuid)] if uuid else 0

    def _try(self, read: Callable[[], dict[str, float | None]]) -> dict[str, float | None]:
        try:
            return read()
        except (OSError, psutil.Error) as error:
            self._notice(f"some host figures are missing ({error})")
            return {}

    def _row(
        self, wall_s: float, monotonic_s: float, device: str, uuid: str | None, **values: object
    ) -> dict[str, object]:
        start = {"time_unix_s": round(wall_s, 3), "elapsed_s": round(monotonic_s - self._start_s, 3), "device": device}
        rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}
        return start | {"uuid": uuid} | rounded

    def _write(self, rows: list[dict[str, object]]) -> None:
        if self._csv:
            self._csv.write(rows)

    def _all_sums(self) -> list[Integrals]:
        return [self._host_sums, self._tree_sums, *(device.sums for device in self._devices)]

    def _monotonic(self, wall_s: float) -> float:
        age_s = clock.now_s() - wall_s
        return time.monotonic() - age_s

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)
            self._notify(text)


class _GpuSeries:
    """One GPU: its name in the file, its running sums, the time of its loss, the number of other processes on it."""

    def __init__(self, gpu: Gpu, name: str) -> None:
        self.gpu, self.name = gpu, name
        self.sums = Integrals(GPU_READINGS)
        self.lost_s: float | None = None
        self.others: int | None = None


def _with_flag_names(values: dict[str, float | None]) -> dict[str, object]:
    """A GPU's readings for the file: flags by their names."""
    names = {each.name: each.flag_names(values[each.name]) for each in GPU_READINGS if each.kind == "flags"}
    return values | {name: None if flags is None else "|".join(flags) for name, flags in names.items()}


def _named(gpus: list[Gpu]) -> list[tuple[Gpu, str]]:
    """Each GPU with its name: gpu0, gpu1; the MIG slices of gpu0 are gpu0.0, gpu0.1."""
    named = []
    slices: dict[int, int] = {}
    for gpu in gpus:
        name = f"gpu{gpu.info.index}"
        if gpu.info.mig_parent_uuid is not None:
            place = slices[gpu.info.index] = slices.get(gpu.info.index, -1) + 1
            name += f".{place}"
        named.append((gpu, name))
    return named
