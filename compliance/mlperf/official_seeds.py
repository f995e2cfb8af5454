"""The seeds of an MLPerf result, as MLPerf's seed_checker compares them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark import mllog
from compliance.findings import WARNING, Fault, Rule, shown
from compliance.log import Log
from compliance.mlperf.checked_result import SEED_BYPASS, MlperfResult

Seed = tuple[int, Any, Any]
"""A line of a log with a seed, its value and its metadata."""
_RULES = "see the rules on seeds of MLPerf Training"


def _check(result: MlperfResult) -> Iterator[Fault]:
    if not result.compared or SEED_BYPASS in result.bypasses:
        return
    first: dict[tuple[object, object, int], Path] = {}
    for log in result.logs:
        seeds, broken = _seeds_of(log)
        if broken:
            # The seeds of a broken log cannot be read, whatever else the log says.
            found, line = "a line that cannot be read", broken[0]
            yield Fault("seeds that can be read", found, "restore the line as it was printed", line, file=log.path)
            continue
        if not seeds:
            yield Fault("a seed in every run", "none", "log the seed of every run (key: seed)", file=log.path)
        elif len(seeds) > 1:
            found = f"{len(seeds)} seeds"
            yield Fault("one seed in every run", found, _RULES, seeds[1][0], WARNING, log.path)
        yield from _repeated(log, seeds, first)


def _seeds_of(log: Log) -> tuple[list[Seed], list[int]]:
    """The seeds of a log and its broken lines, as MLPerf's parser reads them; by ours where its checker stopped."""
    if log.official is not None and log.official.stopped is None and log.official.missing_rules is None:
        return log.official.seeds, log.official.broken
    return [(each.line, each.value, each.metadata) for each in log.all(mllog.SEED)], [bad.line for bad in log.bad]


def _repeated(log: Log, logged: list[Seed], first: dict[tuple[object, object, int], Path]) -> Iterator[Fault]:
    """The seeds of a log that the same source line logged before, in another run or in this one."""
    seeds = []
    for line, value, metadata in logged:
        try:
            place = (metadata["file"], metadata["lineno"])
            seeds.append(((*place, int(value)), line))
            hash(place)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            found, remedy = f"{shown(value)} ({type(error).__name__}: {error})", "log it through mllog"
            expected = "an integer, with the source file and line that logged it"
            yield Fault(expected, found, remedy, line, file=log.path)
            return
    repeats: dict[tuple[object, object, int], list[int]] = {}
    for seed, line in seeds:
        if first.setdefault(seed, log.path) is not log.path or seed in repeats:
            repeats.setdefault(seed, []).append(line)
        elif seed not in repeats:
            repeats[seed] = []
    for seed, lines in repeats.items():
        if not lines:
            continue
        other = "another run" if first[seed] is not log.path else "this run before"
        times = f" ({len(lines)} times)" if len(lines) > 1 else ""
        found = f"{seed[2]}, logged by {shown(seed[0])} line {shown(seed[1])}, as in {first[seed].name}{times}"
        yield Fault(f"a seed that {other} has not logged", found, "run with another seed", lines[0], file=log.path)


SEED_RULES = [Rule("official-seeds", "The runs of a closed MLPerf result have different seeds.", _check)]
