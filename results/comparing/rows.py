"""Combines runs into rows: one for each system, benchmark, variant, parameters, dataset and target.

A row has every value of a table at full precision; None is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmark.mllog import BENCHMARK, SUCCESS
from benchmark.rounds.result_tree import WEAK
from results.comparing.score_of_runs import (
    PUBLISHED,
    UNVERIFIED,
    Score,
    energy_of_result,
    score_models,
    score_runs,
)
from results.reading.measures import mean
from results.reading.run_data import FAILED, PENDING, Run

ASPECTS = {
    "benchmark": "benchmark",
    "round": "MLPerf round",
    "scaling_kind": "scaling kind",
    "division": "division",
    "variant": "variant",
    "params_sha256": "parameters",
    "dataset_sha256": "dataset digest",
    "target_wer": "target WER",
    "place": "place",
}
"""What two rows must have in common to be ranked together, with its name in messages."""
_ROUND_ASPECTS = ("round", "division")
"""Aspects that every result of an MLPerf benchmark has."""
_OWN_ASPECTS = ("division", "variant", "params_sha256", "dataset_sha256", "target_wer")
"""Aspects that every DeepSpeech2 run has."""


@dataclass(frozen=True)
class Aspects:
    """The values of ASPECTS; None is unknown, or does not apply to the benchmark.

    An unknown value equals nothing, not even another unknown value. Only runs from one place have it in common: `place`
    is their folder if a value that applies is unknown, else None.
    """

    benchmark: str | None
    round: str | None
    scaling_kind: str | None
    division: str | None
    variant: str | None
    params_sha256: str | None
    dataset_sha256: str | None
    target_wer: float | None
    place: str | None = None

    @property
    def unknown(self) -> list[str]:
        """The names in ASPECTS of the values that apply to the benchmark and are unknown."""
        applicable = _OWN_ASPECTS if self.benchmark == BENCHMARK else _ROUND_ASPECTS
        return [name for name in applicable if getattr(self, name) is None]


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
    """Mean progress at which the converged runs reached the target, in `progress_unit`."""
    progress_unit: str | None
    """`epochs`, or what the benchmark counts instead; None if the runs' logs differ in it."""
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

    @property
    def verification(self) -> str:
        """What the score is worth: a user's own, or that of a published MLPerf round."""
        return PUBLISHED if self.aspects.round is not None else UNVERIFIED


def aspects_of(run: Run) -> Aspects:
    """The aspects of a run, which decide with which rows it may be compared."""
    source = run.source
    aspects = Aspects(
        run.benchmark,
        source.round,
        source.scaling_kind,
        run.division,
        run.variant,
        run.params_sha256,
        run.dataset_sha256,
        run.target_wer,
    )
    return replace(aspects, place=str(source.place)) if aspects.unknown else aspects


MACHINE_FIELDS = ("submitter", "system", "accelerator", "accelerators", "nodes", "processes", "place")
"""What `machine_of` gives."""


def machine_of(run: Run) -> tuple[Any, ...]:
    """The fields that runs of one system have in common; runs of an unknown system only have their place in common."""
    place = None if run.submitter and run.system else str(run.source.place)
    return run.submitter, run.system, run.accelerator, run.accelerators, run.nodes, run.processes, place


def row_of(aspects: Aspects, members: list[Run]) -> Row:
    """One row from the runs of one system; `members` in the order of their logs."""
    least_unknown = min(machine_of(run).count(None) for run in members)
    scored = [run for run in members if run.verdict != PENDING]
    converged = [run for run in scored if run.verdict == SUCCESS and run.minutes is not None]
    minutes = [run.minutes for run in converged if run.minutes is not None]
    score = _score(scored, converged)
    # Take the identity from a complete run: a truncated log lacks fields.
    first = next((run for run in members if machine_of(run).count(None) == least_unknown), members[0])
    units = {run.progress_unit for run in converged if run.progress_unit is not None}
    unit = units.pop() if len(units) == 1 else None
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
        run_epochs=[run.progress_to_target for run in scored],
        run_seeds=[run.seed for run in scored],
        epochs_to_target=mean([run.progress_to_target for run in converged]) if unit else None,
        progress_unit=unit,
        best_wer_pct=min((run.best_wer for run in scored if run.best_wer is not None), default=None),
        samples_per_s=mean([run.samples_per_s for run in converged or scored]),
        audio_s_per_s=mean([run.audio_s_per_s for run in converged or scored]),
        gpu_utilization_pct=mean([m.gpu_utilization_pct for m in measured]),
        sm_active_pct=mean([m.sm_active_pct for m in measured]),
        tensor_active_pct=mean([m.tensor_active_pct for m in measured]),
        peak_memory_bytes=max((m.peak_memory_bytes for m in measured if m.peak_memory_bytes is not None), default=None),
        power_w=mean([m.power_w for m in measured]),
        energy_kwh=_energy(scored, converged, score),
        global_batch_size=first.global_batch_size,
        members=members,
        notes=_notes(members, scored, score),
    )


def _score(scored: list[Run], converged: list[Run]) -> Score:
    """The score by the rules of the runs' round."""
    if not scored:
        return Score(None, "none", "no run")
    rules = scored[0].rules
    if scored[0].source.scaling_kind == WEAK:
        spans = [
            (run.started_ms, run.stopped_ms)
            for run in converged
            if run.started_ms is not None and run.stopped_ms is not None
        ]
        scales = [run.instance_scale for run in converged]
        return score_models(rules, spans, len(scored) - len(converged), scales)
    factors = {run.scaling_factor for run in scored}
    times = [run.minutes if run.verdict == SUCCESS else None for run in scored]
    return score_runs(rules, times, factors.pop() if len(factors) == 1 else None)


def _energy(scored: list[Run], converged: list[Run], score: Score) -> float | None:
    """The mean energy of the converged runs; with MLPerf's power logs, that of the runs that count in the score."""
    energies = [run.measures.energy_kwh for run in scored]
    if not any(run.source.power for run in scored):
        return mean([run.measures.energy_kwh for run in converged])
    if score.kind != "olympic":
        return None
    times = [run.minutes if run.verdict == SUCCESS else None for run in scored]
    return energy_of_result(scored[0].rules, times, energies, score.scaling_factor)


def _notes(members: Sequence[Run], scored: Sequence[Run], score: Score) -> list[str]:
    """Caveats for readers of the row."""
    notes = []
    if scored and scored[0].source.power and score.kind not in ("olympic", "none"):
        notes.append("energy not given: MLPerf's rule is for results with all runs of strong scaling")
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
    unreadable = sum(run.bad_lines > 0 and run.checked_by is None for run in scored)
    if unreadable and scored[0].source.published:
        have = "has" if unreadable == 1 else "have"
        notes.append(f"{unreadable} of {len(scored)} logs {have} unreadable lines (--check counts such runs as failed)")
    said = Counter(note for run in scored for note in run.notes)
    notes += [
        note if times == len(scored) else f"{note} ({times} of {len(scored)} runs)" for note, times in said.items()
    ]
    return notes
