"""One run as the commands see it: what its log, record and description say. Units are in the names; unknown is None."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.mllog import BENCHMARK
from benchmark.record import RunRecord
from benchmark.rounds.rules_by_round import Rules, rules_of
from results.reading.discover import Source
from results.reading.measures import Measures

WER_PERCENT = {BENCHMARK: 1.0, "rnnt": 100.0}
"""Benchmarks whose eval_accuracy is a word error rate, with the factor that converts it to percent."""
PENDING, FAILED, REFUSED = "pending", "failed", "refused"


@dataclass(slots=True, eq=False)
class Run:
    """One run, as logged. `*_ms` are milliseconds since the Unix epoch, `minutes` and `*_s` are durations.

    `verdict`: `success` or `aborted` as in the log's run_stop; `failed` if no run_stop follows run_start (or the log
    has neither); `missed` if a log claims success above its target; `pending` for a run that may be resumed;
    `refused` if the log does not comply with its rules (only with `--check`).
    """

    log: Path
    source: Source
    verdict: str = FAILED
    minutes: float | None = None
    started_ms: float | None = None
    benchmark: str | None = None
    submitter: str | None = None
    system: str | None = None
    division: str | None = None
    availability: str | None = None
    configuration: dict[str, str | None] = field(default_factory=dict)
    """What it ran on and with (`results.reading.configuration`)."""
    variant: str | None = None
    params_sha256: str | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    dataset_sha256: str | None = None
    target_wer: float | None = None
    seed: Any = None
    global_batch_size: Any = None
    train_samples: Any = None
    processes: int | None = None
    accelerator: str | None = None
    accelerators: int | None = None
    nodes: int | None = None
    processor: str | None = None
    last_epoch: float | None = None
    """Progress of the last evaluation before run_stop: its epoch, or samples or steps where those are logged."""
    progress_to_target: float | None = None
    """How far training had come when a successful run reached its target, in `progress_unit`."""
    progress_unit: str | None = None
    """`epochs`, `samples`, `steps` or `tokens`; None if the run has no progress to target."""
    last_accuracy: float | None = None
    """The last eval_accuracy before run_stop, as logged; of several metrics the first (Mask R-CNN: BBOX)."""
    best_wer: float | None = None
    """The lowest word error rate in percent; None if the benchmark has another metric."""
    evals: list[tuple[float | None, float, float]] = field(default_factory=list)
    """(progress, eval_accuracy as logged, time in ms) of every evaluation before run_stop, of its first metric."""
    epoch_marks: list[tuple[float | None, float, float]] = field(default_factory=list)
    """(epoch, start, stop in ms) of every training epoch."""
    init_s: float | None = None
    train_s: float | None = None
    eval_s: float | None = None
    data_wait_s: float | None = None
    samples_per_s: float | None = None
    audio_s_per_s: float | None = None
    measures: Measures = field(default_factory=Measures)
    telemetry: dict[str, Any] | None = None
    record: RunRecord | None = None
    description: dict[str, Any] | None = None
    scaling_factor: float | None = None
    instance_scale: int | None = None
    """Accelerators that train one model of a weak-scaling result (nodes, without accelerators)."""
    other_benchmark: bool = False
    """Whether the log names another benchmark than its folder in an MLPerf tree."""
    checked_by: str | None = None
    """The rules that the log was checked by (`--check`); None if it was not."""
    notes: list[str] = field(default_factory=list)
    """What to know before quoting the run's result, for the row's notes."""
    bad_lines: int = 0
    problems: list[str] = field(default_factory=list)
    """What is wrong with the log or the record."""
    shared_problems: list[str] = field(default_factory=list)
    """What is wrong with files that other runs share, with their paths (`file: problem`)."""

    @property
    def label(self) -> str | None:
        """The name that the user gave its path."""
        return self.source.label

    @property
    def all_problems(self) -> list[str]:
        """Every problem as `file: problem`."""
        return self.shared_problems + [f"{self.log}: {problem}" for problem in self.problems]

    @property
    def rules(self) -> Rules:
        """The rules for its benchmark in its round, in the newest if it is in none."""
        return self.source.result.rules if self.source.result else rules_of(self.benchmark)

    @property
    def wer_factor(self) -> float | None:
        """Factor from eval_accuracy to a word error rate in percent; None if the benchmark has another metric."""
        return WER_PERCENT.get(self.benchmark or "")

    @property
    def final_wer(self) -> float | None:
        """The last word error rate before run_stop in percent; None if the benchmark has another metric."""
        return None if self.last_accuracy is None or self.wer_factor is None else self.last_accuracy * self.wer_factor

    @property
    def stopped_ms(self) -> float | None:
        """Time of run_stop in milliseconds since the Unix epoch."""
        return None if self.started_ms is None or self.minutes is None else self.started_ms + self.minutes * 60_000

    @property
    def run_s(self) -> float | None:
        """Seconds from run_start to run_stop."""
        return None if self.minutes is None else self.minutes * 60

    def slim(self) -> Run:
        """Drop the curves and the files' contents, so that thousands of runs fit in memory; return this run."""
        self.evals, self.epoch_marks, self.record, self.description, self.telemetry = [], [], None, None, None
        return self
