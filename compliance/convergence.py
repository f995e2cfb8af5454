"""Reference convergence points (RCP): do these runs reach the target in as many epochs as the reference runs?

MLPerf's check: the olympic mean of the epochs to target (without the fastest and the slowest run) must not be
significantly below the reference's (one-sided t-test, alpha 0.05, the reference's standard deviation on both sides), by
batch size, interpolated between points. Faster convergence means that the mathematics differs; slower convergence is
only a warning. `make_rcp` makes the points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmark import mllog
from benchmark.rounds.rules_by_round import rules_of
from benchmark.submission import olympic_mean
from common.errors import UserError
from common.formats import REFERENCE_POINT, decode
from common.values import is_integer
from compliance.findings import WARNING, Fault, Rule
from compliance.log import Log
from compliance.run_rules import Runs

RCP_DIR = Path(__file__).parent / "rcp"
ALPHA = 0.05
DROPPED = 2 * rules_of(mllog.BENCHMARK).dropped


@dataclass(frozen=True)
class Point:
    """Reference runs of a variant at one batch size: their epochs to target and the hash of their parameters."""

    batch_size: int
    epochs: tuple[int, ...]
    params_sha256: str | None = None

    @property
    def mean(self) -> float:
        """Olympic mean of the epochs to target."""
        mean = olympic_mean(self.epochs)
        assert mean is not None, "read_points takes no fewer than three runs"
        return mean

    @property
    def deviation(self) -> float:
        """Standard deviation of the epochs of all runs, with divisor n as in MLPerf's rcp_checker."""
        mean = sum(self.epochs) / len(self.epochs)
        return math.sqrt(sum((epoch - mean) ** 2 for epoch in self.epochs) / len(self.epochs))


@dataclass(frozen=True)
class Reference:
    """The reference for a set of runs: mean and standard deviation in epochs, and its number of runs."""

    mean: float
    deviation: float
    runs: int

    def margin(self, runs: int) -> float:
        """Largest difference in epochs between the olympic mean of `runs` runs and the reference's that is not significant."""
        from scipy.special import stdtrit

        ours, theirs = runs - DROPPED, self.runs - DROPPED
        critical = float(stdtrit(ours + theirs - 2, 1 - ALPHA))
        return critical * self.deviation * math.sqrt(1 / ours + 1 / theirs)


_NAMES = {"BS": "batch_size", "Epochs to converge": "epochs"}
"""Names in MLPerf's files for the fields of a Point."""


def read_points(variant: str, folder: Path = RCP_DIR) -> list[Point]:
    """A variant's reference points by batch size; empty if there are none. Raises UserError for a broken file."""
    path = folder / f"{variant}.json"
    try:
        tree = orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except orjson.JSONDecodeError as error:
        raise UserError(f"not a file of reference points ({error})", where=path) from None
    if not isinstance(tree, dict):
        raise UserError("not a file of reference points: expected an object", where=path)
    points = [_point(entry, f"{path}: {name}") for name, entry in tree.items()]
    if any(len(point.epochs) <= DROPPED for point in points):
        raise UserError("a reference point needs more than two runs", where=path)
    return sorted(points, key=lambda point: point.batch_size)


def _point(entry: object, where: str) -> Point:
    fields = REFERENCE_POINT.current(entry, where)
    own = fields.get("Hyperparams")
    named = {ours: fields[theirs] for theirs, ours in _NAMES.items() if theirs in fields}
    named["params_sha256"] = own.get("params_sha256") if isinstance(own, dict) else None
    return decode(Point, named, name=where)


def reference_at(points: list[Point], batch_size: int) -> Reference | None:
    """The reference at a batch size, interpolated between the points around it; None outside their range."""
    for point in points:
        if point.batch_size == batch_size:
            return Reference(point.mean, point.deviation, len(point.epochs))
    below = [point for point in points if point.batch_size < batch_size]
    above = [point for point in points if point.batch_size > batch_size]
    if not below or not above:
        return None
    low, high = below[-1], above[0]
    share = (batch_size - low.batch_size) / (high.batch_size - low.batch_size)
    return Reference(
        low.mean + share * (high.mean - low.mean),
        low.deviation + share * (high.deviation - low.deviation),
        min(len(low.epochs), len(high.epochs)),
    )


def epochs_to_target(log: Log) -> float:
    """Epochs until the first evaluation that reached the target; infinite if the run failed."""
    passing = log.summary.first_passing
    if log.summary.status == mllog.SUCCESS and passing and is_integer(passing.event.epoch_num, 1):
        return passing.event.epoch_num
    return math.inf


def rcp_convergence(runs: Runs) -> Iterator[Fault]:
    """A closed result converges neither significantly faster nor slower than the reference."""
    first = runs.logs[0]
    variant, batch_size = first.value(mllog.VARIANT), first.value(mllog.GLOBAL_BATCH_SIZE)
    if first.value(mllog.SUBMISSION_DIVISION) != "closed" or not isinstance(variant, str) or "/" in variant:
        return
    line = first.line(mllog.GLOBAL_BATCH_SIZE)
    epochs = [epochs_to_target(log) for log in runs.logs]
    # The slowest run is dropped, so one failed run still gives a mean.
    mean = olympic_mean(epochs)
    if mean is None or not is_integer(batch_size, 1):
        return
    points = read_points(variant)
    hashes = {log.value(mllog.PARAMS_SHA256) for log in runs.logs}
    points = [point for point in points if point.params_sha256 is None or {point.params_sha256} == hashes]
    reference = reference_at(points, batch_size)
    if reference is None:
        remedy = "make them with `sh script/make_rcp.sh`"
        found = f"no reference points yet for {variant} with these parameters at batch size {batch_size}: not checked"
        yield Fault("reference convergence points", found, remedy, line, WARNING, first.path)
        return
    margin = reference.margin(len(epochs))
    found = f"{mean:.3f} epochs (olympic mean of {len(epochs)} runs)"
    if mean < reference.mean - margin:
        expected = f"at least {reference.mean - margin:.3f} epochs to target ({reference.mean:.3f} in the reference)"
        remedy = "a closed entry must keep the reference's mathematics: find what makes it converge faster"
        yield Fault(expected, found, remedy, line, file=first.path)
    elif mean > reference.mean + margin:
        expected = f"at most {reference.mean + margin:.3f} epochs to target ({reference.mean:.3f} in the reference)"
        remedy = "look for an error in the numerics, the data or the machine"
        yield Fault(expected, found, remedy, line, WARNING, first.path)


CONVERGENCE_RULES = [
    Rule(
        "rcp-convergence",
        "A closed result's epochs to target are not significantly below the reference's (above: warning).",
        rcp_convergence,
    )
]
