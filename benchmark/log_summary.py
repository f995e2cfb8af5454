"""The one interpretation of a run's log: its time, its epochs and how it ended; docs/rules.md gives the rules.

A run is everything between the first `run_start` and the first `run_stop`. Anything logged after `run_stop` was not
timed: no epoch and no score there counts. Epochs and scores keep the order of the log, whatever their numbers are.

Logs of MLPerf's own benchmarks are timed as their own summariser does it (mlperf_logging.result_summarizer): from the
last `run_start` before the first `run_stop`. No log in a published round that we know of has two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmark import mllog
from benchmark.mllog import BadLine, Event
from common.values import number, parse_number

_METRIC = "metric"
"""Metadata with the name of a metric that has a line for itself (Stable Diffusion: FID and CLIP)."""


@dataclass(frozen=True, kw_only=True)
class EpochFacts:
    """One epoch that was evaluated, counted from 1. Error rates in percent, throughput per second of training."""

    epoch_num: int
    train_loss: float | None = None
    train_s: float | None = None
    eval_s: float | None = None
    wer: float
    cer: float | None = None
    mean_wer: float | None = None
    utterances_per_s: float | None = None
    audio_s_per_s: float | None = None
    data_wait_s: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """One line with scores that are finite numbers, by the names of their metrics.

    A single score without a name has the name "". `value` is the first of several (Mask R-CNN: BBOX before SEGM).
    """

    event: Event
    metrics: dict[str, float]

    @property
    def value(self) -> float:
        """The score, or the first of several."""
        return next(iter(self.metrics.values()))


@dataclass(slots=True, eq=False)
class LogSummary:
    """The contents of a log. `first` has the first event of each key, `bad` the first bad line of `bad_lines` in total.

    `epochs` are only filled in for DeepSpeech2. `epoch_starts` are the epoch_start events. `epoch_spans`: (epoch, start,
    stop) of every training epoch, `evaluation_spans`: (start, stop), in the log's milliseconds. `stats`: the values of
    all tracked_stats. `unread` are evaluations without a finite number, `restarts` the later `run_start` lines with
    another time.
    """

    first: dict[str, Event] = field(default_factory=dict)
    run_start: Event | None = None
    run_stop: Event | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    epochs: tuple[EpochFacts, ...] = ()
    epoch_starts: list[Event] = field(default_factory=list)
    epoch_spans: list[tuple[float | None, float, float]] = field(default_factory=list)
    evaluation_spans: list[tuple[float, float]] = field(default_factory=list)
    stats: list[dict[str, Any]] = field(default_factory=list)
    unread: list[Event] = field(default_factory=list)
    restarts: list[Event] = field(default_factory=list)
    bad: BadLine | None = None
    bad_lines: int = 0

    def value(self, key: str) -> Any:
        """The value of a key's first event, None if the key is absent."""
        return self.first[key].value if key in self.first else None

    @property
    def init_s(self) -> float | None:
        """Seconds from init_start to init_stop."""
        return _between(self.first.get(mllog.INIT_START), self.first.get(mllog.INIT_STOP))

    @property
    def run_s(self) -> float | None:
        """Seconds from run_start to run_stop, the time to train.

        None if one of them is missing, or if it is negative.
        """
        seconds = _between(self.run_start, self.run_stop)
        return seconds if seconds is not None and seconds >= 0 else None

    @property
    def minutes(self) -> float | None:
        """The same in minutes, bit-identical with MLPerf's summariser."""
        if self.run_s is None or self.run_start is None or self.run_stop is None:
            return None
        return (self.run_stop.time_ms - self.run_start.time_ms) / 60 / 1000

    @property
    def status(self) -> Any:
        """The status in run_stop, `success` or `aborted` in a valid log; None without run_stop."""
        return self.run_stop.metadata.get(mllog.STATUS) if self.run_stop else None

    @property
    def target_wer(self) -> float | None:
        """The word error rate to reach, in percent."""
        return number(self.value(mllog.TARGET_WER))

    @property
    def final(self) -> float | None:
        """The last score, None if nothing was evaluated."""
        return self.evaluations[-1].value if self.evaluations else None

    @property
    def best(self) -> float | None:
        """The lowest score."""
        return min((each.value for each in self.evaluations), default=None)

    def reaches(self, target_wer: float | None) -> bool:
        """Whether the last score, after which training stopped, is at most `target_wer`."""
        return self.final is not None and target_wer is not None and self.final <= target_wer

    @property
    def first_passing(self) -> Evaluation | None:
        """The first evaluation that reached the log's own target."""
        target = self.target_wer
        return None if target is None else next((each for each in self.evaluations if each.value <= target), None)


NOT_SUMMARISED = frozenset(
    {
        "actual_selfplay_games_per_generation",
        "block_start",
        "block_stop",
        "current_lr",
        "learning_rate",
        "save_model",
        "throughput",
        "weights_initialization",
    }
)
"""Keys that MLPerf's logs repeat by the thousand and that no summary needs; readers may skip their lines."""
ONLY_OURS = frozenset({mllog.EVAL_START, mllog.EVAL_STOP, mllog.EPOCH_START, mllog.EPOCH_STOP})
"""Keys that only DeepSpeech2's summary needs: how long its epochs and evaluations took."""


def summarise(lines: Iterable[Event | BadLine], benchmark: str | None = None) -> LogSummary:
    """Summarise a log's events in one pass, in log order.

    `benchmark`: its name, if known from elsewhere than the log.
    """
    reading = _Reading(benchmark)
    reading.add(lines)
    return reading.close()


class _Reading:
    """Reads one log's lines in one pass; its memory is that of the summary."""

    def __init__(self, benchmark: str | None) -> None:
        self.benchmark = benchmark
        self.summary = LogSummary()
        self.edges: dict[tuple[str, int | None], Event] = {}
        self.stats_of: dict[int | None, dict[str, Any]] = {}
        self.open_epoch: Event | None = None
        self.open_evaluation: Event | None = None
        self.actions = {
            mllog.RUN_START: self._run_start,
            mllog.EPOCH_START: self._epoch_start,
            mllog.EPOCH_STOP: self._epoch_stop,
            mllog.TRACKED_STATS: self._stats,
            mllog.EVAL_START: self._eval_start,
            mllog.EVAL_STOP: self._eval_stop,
            mllog.EVAL_ACCURACY: self._score,
            "eval_error": self._score,
        }

    def add(self, lines: Iterable[Event | BadLine]) -> None:
        # Millions of lines of a round pass through this loop.
        summary, first, find_action = self.summary, self.summary.first, self.actions.get
        for line in lines:
            if isinstance(line, BadLine):
                summary.bad = summary.bad or line
                summary.bad_lines += 1
                continue
            key = line.key
            if summary.run_stop is None:
                action = find_action(key)
                if action is not None:
                    action(line)
                elif key == mllog.RUN_STOP:
                    summary.run_stop = line
            if key not in first:
                first[key] = line

    def close(self) -> LogSummary:
        summary = self.summary
        if self._ours():
            summary.epochs = tuple(
                self._facts(each.event, epoch, each.value)
                for each in summary.evaluations
                if (epoch := _epoch(each.event)) is not None
            )
        elif summary.restarts:
            summary.run_start = summary.restarts[-1]
        return summary

    def _ours(self) -> bool:
        named = self.benchmark or self.summary.value(mllog.SUBMISSION_BENCHMARK)
        return named is None or named == mllog.BENCHMARK

    def _run_start(self, event: Event) -> None:
        if self.summary.run_start is None:
            self.summary.run_start = event
        elif event.time_ms != self.summary.run_start.time_ms:
            self.summary.restarts.append(event)

    def _epoch_start(self, event: Event) -> None:
        self.open_epoch = self._edge(event)
        self.summary.epoch_starts.append(event)

    def _epoch_stop(self, event: Event) -> None:
        self._edge(event)
        if self.open_epoch is not None:
            self.summary.epoch_spans.append((parse_number(event.epoch_num), self.open_epoch.time_ms, event.time_ms))
            self.open_epoch = None

    def _stats(self, event: Event) -> None:
        if isinstance(event.value, dict):
            self.summary.stats.append(event.value)
            self.stats_of[_epoch(event)] = event.value

    def _eval_start(self, event: Event) -> None:
        self.open_evaluation = self._edge(event)

    def _eval_stop(self, event: Event) -> None:
        self._edge(event)
        if self.open_evaluation is not None:
            self.summary.evaluation_spans.append((self.open_evaluation.time_ms, event.time_ms))
            self.open_evaluation = None

    def _score(self, event: Event) -> None:
        if self._ours():
            value = number(event.value)
            metrics = {} if value is None else {"": value}
        else:
            metrics = metrics_of(event)
        if metrics:
            self.summary.evaluations.append(Evaluation(event, metrics))
        else:
            self.summary.unread.append(event)

    def _edge(self, event: Event) -> Event:
        if self.benchmark in (None, mllog.BENCHMARK):
            self.edges[event.key, _epoch(event)] = event
        return event

    def _facts(self, score: Event, epoch: int, wer: float) -> EpochFacts:
        stats = self.stats_of.get(epoch, {})
        edges = self.edges
        return EpochFacts(
            epoch_num=epoch,
            train_loss=number(stats.get("train_loss")),
            train_s=_between(edges.get((mllog.EPOCH_START, epoch)), edges.get((mllog.EPOCH_STOP, epoch))),
            eval_s=_between(edges.get((mllog.EVAL_START, epoch)), edges.get((mllog.EVAL_STOP, epoch))),
            wer=wer,
            cer=number(score.metadata.get("cer")),
            mean_wer=number(score.metadata.get("mean_wer")),
            utterances_per_s=number(stats.get("utterances_per_s")),
            audio_s_per_s=number(stats.get("audio_s_per_s")),
            data_wait_s=number(stats.get("data_wait_s")),
        )


def _epoch(event: Event) -> int | None:
    return event.epoch_num if type(event.epoch_num) is int else None


def metrics_of(event: Event) -> dict[str, float]:
    """The finite numbers in the value of an evaluation or a target of one of MLPerf's benchmarks, by metric.

    The published forms: a number (or its text, transformer v0.6), whose name may be in the metadata; `[box, mask]`;
    `{"BBOX": box, "SEGM": mask}`, in v0.6 within another object. Items of a list are named by their index.
    """
    value = event.value
    if isinstance(value, list):
        items = [(str(index), item) for index, item in enumerate(value)]
    elif isinstance(value, dict):
        items = [
            pair for name, item in value.items() for pair in (item if isinstance(item, dict) else {name: item}).items()
        ]
    else:
        name = event.metadata.get(_METRIC)
        items = [(name if isinstance(name, str) else "", value)]
    return {name: float(score) for name, item in items if (score := parse_number(item)) is not None}


def _between(start: Event | None, stop: Event | None) -> float | None:
    """Seconds between two events; None if one is missing, or if the times are too far apart for a number."""
    return number((stop.time_ms - start.time_ms) / 1000) if start and stop else None
