"""The seeds of an MLPerf result, as MLPerf's seed_checker compares them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmark import mllog
from compliance.findings import WARNING, Fault, Rule, shown
from compliance.log import Log
from compliance.mlperf.checked_result import SEED_BYPASS, MlperfResult

_RULES = "see the rules on seeds of MLPerf Training"


def _check(result: MlperfResult) -> Iterator[Fault]:
    if not result.compared or SEED_BYPASS in result.bypasses:
        return
    first: dict[tuple[object, object, int], Path] = {}
    for log in result.logs:
        events = log.all(mllog.SEED)
        if log.bad:
            # The seeds of a broken log cannot be read, whatever else the log says.
            found, line = "a line that cannot be read", log.bad[0].line
            yield Fault("seeds that can be read", found, "restore the line as it was printed", line, file=log.path)
            continue
        if not events:
            yield Fault("a seed in every run", "none", "log the seed of every run (key: seed)", file=log.path)
        elif len(events) > 1:
            found = f"{len(events)} seeds"
            yield Fault("one seed in every run", found, _RULES, events[1].line, WARNING, log.path)
        yield from _repeated(log, first)


def _repeated(log: Log, first: dict[tuple[object, object, int], Path]) -> Iterator[Fault]:
    """The seeds of a log that the same source line logged in another run."""
    seeds = []
    for event in log.all(mllog.SEED):
        try:
            place = (event.metadata["file"], event.metadata["lineno"])
            seeds.append(((*place, int(event.value)), event.line))
            hash(place)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            found, remedy = f"{shown(event.value)} ({type(error).__name__}: {error})", "log it through mllog"
            expected = "an integer, with the source file and line that logged it"
            yield Fault(expected, found, remedy, event.line, file=log.path)
            return
    for seed, line in seeds:
        if seed in first:
            found = f"{seed[2]}, logged by {shown(seed[0])} line {shown(seed[1])}, as in {first[seed].name}"
            yield Fault("a seed that no other run has", found, "run with another seed", line, file=log.path)
        else:
            first[seed] = log.path


SEED_RULES = [Rule("official-seeds", "The runs of a closed MLPerf result have different seeds.", _check)]
