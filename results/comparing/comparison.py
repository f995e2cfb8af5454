"""Groups rows that may be ranked together, and gives the reason for each separate group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.mllog import BENCHMARK
from benchmark.rounds.rules_by_round import canonical_name
from common.errors import UserError
from common.files import natural_key
from results.comparing.baseline import set_baseline, set_prices
from results.comparing.group import Group
from results.comparing.identity import ASPECTS, Aspects, RowKeys, buckets_of
from results.comparing.rows import Row, row_of
from results.comparing.verdict import summary_of
from results.reading.run_data import Run


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
    runs: Iterable[Run],
    *,
    benchmark: str | None = None,
    baseline: str | None = None,
    sort: str = "score",
    row_keys: RowKeys | None = None,
    prices: Mapping[str, float] | None = None,
) -> Comparison:
    """Arrange runs in rows and groups.

    `benchmark` selects one benchmark or variant; `baseline` selects rows (`results.comparing.baseline.matching`), and
    so do the keys of `prices`, in US dollars per hour of the whole system; `row_keys` change what separates rows.
    """
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
    row_keys = row_keys or RowKeys()
    groups = _groups([row_of(bucket, row_keys) for bucket in buckets_of(known, row_keys)])
    set_prices(groups, prices or {})
    set_baseline(groups, baseline)
    for group in groups:
        group.summary = summary_of(group)
        if sort != "score":
            group.rows.sort(key=lambda row: sort_key(row, sort))
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


def _groups(rows: list[Row]) -> list[Group]:
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
    return list(groups.values())


def _aspect_order(aspects: Aspects) -> tuple[str, ...]:
    return tuple(str(getattr(aspects, name) or "") for name in ASPECTS)


SORTS = {
    "score": "score",
    "system": "name",
    "accelerators": "accelerators",
    "epochs": "epochs_to_target",
    "wer": "final_wer_pct",
    "throughput": "samples_per_s",
    "energy": "energy_kwh",
    "power": "power_w",
    "accelerator-minutes": "accelerator_minutes",
    "cost": "cost",
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
    other = nearest.rows[0]
    parameters = row.members[0].hyperparameters, other.members[0].hyperparameters
    return f"not ranked with group {nearest.number}: {why_apart(row.aspects, other.aspects, *parameters)}"


def why_apart(mine: Aspects, theirs: Aspects, my_parameters: dict[str, Any], their_parameters: dict[str, Any]) -> str:
    """In what two aspects differ, as a text; the parameters are those of a run of each."""
    differing = differences(mine, theirs)
    if "benchmark" in differing:
        # Rows of different benchmarks differ in everything else too: naming the benchmark is enough.
        differing = ["benchmark"]
    elif "place" in differing:
        # The reason is what is unknown; the other values say the same in other words.
        unknown = (mine if mine.unknown else theirs).unknown
        return f"unknown {' and '.join(ASPECTS[name] for name in unknown)}"
    texts = []
    for name in differing:
        changed = changed_parameters(my_parameters, their_parameters) if name == "params_sha256" else []
        one, other = (aspect_text(getattr(aspects, name), name) for aspects in (mine, theirs))
        texts.append(
            f"other parameters ({', '.join(changed)})" if changed else f"other {ASPECTS[name]} ({one}, not {other})"
        )
    return "; ".join(texts)


def differences(one: Aspects, other: Aspects) -> list[str]:
    """The names of ASPECTS in which two rows differ."""
    return [name for name in ASPECTS if getattr(one, name) != getattr(other, name)]


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
