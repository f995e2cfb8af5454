"""Reference convergence points (RCP): do these runs reach the target in as many epochs as honest runs do?

MLPerf's check: the olympic mean of the epochs to target (without the fastest and the slowest run) may not be
significantly below the reference's (one-sided t-test, alpha 0.05, the reference's standard deviation on both sides), by
batch size, interpolated between points. Faster convergence than that means other mathematics; slower is only warned of.

    python -m compliance.convergence RUN... --out compliance/rcp/mini.json

makes a variant's points from run folders, each of which must pass its own check.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmark import mllog
from datasets.errors import HELD, UserError, run_door
from datasets.manifest import write_atomically

from .findings import WARNING, Fault, Rule
from .log import Log, read
from .log_rules import is_number, is_whole
from .run_rules import Runs, status_of

RCP_DIR = Path(__file__).parent / "rcp"
ALPHA = 0.05
DROPPED = 2
"""An olympic mean leaves out the fastest and the slowest."""
MIN_REFERENCE_RUNS = 20
"""MLPerf asks twice as many reference runs as a submission has."""


@dataclass(frozen=True)
class Point:
    """Reference runs of a variant at one batch size: epochs to target of each, and the hash of their parameters."""

    batch_size: int
    epochs: tuple[int, ...]
    params_sha256: str | None = None

    @property
    def mean(self) -> float:
        """Olympic mean of the epochs to target."""
        return olympic_mean(self.epochs)

    @property
    def deviation(self) -> float:
        """Standard deviation of the epochs of all runs, with divisor n as MLPerf has it."""
        mean = sum(self.epochs) / len(self.epochs)
        return math.sqrt(sum((epoch - mean) ** 2 for epoch in self.epochs) / len(self.epochs))


@dataclass(frozen=True)
class Reference:
    """What a set of runs is compared with: mean and standard deviation in epochs, and the reference's number of runs."""

    mean: float
    deviation: float
    runs: int

    def margin(self, runs: int) -> float:
        """By how many epochs the olympic mean of `runs` runs may differ from the reference's and not be significant."""
        from scipy import stats

        ours, theirs = runs - DROPPED, self.runs - DROPPED
        critical = float(stats.t.ppf(1 - ALPHA, ours + theirs - 2))
        return critical * self.deviation * math.sqrt(1 / ours + 1 / theirs)


def olympic_mean(values: tuple[float, ...] | list[float]) -> float:
    """Mean without the smallest and the largest value; needs three values."""
    kept = sorted(values)[1:-1]
    return sum(kept) / len(kept)


def read_points(variant: str, folder: Path = RCP_DIR) -> list[Point]:
    """A variant's reference points by batch size; empty where none were made; UserError for a broken file."""
    path = folder / f"{variant}.json"
    try:
        tree = orjson.loads(path.read_bytes())
        points = [
            Point(
                int(entry["BS"]),
                tuple(int(epochs) for epochs in entry["Epochs to converge"]),
                entry["Hyperparams"].get("params_sha256"),
            )
            for entry in tree.values()
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"not a file of reference points ({error!r})", where=path) from None
    if any(len(point.epochs) <= DROPPED for point in points):
        raise UserError("a reference point needs more than two runs", where=path)
    return sorted(points, key=lambda point: point.batch_size)


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
    """Epochs until the first evaluation that passed; infinite where the run failed."""
    target = log.value(mllog.TARGET_WER)
    if status_of(log) == mllog.SUCCESS and is_number(target):
        for event in log.all(mllog.EVAL_ACCURACY):
            if is_number(event.value) and event.value <= target and is_whole(event.epoch_num, 1):
                return event.epoch_num  # type: ignore[return-value]
    return math.inf


def rcp_convergence(runs: Runs) -> Iterator[Fault]:
    """A closed result converges neither significantly faster nor slower than the reference."""
    first = runs.logs[0]
    variant, batch_size = first.value(mllog.VARIANT), first.value(mllog.GLOBAL_BATCH_SIZE)
    if first.value(mllog.SUBMISSION_DIVISION) != "closed" or not isinstance(variant, str) or "/" in variant:
        return
    event = first.first(mllog.GLOBAL_BATCH_SIZE)
    line = event.line if event else None
    epochs = [epochs_to_target(log) for log in runs.logs]
    # Without the slowest, one failed run still leaves a mean.
    if len(epochs) <= DROPPED or sum(map(math.isinf, epochs)) > 1 or not is_whole(batch_size, 1):
        return
    points = read_points(variant)
    hashes = {log.value(mllog.PARAMS_SHA256) for log in runs.logs}
    points = [point for point in points if point.params_sha256 is None or {point.params_sha256} == hashes]
    reference = reference_at(points, batch_size)
    if reference is None:
        remedy = "make them: `sh script/make_rcp.sh`"
        found = f"none for {variant} with these parameters at batch size {batch_size}"
        yield Fault("reference convergence points", found, remedy, line, WARNING, first.path)
        return
    mean, margin = olympic_mean(epochs), reference.margin(len(epochs))
    found = f"{mean:.3f} epochs (olympic mean of {len(epochs)} runs)"
    if mean < reference.mean - margin:
        expected = f"at least {reference.mean - margin:.3f} epochs to target ({reference.mean:.3f} in the reference)"
        remedy = "a closed entry keeps the reference's mathematics: look for what makes it converge faster"
        yield Fault(expected, found, remedy, line, file=first.path)
    elif mean > reference.mean + margin:
        expected = f"at most {reference.mean + margin:.3f} epochs to target ({reference.mean:.3f} in the reference)"
        remedy = "look for a fault in the numerics, the data or the machine"
        yield Fault(expected, found, remedy, line, WARNING, first.path)


CONVERGENCE_RULES = [
    Rule(
        "rcp-convergence",
        "A closed result's epochs to target do not lie significantly below the reference's (above: a warning).",
        rcp_convergence,
    )
]


def make_points(run_dirs: list[Path]) -> dict[str, object]:
    """The reference points of the runs below these folders, one entry for each batch size, in MLPerf's own format.

    UserError where a run breaks a rule, runs do not belong together, or there are too few.
    """
    from .check import log_findings

    logs: dict[int, list[Log]] = {}
    paths = [path for run in run_dirs for path in (sorted(run.rglob("result.txt")) if run.is_dir() else [run])]
    if not paths:
        raise UserError("no run lies here", where=", ".join(map(str, run_dirs)))
    for path in paths:
        log = read(path)
        errors = [finding for finding in log_findings(log, None)[1] if finding.severity != WARNING]
        if errors:
            place = f"{log.path}:{errors[0].line}"
            raise UserError(f"expected {errors[0].expected}, found {errors[0].found}", where=place)
        logs.setdefault(log.value(mllog.GLOBAL_BATCH_SIZE), []).append(log)
    tree: dict[str, object] = {}
    for batch_size, of_size in sorted(logs.items()):
        seeds = [log.value(mllog.SEED) for log in of_size]
        kinds = {(log.value(mllog.VARIANT), log.value(mllog.PARAMS_SHA256)) for log in of_size}
        if len(kinds) > 1 or len(set(seeds)) < len(seeds):
            raise UserError(
                "the runs are of several variants, or two of them share a seed", where=f"batch size {batch_size}"
            )
        if len(of_size) < MIN_REFERENCE_RUNS:
            remedy = f"make at least {MIN_REFERENCE_RUNS}"
            raise UserError(
                f"{len(of_size)} runs are too few for a point", where=f"batch size {batch_size}", remedy=remedy
            )
        variant, params_sha256 = next(iter(kinds))
        order = sorted(range(len(of_size)), key=lambda index: seeds[index])
        accelerators = of_size[0].value(mllog.ACCELERATORS)
        tree[f"{mllog.BENCHMARK}_{variant}_bs{batch_size}"] = {
            "Benchmark": mllog.BENCHMARK,
            "Variant": variant,
            "Creator": of_size[0].value(mllog.SUBMISSION_ORG),
            "Platform": accelerators[0].get("name") if isinstance(accelerators[0], dict) else None,
            "BS": batch_size,
            "Hyperparams": {"params_sha256": params_sha256},
            "Dataset": of_size[0].value(mllog.DATASET)["tree_sha256"],
            "Epochs to converge": [epochs_to_target(of_size[index]) for index in order],
            "Seeds": [seeds[index] for index in order],
        }
    return tree


def main() -> int:
    """Make a variant's reference points from run folders."""
    parser = argparse.ArgumentParser(
        prog="python -m compliance.convergence", description="Make reference convergence points from run folders."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of such")
    parser.add_argument("--out", type=Path, required=True, help="the file to write, e.g. compliance/rcp/mini.json")
    args = parser.parse_args()
    tree = make_points(args.runs)
    write_atomically(args.out, orjson.dumps(tree, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return HELD


if __name__ == "__main__":
    sys.exit(run_door(main))
