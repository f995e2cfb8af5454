"""Runs and entries of a history for the tests of `python -m results gate`."""

from __future__ import annotations

import dataclasses
import math

from benchmark import record
from benchmark.rounds.rules_by_round import rules_of
from results.comparing.score_of_runs import score_runs
from results.comparing.speedup import RunFigures
from results.gating.sides import Runs
from tests.support.logs import FakeRun
from tests.support.run_folders import FakeMachine, write_run

LONG, SHORT = (1290, 800, 420, 330, 250), (1290, 800, 420, 250)


def series(folder, count=3, slower=1.0, commit="a", seeds=0, day=0, machine=None, edits=(SHORT,), **changes):
    """Runs of one commit; equal `seeds` have equal seeds. Run n has the word errors `edits[n % len(edits)]`."""
    for number in range(count):
        fake = FakeRun(
            seed=1000 + seeds + number,
            start_s=1_760_000_000.0 + 3600 * number + 86400 * day,
            train_s=9.0 * slower * (1 + 0.01 * math.sin(number + slower)),
            word_edits=edits[number % len(edits)],
            **changes,
        )
        code = record.CodeVersion(commit=commit * 40, clean=True)
        write_run(folder / f"run-{number}", fake, machine or FakeMachine(), code=code)
    return folder


def of_runs(entry, minutes, seeds):
    """The same with other runs."""
    runs = [RunFigures(each, 3.0, 100.0 + n, seed) for n, (each, seed) in enumerate(zip(minutes, seeds, strict=True))]
    return dataclasses.replace(entry, runs=tuple(runs), score=score_runs(rules_of("deepspeech2"), minutes))


def with_values(entry, **values):
    """The same with other values of its configuration."""
    return dataclasses.replace(entry, configuration=entry.configuration | values)


def runs_of(*entries):
    return Runs("side", list(entries), [[] for _ in entries], [])


def one_line_of(text):
    return " ".join(text.split())
