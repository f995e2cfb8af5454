"""Latency of each batch, stage by stage, and its statistics."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.files import write_atomically

STAGES = ("audio_s", "features_s", "network_s", "text_s")
"""Reading and decoding of audio; features; network (with copies to the device); label probabilities to text."""
WHOLE = "latency_s"


@dataclass(frozen=True)
class BatchTimes:
    """One batch: its number in the run from 0, its size, and the seconds of each stage and in total.

    `audio_s` is the time of audio decoding, `clip_s` the duration of the audio in the batch.
    """

    batch: int
    utterances: int
    clip_s: float
    audio_s: float
    features_s: float
    network_s: float
    text_s: float
    latency_s: float


@dataclass(frozen=True)
class Spread:
    """Seconds over all batches: sum, mean and percentiles (numpy's, with linear interpolation)."""

    sum_s: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float

    def divided(self, by: float) -> Spread:
        """The same with every time divided."""
        return Spread(*(value / by for value in dataclasses.astuple(self)))


def spread(seconds: Sequence[float]) -> Spread:
    """The Spread of at least one value."""
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99)).tolist()
    return Spread(float(np.sum(seconds)), float(np.mean(seconds)), p50, p90, p99)


def spreads(times: Sequence[BatchTimes]) -> dict[str, Spread]:
    """The Spread of the total and of each stage, under the names of BatchTimes."""
    return {name: spread([getattr(batch, name) for batch in times]) for name in (WHOLE, *STAGES)}


def write_csv(times: Sequence[BatchTimes], path: Path) -> None:
    """One line per batch, with full precision, under the names of BatchTimes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(BatchTimes)])
    writer.writerows(dataclasses.astuple(batch) for batch in times)
    write_atomically(path, out.getvalue().encode())
