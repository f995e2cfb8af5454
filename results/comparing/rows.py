"""Combines runs into rows: one for each system, benchmark, variant, parameters, dataset and target.

A row has every value of a table at full precision; None is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.mllog import SUCCESS
from results.comparing.score_of_runs import Score, score_runs
from results.reading.load import FAILED, PENDING, Run
from results.reading.measures import mean

ASPECTS = {
    "benchmark": "benchmark",
    "round": "MLPerf round",
    "scaling_kind": "scaling kind",
    "division": "division",
    "variant": "variant",
    "params_sha256": "parameters",
    "dataset_sha256": "dataset digest",
    "target_wer": "target WER",
}
"""What two rows must have in common to be ranked together, with its name in messages."""


@dataclass(frozen=True)
class Aspects:
    """The values of ASPECTS; None is unknown, which never equals a known value."""

    benchmark: str | None
    round: str | None
    scaling_kind: str | None
    division: str | None
    variant: str | None
    params_sha256: str | None
    dataset_sha256: str | None
    target_wer: float | None


@dataclass(eq=False)
class Row:
    """One system's runs of one benchmark (and variant, parameters, dataset, target). None is unknown.

    Minutes are wall-clock minutes from run_start to run_stop; `*_pct` are percent; other units are in the names.
    `run_minutes`, `run_seeds` and `run_epochs` are in the runs' order, failed runs included.
    """

    aspects: Aspects
    submitter: str | None
    system: str | None
    availability: str | None
    accelerator: str | None
    accelerators: int | None
    nodes: int | None
    processes: int | None
    processor: str | None
    runs: int
    converged: int
    left_out: int
    score: Score
    minutes_min: float | None
    minutes_max: float | None
    run_minutes: list[float | None]
    run_epochs: list[float | None]
    run_seeds: list[Any]
    epochs_to_target: float | None
    best_wer_pct: float | None
    samples_per_s: float | None
    audio_s_per_s: float | None
    gpu_utilization_pct: float | None
    sm_active_pct: float | None
    tensor_active_pct: float | None
    peak_memory_bytes: float | None
    power_w: float | None
    energy_kwh: float | None
    global_batch_size: Any
    members: list[Run]
    notes: list[str]
    group: int = 0
    rank: int | None = None
    baseline: bool = False
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    speedup_method: str | None = None

    @property
    def name(self) -> str:
        """Submitter and system, as far as known."""
        return " / ".join(part for part in (self.submitter, self.system) if part) or self.members[0].log.name


def aspects_of(run: Run) -> Aspects:
    """The aspects of a run, which decide with which rows it may be compared."""
    source = run.source
    return Aspects(
        run.benchmark,
        source.round,
        source.scaling_kind,
        run.division,
        run.variant,
        run.params_sha256,
        run.dataset_sha256,
        run.target_wer,
    )


def machine_of(run: Run) -> tuple[Any, ...]:
    """The fields that runs of one system have in common."""
    return run.submitter, run.system, run.accelerator, run.accelerators, run.nodes, run.processes


def row_of(aspects: Aspects, members: list[Run]) -> Row:
    """One row from the runs of one system; `members` in the order of their logs."""
    least_unknown = min(machine_of(run).count(None) for run in members)
    scored = [run for run in members if run.verdict != PENDING]
    converged = [run for run in scored if run.verdict == SUCCESS and run.minutes is not None]
    minutes = [run.minutes for run in converged if run.minutes is not None]
    factors = {run.scaling_factor for run in scored}
    scaling = factors.pop() if len(factors) == 1 else None
    if aspects.scaling_kind == "weak":
        score = Score(None, "none", "weak scaling is scored by throughput of models, which is not computed")
    else:
        score = score_runs(aspects.benchmark, minutes, len(scored) - len(converged), scaling)
    # Take the identity from a complete run: a truncated log lacks fields.
    first = next((run for run in members if machine_of(run).count(None) == least_unknown), members[0])
    measured = [run.measures for run in converged or scored]
    return Row(
        aspects=aspects,
        submitter=first.submitter,
        system=first.system,
        availability=first.availability,
        accelerator=first.accelerator,
        accelerators=first.accelerators,
        nodes=first.nodes,
        processes=first.processes,
        processor=first.processor,
        runs=len(scored),
        converged=len(converged),
        left_out=len(members) - len(scored),
        score=score,
        minutes_min=min(minutes, default=None),
        minutes_max=max(minutes, default=None),
        run_minutes=[run.minutes for run in scored],
        run_epochs=[run.last_epoch if run in converged else None for run in scored],
        run_seeds=[run.seed for run in scored],
        epochs_to_target=mean([run.last_epoch for run in converged]),
        best_wer_pct=min((run.best_wer for run in scored if run.best_wer is not None), default=None),
        samples_per_s=mean([run.samples_per_s for run in converged or scored]),
        audio_s_per_s=mean([run.audio_s_per_s for run in converged or scored]),
        gpu_utilization_pct=mean([m.gpu_utilization_pct for m in measured]),
        sm_active_pct=mean([m.sm_active_pct for m in measured]),
        tensor_active_pct=mean([m.tensor_active_pct for m in measured]),
        peak_memory_bytes=max((m.peak_memory_bytes for m in measured if m.peak_memory_bytes is not None), default=None),
        power_w=mean([m.power_w for m in measured]),
        energy_kwh=mean([run.measures.energy_kwh for run in converged]),
        global_batch_size=first.global_batch_size,
        members=members,
        notes=_notes(members, scored),
    )


def _notes(members: Sequence[Run], scored: Sequence[Run]) -> list[str]:
    """Caveats for readers of the row."""
    notes = []
    verdicts = [run.verdict for run in scored if run.verdict != SUCCESS]
    for verdict in dict.fromkeys(verdicts):
        meaning = "failed" if verdict == FAILED else verdict
        notes.append(f"{verdicts.count(verdict)} of {len(scored)} runs: {meaning}")
    if len(members) > len(scored):
        notes.append(f"{len(members) - len(scored)} unfinished left out")
    seeds = [run.seed for run in scored if run.seed is not None]
    if len(set(map(str, seeds))) < len(seeds):
        notes.append("seeds repeat")
    if len({str(run.global_batch_size) for run in scored}) > 1:
        notes.append("batch sizes differ between runs")
    return notes
