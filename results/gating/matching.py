"""Finds the baseline of each set of new runs, among other runs or in a history, and what to know of the comparison."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from common.errors import UserError, listed
from results.comparing.comparison import differences, why_apart
from results.comparing.speedup import FEWEST_TIMES, Side
from results.gating.decision import ACCEPTABLE, TIME, Decision, Outcome, decide
from results.gating.history import Entry, find_same, have_common_runs
from results.gating.same_hardware import HARDWARE, differing, same_hardware, unknown_hardware
from results.gating.sides import COMPARED, Runs

_UNDECIDED = (Outcome.UNCLEAR, Outcome.SEEMS_SLOWER, Outcome.TOO_FEW)


@dataclass(frozen=True)
class Gated:
    """One set of new runs and what became of it. `baseline` is None if there was nothing to compare with.

    `accepted`: a user accepted the runs although the gate failed or was in doubt.
    """

    new: Entry
    baseline: Entry | None
    decision: Decision
    new_name: str
    base_name: str
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    accepted: bool = False

    @property
    def passed(self) -> bool:
        """Whether these runs pass the gate."""
        return self.accepted or self.decision.passed


def require_apart(new: Runs, baseline: Runs) -> None:
    """UserError if both sides have runs in common."""
    logs = [{source.log.resolve() for source in side.sources} for side in (new, baseline)]
    if common := sorted(map(str, logs[0] & logs[1])):
        raise UserError(
            f"these runs are on both sides: {listed(common, 1)}",
            where="--baseline",
            remedy="pass two folders neither of which contains the other",
        )


def against_runs(new: Runs, baseline: Runs, metric: str, margin: float) -> tuple[list[Gated], list[str]]:
    """Each set of new runs against its baseline, and what only one side has. UserError if they have nothing in common."""
    by_aspects = {entry.aspects: entry for entry in baseline.entries}
    gated, alone = [], []
    for entry, notes in zip(new.entries, new.notes, strict=True):
        base = by_aspects.pop(entry.aspects, None)
        if base is None:
            alone.append(f"only {new.name} has {entry.full_title}: {_why(entry, baseline.entries)}")
            continue
        base_notes = baseline.notes[baseline.entries.index(base)]
        gated.append(_gated(entry, base, (new.name, baseline.name), notes + base_notes, metric, margin))
    if not gated:
        raise UserError(
            f"{new.name} and {baseline.name} cannot be compared: {_why(new.entries[0], baseline.entries)}",
            remedy="compare runs of one variant with one dataset",
        )
    return gated, alone + [f"only {baseline.name} has {entry.full_title}" for entry in by_aspects.values()]


def against_history(
    new: Runs, history: Sequence[Entry], names: tuple[str, str], metric: str, margin: float, required: bool
) -> list[Gated]:
    """Each set of new runs against the entry of a history that fits it best.

    An entry fits if it is of the same benchmark on the same hardware, did not fail, and is not later. The newest that
    is not in doubt is the baseline, else the newest. Without one, there is nothing to compare with; if one is
    `required`, other hardware will do, and else it is a UserError. `names` are the history's and that of the entry.
    """
    gated = []
    for entry, notes in zip(new.entries, new.notes, strict=True):
        earlier = _earlier(history, entry)
        fitting = [other for other in earlier if _fits(other, entry, metric)]
        same = [other for other in fitting if same_hardware(other.configuration, entry.configuration)]
        base = _best(same) or (_best(fitting) if required else None)
        if base:
            made = _gated(entry, base, (new.name, names[1]), notes, metric, margin)
            if made.decision.outcome is Outcome.TOO_FEW and len(base.runs) < FEWEST_TIMES <= len(entry.runs):
                made.notes.append(f"{names[1]} has too few runs; --append --accept makes these the next baseline")
            gated.append(_accepted_before(made, history, names[0]))
            continue
        why = _nothing_fits(entry, earlier, fitting, (names[0], new.name))
        if required:
            raise UserError(f"nothing to compare {entry.full_title} with: {why}", where="--baseline")
        decision = Decision(Outcome.NOTHING, f"has nothing to compare with yet: {why}")
        gated.append(Gated(entry, None, decision, new.name, names[1], notes))
    return gated


def _earlier(history: Sequence[Entry], new: Entry) -> list[Entry]:
    """The entries before the first one of these runs, so that judging runs a second time gives the same."""
    return list(itertools.takewhile(lambda entry: not have_common_runs(entry, new), history))


def _best(entries: Sequence[Entry]) -> Entry | None:
    """The newest entry that is not in doubt, else the newest; None if there is none."""
    firm = [entry for entry in entries if not entry.doubtful]
    return next(reversed(firm or entries), None)


def _accepted_before(gated: Gated, history: Sequence[Entry], name: str) -> Gated:
    same = find_same(gated.new, history)
    if same is None or not same.accepted:
        return gated
    return accept(gated, f"these runs were accepted before ({name})")


def accept(gated: Gated, note: str) -> Gated:
    """The same, accepted; unchanged if there is nothing to accept. Runs without a score cannot be a baseline."""
    if gated.decision.outcome not in ACCEPTABLE:
        return gated
    return replace(gated, accepted=True, notes=[note, *gated.notes])


def _fits(entry: Entry, new: Entry, metric: str) -> bool:
    if entry.failed or entry.aspects != new.aspects:
        return False
    return entry.score.cost is not None if metric == TIME else any(run.samples_per_s for run in entry.runs)


def _nothing_fits(new: Entry, history: Sequence[Entry], fitting: Sequence[Entry], names: tuple[str, str]) -> str:
    name = names[0]
    if not history:
        return f"{name} has no entry of earlier runs"
    if fitting:
        before, after = fitting[-1].configuration, new.configuration
        if changed := differing(HARDWARE, before, after):
            return f"{name} has other hardware only: {', '.join(changed)}"
        unknown = unknown_hardware(before, after, ("its newest entry", names[1]))
        return f"{name} has no entry that is known to be of the same hardware: {'; '.join(unknown)}"
    if any(entry.aspects == new.aspects for entry in history):
        return f"all entries of this benchmark in {name} failed the gate or have no score"
    return f"{name} has {_why(new, history)}"


def _gated(new: Entry, base: Entry, names: tuple[str, str], notes: Sequence[str], metric: str, margin: float) -> Gated:
    decision = decide(base.side, new.side, metric, margin)
    before, after = base.configuration, new.configuration
    changes = differing([key for key in COMPARED if key not in HARDWARE], before, after)
    told = [f"differs in: {', '.join(changes)}"] if changes else []
    told += unknown_hardware(before, after, (names[1], names[0]))
    hardware = differing(HARDWARE, before, after)
    warnings = [f"other hardware, so this may not be about the code: {', '.join(hardware)}"] if hardware else []
    if new.side.failed * len(base.runs) > base.side.failed * len(new.runs):
        sides = zip(names, (new.side, base.side), strict=True)
        failed = ", ".join(f"{name}: {side.failed} of {len(side.runs)}" for name, side in sides)
        warnings.append(f"more runs did not reach the target ({failed})")
    if base.doubtful and base.score.minutes is not None:
        told.append(f"{names[1]} was itself in doubt when it was entered, but no other entry fits")
    if decision.outcome in _UNDECIDED and metric == TIME and not (decision.speedup and decision.speedup.pairs):
        told += _advice(base.side, new.side)
    return Gated(new, base, decision, *names, [*told, *notes], warnings)


def _advice(base: Side, new: Side) -> list[str]:
    """What would make the next comparison of times more certain."""
    seeds = [[str(run.seed) for run in side.runs if run.seed is not None] for side in (base, new)]
    if not (base.pairable and new.pairable) or any(
        len(set(known)) < len(side.runs) for known, side in zip(seeds, (base, new), strict=True)
    ):
        return []  # A seed is unknown, or used twice.
    if len(set(seeds[0]) & set(seeds[1])) < min(map(len, seeds)):
        return ["with the same seeds on both sides, fewer runs would do (docs/gate.md)"]
    if base.failed or new.failed:
        return ["the seeds are the same, but runs failed, so they were not compared in pairs"]
    return []


def _why(new: Entry, others: Sequence[Entry]) -> str:
    """In what these runs differ from the nearest of the others."""
    nearest = min(others, key=lambda entry: len(differences(new.aspects, entry.aspects)))
    return why_apart(new.aspects, nearest.aspects, new.parameters, nearest.parameters)
