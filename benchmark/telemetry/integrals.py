"""Time integrals of telemetry in bounded memory, and the telemetry summary computed from them.

A run may last a week, so samples are not kept: each device keeps running sums in blocks of time, and adjacent blocks
are merged when there are too many. Blocks that touch a mark (such as the run's start) are not merged, so the summary
of the timed region has the time resolution of the sampling.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmark.telemetry.readings import Kind, Reading

MAX_BLOCKS = 2048
MAX_MARKS = 256


@dataclass(frozen=True)
class Totals:
    """One series over a region.

    Its integral (unit x s; for a counter its increase), the seconds for which it is known, its peak.
    """

    integral: float
    known_s: float
    peak: float | None


class Integrals:
    """Running time integrals of readings that are sampled together; see Kind. Times are monotonic seconds.

    A reading is one series with its name; a reading of flags is one series per flag (see `flag_series`), 1 while it
    is set.
    """

    def __init__(self, readings: Sequence[Reading], max_blocks: int = MAX_BLOCKS) -> None:
        self._flagged = [reading for reading in readings if reading.kind == "flags"]
        kinds: dict[str, Kind] = {}
        for reading in readings:
            kinds |= dict.fromkeys(flag_series(reading).values(), "mean") or {reading.name: reading.kind}
        self.names = tuple(kinds)
        self._counter = np.array([kind == "counter" for kind in kinds.values()])
        self._gauge = np.array([kind == "gauge" for kind in kinds.values()])
        self._start_s = np.empty(max_blocks)
        self._end_s = np.empty(max_blocks)
        self._samples = np.empty(max_blocks)
        # (integral, known seconds, peak) x blocks x series; an unknown peak is NaN, inside this class only.
        self._sums = np.empty((3, max_blocks, len(kinds)))
        self._blocks = 0
        self._marks: list[float] = []
        self._last: np.ndarray | None = None
        self._last_s = 0.0
        self._known = np.full(len(kinds), np.nan)
        self._known_s = np.full(len(kinds), np.nan)

    def add(self, time_s: float, values: Mapping[str, float | None]) -> None:
        """Add one sample of all readings at `time_s`; a value that is None or absent was not measured."""
        values = dict(values)
        for reading in self._flagged:
            flags = reading.flag_names(values.get(reading.name))
            values |= {
                series: None if flags is None else flag in flags for flag, series in flag_series(reading).items()
            }
        now = np.array([np.nan if (value := values.get(name)) is None else value for name in self.names], float)
        if self._last is not None and time_s > self._last_s:
            self._add_block(time_s, now)
        self._last, self._last_s = now, time_s
        measured = ~np.isnan(now)
        self._known = np.where(measured, now, self._known)
        self._known_s = np.where(measured, time_s, self._known_s)

    def mark(self, time_s: float) -> None:
        """Keep full time resolution around `time_s`."""
        if len(self._marks) < MAX_MARKS:
            self._marks.append(time_s)

    def _add_block(self, time_s: float, now: np.ndarray) -> None:
        if self._blocks == len(self._start_s):
            self._merge_blocks()
        assert self._last is not None
        seconds = time_s - self._last_s
        before = np.where(self._gauge & ~np.isnan(self._last), self._last, now)
        integral = (now + before) / 2 * seconds
        known_s = np.where(np.isnan(now), 0.0, seconds)
        # A counter that could not be read for a while catches up; one that decreases was reset, and that interval is
        # unknown.
        increase = now - self._known
        valid = increase >= 0
        integral = np.where(self._counter, np.where(valid, increase, np.nan), integral)
        known_s = np.where(self._counter, np.where(valid, time_s - self._known_s, 0.0), known_s)
        block = self._blocks
        self._start_s[block], self._end_s[block], self._samples[block] = self._last_s, time_s, 1
        self._sums[:, block] = np.nan_to_num(integral), known_s, np.where(self._counter, np.nan, now)
        self._blocks += 1

    def _merge_blocks(self) -> None:
        kept = 0
        block = 0
        while block < self._blocks:
            pair = block + 1 < self._blocks and not any(
                self._start_s[block] <= mark <= self._end_s[block + 1] for mark in self._marks
            )
            last = block + 1 if pair else block
            self._start_s[kept], self._end_s[kept] = self._start_s[block], self._end_s[last]
            self._samples[kept] = self._samples[block : last + 1].sum()
            self._sums[:2, kept] = self._sums[:2, block : last + 1].sum(axis=1)
            self._sums[2, kept] = np.fmax(self._sums[2, block], self._sums[2, last])
            kept += 1
            block = last + 1
        self._blocks = kept

    def over(self, from_s: float, to_s: float) -> tuple[dict[str, Totals], int]:
        """Each series' totals between two times, and the number of samples there.

        A block that is partly in the region counts with that share, so a counter is interpolated linearly.
        """
        start_s, end_s = self._start_s[: self._blocks], self._end_s[: self._blocks]
        share = np.clip(np.minimum(end_s, to_s) - np.maximum(start_s, from_s), 0, None) / (end_s - start_s)
        # A block's peak was read at its end, so a block that ends after the region has its peak outside the region.
        inside = (share > 0) & (end_s <= to_s)
        peaks = self._sums[2, : self._blocks][inside if inside.any() else share > 0]
        peak = functools.reduce(np.fmax, peaks) if len(peaks) else np.full(len(self.names), np.nan)
        integral, known_s = (share[:, None] * self._sums[:2, : self._blocks]).sum(axis=1)
        totals = {
            name: Totals(float(integral[i]), float(known_s[i]), None if np.isnan(peak[i]) else float(peak[i]))
            for i, name in enumerate(self.names)
        }
        return totals, round(float((share * self._samples[: self._blocks])[inside].sum()))


@dataclass(frozen=True)
class Stat:
    """The time-weighted mean and the peak of one series, in the series' unit."""

    mean: float
    max: float


@dataclass(frozen=True)
class Peak:
    """The peak of a count."""

    max: int


Figure = Stat | Peak | float | dict[str, float] | None
"""The summary of one reading: the Stat of a gauge or a mean (the Peak of a count), the increase of a counter, for
flags the share of the time (0..1) of each flag that was ever set; None if not measured."""


@dataclass(frozen=True)
class GpuSummary:
    """One GPU over the region; None for what was not measured.

    `used`: whether the run used this GPU. `other_processes`: the number of other processes that computed on it when
    the clock started. `readings` has the figure of each of GPU_READINGS by its name in the summary. `energy_source`
    is `counter` (the GPU's own) or `integrated_power`. `lost_at_s` counts seconds from the region's start to the
    moment the GPU was found to be lost.
    """

    index: int
    uuid: str | None
    name: str | None
    used: bool
    other_processes: int | None
    readings: dict[str, Figure]
    memory_total_bytes: int | None
    power_limit_w: float | None
    energy_source: Literal["counter", "integrated_power"] | None
    lost_at_s: float | None

    def as_dict(self) -> dict[str, Any]:
        """The summary as in the record: readings next to the other fields, each followed by its related field."""
        tree = dataclasses.asdict(self)
        lost_at_s = tree.pop("lost_at_s")
        related = {name: {own: tree.pop(own)} for name, own in _RELATED_FIELDS.items()}
        for name, figure in tree.pop("readings").items():
            tree |= {name: figure} | related.get(name, {})
        return tree | {"lost_at_s": lost_at_s}


_RELATED_FIELDS = {
    "memory_used_bytes": "memory_total_bytes",
    "power_instant_w": "power_limit_w",
    "energy_j": "energy_source",
}
"""For some readings, the field of GpuSummary that follows it in the record."""


@dataclass(frozen=True)
class Summary:
    """Telemetry over a region of `region_s` seconds; `skipped` counts the samples that were missed because an earlier
    one took too long.

    `host` and `trainer` have the figure of each of HOST_READINGS and TRAINER_READINGS.
    """

    interval_s: float
    samples: int
    skipped: int
    region_s: float
    gpus: tuple[GpuSummary, ...]
    host: dict[str, Figure]
    trainer: dict[str, Figure]
    notices: tuple[str, ...]

    @property
    def trainer_peak_bytes(self) -> float | None:
        """Peak memory of all the trainer's processes together; None if not measured."""
        rss_bytes = self.trainer["rss_bytes"]
        return rss_bytes.max if isinstance(rss_bytes, Stat) else None

    def as_dict(self) -> dict[str, Any]:
        """The summary as in the record and in the log: plain dicts and lists, null for what was not measured."""
        tree = dataclasses.asdict(self)
        return tree | {"gpus": [gpu.as_dict() for gpu in self.gpus], "notices": list(tree["notices"])}


def stat(totals: Totals) -> Stat | None:
    """Mean and peak over the time for which the series is known; None if it never is."""
    if totals.known_s <= 0 or totals.peak is None:
        return None
    return Stat(min(totals.integral / totals.known_s, totals.peak), totals.peak)


def whole(totals: Totals, region_s: float, interval_s: float) -> float | None:
    """An amount (energy, bytes) over the region; None unless the series is known throughout.

    Up to one interval, or 1 % of a long region, may be missing at the edges: an amount with a gap would look like a
    smaller one.
    """
    if totals.known_s <= 0 or region_s - totals.known_s > max(interval_s, region_s / 100):
        return None
    return totals.integral


def flag_series(reading: Reading) -> dict[str, str]:
    """For each flag of a reading, the name of its series: two readings may have a flag with the same name."""
    return {flag: f"{reading.name}: {flag}" for flag in reading.flags.values()}


def figures(
    readings: Sequence[Reading], totals: Mapping[str, Totals], region_s: float, interval_s: float
) -> dict[str, Figure]:
    """The figure of each reading by its name in the summary, from the totals over a region of `region_s` seconds."""
    found: dict[str, Figure] = {}
    for reading in readings:
        if reading.kind == "flags":
            found[reading.summary_name] = _shares({flag: totals[name] for flag, name in flag_series(reading).items()})
        elif reading.kind == "counter":
            increase = whole(totals[reading.name], region_s, interval_s)
            # A count gets fractions from the interpolation at the edges of the region.
            found[reading.summary_name] = round(increase) if reading.whole and increase is not None else increase
        elif reading.whole:
            peak = totals[reading.name].peak
            found[reading.summary_name] = None if peak is None else Peak(int(peak))
        else:
            found[reading.summary_name] = stat(totals[reading.name])
    return found


def _shares(flags: Mapping[str, Totals]) -> dict[str, float] | None:
    known = {flag: totals.integral / totals.known_s for flag, totals in flags.items() if totals.known_s > 0}
    return {flag: share for flag, share in known.items() if share > 0} if known else None
