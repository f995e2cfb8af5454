"""Groups rows that may be ranked together, gives the reason for each separate group, and computes speed-ups."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.mllog import BENCHMARK, SUCCESS
from benchmark.rounds.rules_by_round import canonical_name
from common.errors import UserError
from common.files import natural_key
from results.comparing.rows import ASPECTS, MACHINE_FIELDS, Aspects, Row, aspects_of, machine_of, row_of
from results.comparing.score_of_runs import RunTimes, speedup
from results.reading.run_data import Run


@dataclass
class Group:
    """Rows that may be ranked together, best first; `reason` is why they are not ranked with earlier groups."""

    number: int
    aspects: Aspects
    reason: str | None
    rows: list[Row] = field(default_factory=list)


@dataclass
class Comparison:
    """All groups, and the problems of any source (`file: problem`)."""

    groups: list[Group]
    problems: list[str]
    baseline: str | None

    @property
    def rows(self) -> list[Row]:
        """All rows in the order of their groups."""
        return [row for group in self.groups for row in group.rows]


def compare_runs(
    runs: Iterable[Run], *, benchmark: str | None = None, baseline: str | None = None, sort: str = "score"
) -> Comparison:
    """Arrange runs in rows and groups. `benchmark` selects one benchmark or variant, `baseline` names a system."""
    problems: dict[str, None] = {}
    known: list[Run] = []
    left_out: list[Run] = []
    benchmark = None if benchmark is None else canonical_name(benchmark)
    for run in runs:
        chosen = benchmark is None or benchmark in (run.benchmark, run.variant)
        if chosen or run.benchmark is None:
            problems.update(dict.fromkeys(run.all_problems))
        # A file without any readable log line is not a run.
        if run.benchmark is not None:
            (known if chosen else left_out).append(run)
    if benchmark is not None and not known:
        names = sorted({name for run in left_out for name in (run.benchmark, run.variant) if name})
        raise UserError(f"no run of {benchmark!r}", where="--benchmark", remedy=f"one of: {', '.join(names) or 'none'}")
    _settle_divisions(known)
    buckets: dict[tuple[Any, ...], list[Run]] = {}
    for key, run in _keyed(known):
        buckets.setdefault(key, []).append(run)
    rows = [row_of(Aspects(*key[: len(ASPECTS)]), members) for key, members in buckets.items()]
    groups = _groups(rows, sort)
    if baseline is not None:
        _speedups(groups, baseline)
    return Comparison(groups, list(problems), baseline)


def _settle_divisions(runs: list[Run]) -> None:
    """Make the division of an MLPerf result unknown if its description has none and its logs contradict each other."""
    results: dict[Path, list[Run]] = {}
    for run in runs:
        if run.source.published and run.benchmark != BENCHMARK:
            results.setdefault(run.log.parent, []).append(run)
    for members in results.values():
        logged = sorted({run.division for run in members if run.division is not None})
        if len(logged) > 1:
            for run in members:
                run.division = None
                run.notes.append(f"division unknown: its description has none, its logs say {' and '.join(logged)}")


_PLACES = (list(ASPECTS).index("place"), len(ASPECTS) + MACHINE_FIELDS.index("place"))
"""Where the key of a row has a place."""


def _keyed(runs: list[Run]) -> list[tuple[tuple[Any, ...], Run]]:
    """Each run with the key of its row.

    In an MLPerf tree a folder is one system's result, so a truncated log there belongs to the same row as the others,
    as a failed run, unless it contradicts them.
    """
    keys = [(run, (*dataclasses.astuple(aspects_of(run)), *machine_of(run))) for run in runs]
    folders: dict[Path, Counter[tuple[Any, ...]]] = {}
    for run, key in keys:
        if run.source.published:
            folders.setdefault(run.log.parent, Counter())[key] += 1
    chosen = []
    for run, key in keys:
        common = folders[run.log.parent].most_common(1)[0][0] if run.source.published else key
        # The place follows from unknown values, and a truncated log has more of them.
        values = list(zip(key, common, strict=True))
        fits = all(mine is None or mine == theirs for at, (mine, theirs) in enumerate(values) if at not in _PLACES)
        chosen.append((common if fits else key, run))
    return chosen


def _groups(rows: list[Row], sort: str) -> list[Group]:
    groups: dict[Aspects, Group] = {}
    for row in sorted(rows, key=lambda row: _aspect_order(row.aspects)):
        if row.aspects not in groups:
            reason = _reason(row, list(groups.values()))
            groups[row.aspects] = Group(len(groups) + 1, row.aspects, reason)
        groups[row.aspects].rows.append(row)
        row.group = groups[row.aspects].number
    for group in groups.values():
        group.rows.sort(key=lambda row: (row.score.cost is None, row.score.cost or 0.0, natural_key(row.name)))
        for place, row in enumerate((row for row in group.rows if row.score.minutes is not None), 1):
            row.rank = place
        if sort != "score":
            group.rows.sort(key=lambda row: sort_key(row, sort))
    return list(groups.values())


def _aspect_order(aspects: Aspects) -> tuple[str, ...]:
    return tuple(str(getattr(aspects, name) or "") for name in ASPECTS)


SORTS = {
    "score": "score",
    "system": "name",
    "accelerators": "accelerators",
    "epochs": "epochs_to_target",
    "wer": "best_wer_pct",
    "throughput": "samples_per_s",
    "energy": "energy_kwh",
    "power": "power_w",
}
"""Values of `--sort` other than `score`, and the row's field for each; best first, unknown last."""


def sort_key(row: Row, sort: str) -> tuple[Any, ...]:
    """Sort key of a row for `--sort`."""
    value = getattr(row, SORTS[sort])
    if isinstance(value, str):
        return (False, natural_key(value))
    biggest_first = sort == "throughput"
    return (value is None, -(value or 0) if biggest_first else value or 0, natural_key(row.name))


def _reason(row: Row, earlier: list[Group]) -> str | None:
    """Why `row` is not ranked with the nearest earlier group."""
    if not earlier:
        return None
    distances = [differences(row.aspects, group.aspects) for group in earlier]
    nearest = min(zip(earlier, distances, strict=True), key=lambda pair: ("benchmark" in pair[1], len(pair[1])))[0]
    differing = differences(row.aspects, nearest.aspects)
    # Rows of different benchmarks differ in everything else too: naming the benchmark is enough.
    if "benchmark" in differing:
        differing = ["benchmark"]
    elif "place" in differing:
        # The reason is what is unknown; the other values say the same in other words.
        differing = ["place"]
    reasons = "; ".join(_difference(name, row, nearest.rows[0]) for name in differing)
    return f"not ranked with group {nearest.number}: {reasons}"


def differences(one: Aspects, other: Aspects) -> list[str]:
    """The names of ASPECTS in which two rows differ."""
    return [name for name in ASPECTS if getattr(one, name) != getattr(other, name)]


def _difference(name: str, row: Row, other: Row) -> str:
    if name == "place":
        unknown = (row if row.aspects.unknown else other).aspects.unknown
        return f"unknown {' and '.join(ASPECTS[each] for each in unknown)}"
    mine, theirs = (aspect_text(getattr(r.aspects, name), name) for r in (row, other))
    if name == "params_sha256":
        changed = changed_parameters(row.members[0].hyperparameters, other.members[0].hyperparameters)
        if changed:
            return "other parameters (" + ", ".join(changed) + ")"
    return f"other {ASPECTS[name]} ({mine}, not {theirs})"


def changed_parameters(mine: dict[str, Any], theirs: dict[str, Any], most: int = 4) -> list[str]:
    """The hyperparameters in which two runs differ: `key mine, not theirs`, at most `most` of them."""
    keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)] if mine and theirs else []
    texts = [f"{key} {mine.get(key)}, not {theirs.get(key)}" for key in keys[:most]]
    return texts + ([f"{len(keys) - most} more"] if len(keys) > most else [])


def aspect_text(value: object, name: str = "") -> str:
    """An aspect's value as text; digests are shortened to eight digits."""
    if value is None:
        return "unknown"
    return str(value)[:8] if name.endswith("sha256") else f"{value:g}" if isinstance(value, float) else str(value)


def describe(aspects: Aspects) -> str:
    """A group's title: the known values that its rows share."""
    known = {name: aspect_text(getattr(aspects, name), name) for name in ASPECTS if getattr(aspects, name) is not None}
    title = " ".join(known.pop(name) for name in ("benchmark", "variant") if name in known)
    rest = [f"round {known['round']}"] if "round" in known else []
    if aspects.place is not None:
        rest.append(f"unknown {' and '.join(ASPECTS[name] for name in aspects.unknown)} ({aspects.place})")
    rest += [known[name] for name in ("scaling_kind", "division") if name in known]
    rest += [
        f"{ASPECTS[name]} {known[name]}" for name in ("target_wer", "params_sha256", "dataset_sha256") if name in known
    ]
    return ", ".join([title, *rest])


def _speedups(groups: list[Group], wanted: str) -> None:
    """Fill in the speed-ups of every group that contains the baseline."""
    matches = _matching(groups, wanted)
    if not matches:
        names = sorted({row.name for group in groups for row in group.rows})
        raise UserError(f"no system is named {wanted!r}", where="--baseline", remedy=f"one of: {'; '.join(names)}")
    for group in groups:
        found = [row for row in matches if row in group.rows]
        if len(found) > 1:
            rows = "; ".join(f"{row.name} ({row.accelerators} x {row.accelerator})" for row in found)
            raise UserError(f"{wanted!r} names {len(found)} rows of group {group.number}: {rows}", where="--baseline")
        for row in group.rows if found else []:
            _speedup(found[0], row)


def _matching(groups: list[Group], wanted: str) -> list[Row]:
    """Rows with exactly this name (`SUBMITTER/SYSTEM` or `SYSTEM`), else with this part of a name; case is ignored."""
    rows = [row for group in groups for row in group.rows]
    folded = wanted.casefold().replace(" / ", "/")

    def full_name(row: Row) -> str:
        return row.name.casefold().replace(" / ", "/")

    exact = [row for row in rows if folded in (full_name(row), (row.system or "").casefold())]
    return exact or [row for row in rows if folded in full_name(row)]


def _speedup(base: Row, row: Row) -> None:
    rules = row.members[0].rules

    def times(of: Row) -> RunTimes:
        minutes = [run.minutes for run in of.members if run.verdict == SUCCESS and run.minutes is not None]
        if rules.first_successes:
            return RunTimes(of.score, minutes[: rules.runs], 0)
        return RunTimes(of.score, minutes, of.runs - len(minutes))

    row.baseline = row is base
    result = speedup(rules.dropped, times(base), times(row))
    if result is None:
        return
    row.speedup, row.speedup_method = result.ratio, result.method
    if row is not base:
        row.speedup_low, row.speedup_high = result.low, result.high
