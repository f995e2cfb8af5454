"""One inference run: batches through audio decoding, features, network and text decoding, each stage timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmark.error_rates import Score, score_of
from common.errors import UserError
from datasets.manifest import Manifest
from reference_model.data.data_loader import Batch, Recordings
from reference_model.inference.engines import Engine
from reference_model.inference.latency import BatchTimes
from reference_model.model.features import Features
from reference_model.runtime import available_threads

Decode = Callable[[Tensor, Tensor], list[str]]
"""(output frames, batch, labels) log-probabilities and (batch,) valid frames to texts."""

Job = tuple[int, np.ndarray]
"""A batch's number and the positions of its utterances."""
Done = tuple[BatchTimes, list[tuple[int, str]]]
"""A batch's times, and the text of each of its utterances by position."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run. `single`: one utterance at a time, in order; `offline`: length-sorted batches, shortest first.

    `hold_index` from 0 runs only that utterance, repeatedly (-1: all utterances in order). `trials` is the maximum
    number of batches (-1: all; with `hold_index`, as many as the whole set has). `warmup` batches run before the clock
    starts. `streams` batches run concurrently (see `concurrent_streams`).
    """

    scenario: Literal["single", "offline"] = "single"
    batch_size: int = 1
    hold_index: int = -1
    trials: int = -1
    warmup: int = 3
    streams: int = 1

    def __post_init__(self) -> None:
        rules = (
            (self.batch_size >= 1, "--batch-size must be at least 1"),
            (self.scenario == "offline" or self.batch_size == 1, "--batch-size above 1 needs --scenario offline"),
            (self.hold_index >= -1, "HOLD_IDX must be -1 or an utterance's number from 0"),
            (self.trials == -1 or self.trials >= 1, "N_TRIALS must be -1 or at least 1"),
            (self.warmup >= 0, "--warmup must not be negative"),
        )
        for holds, rule in rules:
            if not holds:
                raise UserError(rule)

    def batches(self, durations_s: Sequence[float]) -> list[np.ndarray]:
        """The utterances of each batch, as positions in the list of utterances."""
        count = len(durations_s)
        if self.hold_index >= count:
            raise UserError(
                f"there is no utterance {self.hold_index}: they count from 0 to {count - 1}", where="HOLD_IDX"
            )
        order = np.arange(count)
        if self.scenario == "offline":
            order = np.argsort(np.asarray(durations_s), kind="stable")
        cut = [order[start : start + self.batch_size] for start in range(0, count, self.batch_size)]
        if self.hold_index >= 0:
            trials = len(cut) if self.trials == -1 else self.trials
            return [np.full(self.batch_size, self.hold_index)] * trials
        return cut if self.trials == -1 else cut[: self.trials]

    def warmups(self, batches: list[np.ndarray], durations_s: Sequence[float]) -> list[np.ndarray]:
        """The warm-up batches: the one with the longest utterance, which needs the most memory, then the first ones."""
        if not self.warmup:
            return []
        longest = max(batches, key=lambda batch: max(durations_s[i] for i in batch))
        return [longest, *(batches * self.warmup)[: self.warmup - 1]]


def concurrent_streams(batches: int, threads: int | None) -> tuple[int, int | None]:
    """The number of batches that the offline scenario runs concurrently on a CPU, and the threads of each.

    One batch per core uses the cores better than splitting one batch's operations, which synchronize many times per
    frame. `threads` is the total; None means PyTorch's default, and with a single batch the engine's default.
    """
    available = threads or available_threads()
    streams = max(1, min(available, batches))
    return streams, threads if streams == 1 else available // streams


@dataclass(frozen=True)
class Outcome:
    """The result of a run: (utterance position, text) in the given order, times, and total seconds."""

    texts: list[tuple[int, str]]
    times: list[BatchTimes]
    wall_s: float

    def score(self, manifest: Manifest) -> Score:
        """Error counts over everything that ran; a repeated utterance counts each time."""
        return score_of((manifest.utterances[index].text, text) for index, text in self.texts)


def run(
    engine: Engine,
    features: Features,
    decode: Decode,
    manifest: Manifest,
    plan: Plan,
    progress: Callable[[int], None] = lambda done: None,
    started: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run `plan` over `manifest`. `started` is called after the warm-up, `progress` with the number of batches done."""
    recordings = Recordings(manifest, None, 0)
    durations_s = [utterance.duration_s for utterance in manifest]
    batches = plan.batches(durations_s)
    features = features.to(engine.device)

    def run_job(job: Job) -> Done:
        return _run_batch(*job, recordings, features, engine, decode)

    for _ in _run_jobs(run_job, [(0, batch) for batch in plan.warmups(batches, durations_s)], plan.streams):
        pass
    started()
    times: list[BatchTimes] = []
    texts: list[tuple[int, str]] = []
    jobs = list(enumerate(batches))
    if plan.streams > 1:
        jobs.reverse()  # longest first, so that all streams finish at about the same time
    started_s = time.perf_counter()
    for took, found in _run_jobs(run_job, jobs, plan.streams):
        times.append(took)
        texts += found
        progress(len(times))
    wall_s = time.perf_counter() - started_s
    times.sort(key=lambda took: took.batch)
    return Outcome(sorted(texts, key=lambda item: item[0]), times, wall_s)


def _run_jobs(work: Callable[[Job], Done], jobs: Iterable[Job], streams: int) -> Iterator[Done]:
    """Results of `work` on each job, in the order of the jobs; `streams` jobs run concurrently."""
    if streams == 1:
        yield from map(work, jobs)
        return
    with ThreadPoolExecutor(streams) as executor:
        try:
            yield from executor.map(work, jobs)
        finally:
            executor.shutdown(cancel_futures=True)


def _run_batch(
    number: int, batch: np.ndarray, recordings: Recordings, features: Features, engine: Engine, decode: Decode
) -> Done:
    clock = [time.perf_counter()]

    def lap() -> None:
        # A GPU runs asynchronously: a stage ends when the device has finished it.
        engine.wait()
        clock.append(time.perf_counter())

    read = recordings[0, batch, batch]
    lap()
    values, frames = _features(read, features, engine.device)
    lap()
    log_probabilities, frames = engine(values, frames)
    lap()
    found = decode(log_probabilities, frames)
    lap()
    audio_s, features_s, network_s, text_s = np.diff(clock).tolist()
    took = BatchTimes(
        batch=number,
        utterances=len(batch),
        clip_s=read.audio_s,
        audio_s=audio_s,
        features_s=features_s,
        network_s=network_s,
        text_s=text_s,
        latency_s=clock[-1] - clock[0],
    )
    return took, list(zip(read.indices, found, strict=True))


def _features(batch: Batch, features: Features, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features on the device, and the utterances' frames in host memory, where the network expects them."""
    values, _ = features(batch.waveforms.to(device, non_blocking=True), batch.samples.to(device))
    return values, features.frames(batch.samples)
