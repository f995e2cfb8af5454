"""Combines the runs of one configuration into a row: its score, its means, and what to know before quoting it.

A row has every value of a table at full precision; None is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.mllog import SUCCESS
from benchmark.rounds.result_tree import WEAK
from common.errors import listed
from results.comparing.identity import KEYS, MACHINE, Aspects, Bucket, RowKeys, value_of
from results.comparing.score_of_runs import (
    Score,
    energy_of_result,
    score_models,
    score_runs,
)
from results.comparing.speedup import RunFigures, Side, Speedup
from results.reading.configuration import NOTED
from results.reading.measures import mean
from results.reading.run_data import FAILED, PENDING, Run


@dataclass(eq=False)
class Row:
    """The runs of one configuration of one benchmark (and variant, parameters, dataset, target). None is unknown.

    Minutes are wall-clock minutes from run_start to run_stop; `*_pct` are percent; other units are in the names.
    `run_minutes`, `run_seeds` and `run_epochs` are in the runs' order, failed runs included.
    """

    aspects: Aspects
    identity: dict[str, Any]
    """What its runs share, by the keys that separate rows (`results.comparing.identity`)."""
    noted: dict[str, str | None]
    """What its runs share of NOTED, which does not separate rows; None if they do not, or it is not known."""
    label: str | None
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
    final_wer_pct: float | None
    """Mean over the converged runs of the word error rate at which they stopped."""
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
    speedup: Speedup | None = None
    price_per_hour: float | None = None
    """Price of an hour of the whole system, in the user's currency (US dollars)."""

    @property
    def name(self) -> str:
        """The user's label, else submitter and system, as far as known."""
        system = " / ".join(part for part in (self.submitter, self.system) if part) or self.members[0].log.name
        if self.label is None:
            return system
        return f"{self.label}: {system}" if self.members[0].source.published else self.label

    @property
    def scored(self) -> list[Run]:
        """The runs that are in the score, in the order of `run_minutes`: all but those that may be resumed."""
        return [run for run in self.members if run.verdict != PENDING]

    @property
    def accelerator_minutes(self) -> float | None:
        """The score times the number of accelerators; None without accelerators, and for weak scaling."""
        if self.score.minutes is None or not self.accelerators or self.score.kind == "weak":
            return None
        return self.score.minutes * self.accelerators

    @property
    def cost(self) -> float | None:
        """The price of the score's minutes; None where no price was given."""
        if self.price_per_hour is None or self.score.minutes is None:
            return None
        return self.score.minutes / 60 * self.price_per_hour

    @property
    def side(self) -> Side:
        """What a speed-up compares."""
        rules = self.members[0].rules
        runs = self.scored
        if rules.first_successes:
            runs = [run for run in runs if run.verdict == SUCCESS and run.minutes is not None][: rules.runs]
        figures = [
            RunFigures(
                run.minutes if run.verdict == SUCCESS else None,
                run.progress_to_target,
                run.samples_per_s,
                run.seed,
            )
            for run in runs
        ]
        dropped = rules.dropped if self.score.kind == "olympic" else 0
        return Side(self.score, figures, dropped, self.aspects.pairable, self.progress_unit)


def row_of(bucket: Bucket, keys: RowKeys) -> Row:
    """One row from the runs of a bucket, which are in the order of their logs."""
    members = bucket.runs
    scored = [run for run in members if run.verdict != PENDING]
    converged = [run for run in scored if run.verdict == SUCCESS and run.minutes is not None]
    minutes = [run.minutes for run in converged if run.minutes is not None]
    score = _score(scored, converged)
    # The most complete run: a truncated log lacks fields.
    first = min(members, key=lambda run: [value_of(run, key) for key in MACHINE].count(None))
    units = {run.progress_unit for run in converged if run.progress_unit is not None}
    unit = units.pop() if len(units) == 1 else None
    measured = [run.measures for run in converged or scored]
    return Row(
        aspects=bucket.aspects,
        identity=bucket.identity,
        noted={key: _shared(members, key) for key in NOTED},
        label=_of_all(members, "label"),
        submitter=_of_all(members, "submitter"),
        system=_of_all(members, "system"),
        availability=first.availability,
        accelerator=_of_all(members, "accelerator"),
        accelerators=_of_all(members, "accelerators"),
        nodes=_of_all(members, "nodes"),
        processes=_of_all(members, "processes"),
        processor=_of_all(members, "processor"),
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
        final_wer_pct=mean([run.final_wer for run in converged or scored]),
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
        notes=_notes(members, scored, score) + _differences(bucket, keys),
    )


def _of_all(members: Sequence[Run], name: str) -> Any:
    """The known value of an attribute; if runs with several were merged, all of them as a text, None for numbers."""
    values = list(dict.fromkeys(value for run in members if (value := getattr(run, name)) is not None))
    if len(values) > 1:
        return " + ".join(values) if isinstance(values[0], str) else None
    return values[0] if values else None


def _shared(members: Sequence[Run], key: str) -> str | None:
    values = {run.configuration.get(key) for run in members}
    return values.pop() if len(values) == 1 else None


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


def _differences(bucket: Bucket, row_keys: RowKeys) -> list[str]:
    """What the runs of a row do not share: merged by the user, unknown of some, or without a bearing on the row."""
    total = len(bucket.runs)
    notes = [
        f"merged although not the same {KEYS[key]}: {values}"
        for key in row_keys.ignore
        if (values := _values(bucket, key))
    ]
    for keys, count in bucket.unknown.items():
        names = ", ".join(KEYS[key] for key in keys)
        notes.append(f"not known of {count} of {total} runs, which were taken to be of this row: {names}")
    for key in NOTED:
        if key not in bucket.identity and (values := _values(bucket, key)):
            notes.append(f"not the same {NOTED[key]}: {values}")
    if "with changes" in str(bucket.identity.get("commit")) and total > 1:
        notes.append("made with uncommitted changes, which may differ between the runs")
    return notes


_MOST_VALUES = 3


def _values(bucket: Bucket, key: str) -> str:
    """The values of a key with their numbers of runs, the most frequent first; empty if there is only one."""
    counts = Counter(str(value) for run in bucket.runs if (value := value_of(run, key)) is not None)
    if len(counts) < 2:
        return ""
    texts = [f"{value} ({count} run{'s' * (count > 1)})" for value, count in counts.most_common()]
    return listed(texts, _MOST_VALUES)
