"""Decides which runs are those of one row: the same benchmark, parameters and dataset on the same configuration."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark.mllog import BENCHMARK
from common.errors import UserError
from results.comparing.score_of_runs import PUBLISHED, UNVERIFIED
from results.reading.configuration import IDENTITY, NOTED
from results.reading.run_data import Run

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
    def verification(self) -> str:
        """What scores are worth: a user's own, or those of a published MLPerf round."""
        return UNVERIFIED if self.round is None else PUBLISHED

    @property
    def pairable(self) -> bool:
        """Whether a run of the same seed on another machine is the same training."""
        return self.benchmark == BENCHMARK

    @property
    def unknown(self) -> list[str]:
        """The names in ASPECTS of the values that apply to the benchmark and are unknown."""
        applicable = _OWN_ASPECTS if self.benchmark == BENCHMARK else _ROUND_ASPECTS
        return [name for name in applicable if getattr(self, name) is None]


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


MACHINE = {
    "label": "label",
    "submitter": "submitter",
    "system": "system",
    "accelerator": "accelerator",
    "accelerators": "accelerators",
    "nodes": "nodes",
    "processes": "processes",
}
"""What runs of every benchmark have in common if they are those of one row, with its heading in tables."""
_PLACE = "place"
"""The folder of runs whose submitter or system is unknown: only runs from one place are those of one system."""
KEYS = MACHINE | IDENTITY | NOTED | {"seed": "seed", "folder": "folder"}
"""The keys of `--by`, with their headings; those of `--ignore` are MACHINE and IDENTITY."""


@dataclass(frozen=True)
class RowKeys:
    """What a user changes: `by` separates rows further, `ignore` merges rows that differ only in these."""

    by: Sequence[str] = ()
    ignore: Sequence[str] = ()

    @property
    def keys(self) -> list[str]:
        """The keys that separate rows."""
        kept = [key for key in (*MACHINE, _PLACE, *IDENTITY) if key not in self.ignore]
        return kept + [key for key in self.by if key not in kept]


def row_keys_from(by: str | Sequence[str] | None, ignore: str | Sequence[str] | None) -> RowKeys:
    """The keys that `--by` and `--ignore` give, as lists or separated by commas; UserError for an unknown key."""
    keys, mergeable = _listed(by, "--by", KEYS), _listed(ignore, "--ignore", MACHINE | IDENTITY)
    if both := [key for key in keys if key in mergeable]:
        raise UserError(f"{', '.join(both)} is in --by and in --ignore", where="--by", remedy="take it out of one")
    return RowKeys(keys, mergeable)


def _listed(given: str | Sequence[str] | None, option: str, known: Iterable[str]) -> list[str]:
    listed = given.split(",") if isinstance(given, str) else given or []
    keys = [key.strip() for key in listed if key.strip()]
    if unknown := [key for key in keys if key not in known]:
        raise UserError(f"unknown key {unknown[0]!r}", where=option, remedy=f"one of: {', '.join(known)}")
    return list(dict.fromkeys(keys))


@dataclass(eq=False)
class Bucket:
    """The runs of one row. `identity` has the values that they share, by the keys that separate rows.

    `unknown` counts the runs that are here because what is known of them fits, by the keys that are unknown.
    """

    aspects: Aspects
    identity: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    unknown: Counter[tuple[str, ...]] = field(default_factory=Counter)


def value_of(run: Run, key: str) -> Any:
    """A run's value of one of KEYS; None is unknown."""
    if key in IDENTITY or key in NOTED:
        return run.configuration.get(key)
    if key == "folder":
        return str(run.source.place)
    if key == _PLACE:
        return None if run.submitter and run.system else str(run.source.place)
    return getattr(run, key, None)


def buckets_of(runs: Sequence[Run], row_keys: RowKeys) -> list[Bucket]:
    """The runs by row, in the order of the first run of each.

    A run that does not say everything (its record is damaged, its trainer did not log it) belongs to the row that what
    it says fits, if there is exactly one.
    """
    keys = row_keys.keys
    found: dict[tuple[Any, ...], Bucket] = {}
    for run, key in _keyed(runs, keys):
        aspects, values = key
        bucket = found.get(key)
        if bucket is None:
            bucket = found[key] = Bucket(aspects, dict(zip(keys, values, strict=True)))
        bucket.runs.append(run)
    return _merge_unknown(list(found.values()), runs)


def _keyed(runs: Sequence[Run], keys: Sequence[str]) -> list[tuple[Run, tuple[Aspects, tuple[Any, ...]]]]:
    """Each run with the key of its row.

    In an MLPerf tree a folder is one system's result, so a truncated log there belongs to the same row as the others,
    as a failed run, unless it contradicts them.
    """
    keyed = [(run, (aspects_of(run), tuple(_hashable(value_of(run, key)) for key in keys))) for run in runs]
    folders: dict[Path, Counter[tuple[Aspects, tuple[Any, ...]]]] = {}
    for run, key in keyed:
        if run.source.published:
            folders.setdefault(run.log.parent, Counter())[key] += 1
    chosen = []
    for run, key in keyed:
        if run.source.published:
            common = folders[run.log.parent].most_common(1)[0][0]
            key = common if common != key and _fits(key, common, keys) else key
        chosen.append((run, key))
    return chosen


def _fits(key: tuple[Aspects, tuple[Any, ...]], common: tuple[Aspects, tuple[Any, ...]], keys: Sequence[str]) -> bool:
    """Whether everything that `key` knows is as in `common`."""
    # A place follows from unknown values, and a truncated log has more of them.
    one, other = (dataclasses.asdict(each[0]) | dict(zip(keys, each[1], strict=True)) for each in (key, common))
    return all(value is None or value == other[name] for name, value in one.items() if name != _PLACE)


def _hashable(value: Any) -> Any:
    """The value, or its text if it is a list or an object: a log may have anything as a seed."""
    return str(value) if isinstance(value, list | dict) else value


def _merge_unknown(buckets: list[Bucket], runs: Sequence[Run]) -> list[Bucket]:
    """Move the runs of a bucket that lacks values into the only other one that these could be in."""
    order = {id(run): at for at, run in enumerate(runs)}
    kept = list(buckets)
    # The logs of other benchmarks have none of these values.
    ours = [bucket for bucket in buckets if bucket.aspects.benchmark == BENCHMARK]
    for bucket in sorted(ours, key=_missing, reverse=True):
        home = _home(bucket, kept)
        if home is None:
            continue
        lacking = tuple(key for key in bucket.identity if _lacks(bucket, home, key))
        home.unknown[lacking] += len(bucket.runs)
        home.runs = sorted([*home.runs, *bucket.runs], key=lambda run: order[id(run)])
        kept.remove(bucket)
    return kept


def _home(bucket: Bucket, others: Sequence[Bucket]) -> Bucket | None:
    """The bucket that knows most of those that these runs could be in; None if there are several that contradict."""
    homes = [other for other in others if other is not bucket and _could_be(bucket, other)]
    fullest = min(homes, key=_missing, default=None)
    return fullest if all(home is fullest or _could_be(home, fullest) for home in homes if fullest) else None


_MAY_BE_UNKNOWN = {"nodes", *IDENTITY}
"""What is unknown of a run whose record is missing or damaged, or whose trainer did not log it."""


def _missing(bucket: Bucket) -> int:
    return sum(bucket.identity.get(key) is None for key in _MAY_BE_UNKNOWN)


def _lacks(bucket: Bucket, other: Bucket, key: str) -> bool:
    return key in _MAY_BE_UNKNOWN and bucket.identity[key] is None and other.identity[key] is not None


def _could_be(bucket: Bucket, other: Bucket) -> bool:
    """Whether `other` knows more than `bucket`, and nothing else than it."""
    if bucket.aspects != other.aspects:
        return False
    differing = [key for key, value in bucket.identity.items() if value != other.identity[key]]
    return bool(differing) and all(_lacks(bucket, other, key) for key in differing)
