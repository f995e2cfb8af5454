"""Makes a variant's reference convergence points (RCP) from run folders, each of which must be compliant.

    python -m compliance.make_rcp RUN... --out compliance/rcp/mini.json

`compliance.convergence` compares runs with them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson

from benchmark import mllog
from benchmark.submission import LOG_FILE
from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError, run_cli
from common.files import write_atomically
from common.formats import REFERENCE_POINT
from compliance.convergence import epochs_to_target
from compliance.findings import WARNING
from compliance.log import Log, read
from compliance.log_check import log_findings

MIN_REFERENCE_RUNS = 20
"""MLPerf requires twice as many reference runs as a submission has."""


def make_points(run_dirs: list[Path]) -> dict[str, object]:
    """The reference points of the runs in these folders, one entry for each batch size, in MLPerf's own format.

    Raises UserError if a run breaks a rule, the runs are of different kinds, or there are too few.
    """
    logs: dict[int, list[Log]] = {}
    paths = [path for run in run_dirs for path in (sorted(run.rglob(LOG_FILE)) if run.is_dir() else [run])]
    if not paths:
        raise UserError("no runs found", where=", ".join(map(str, run_dirs)))
    for path in paths:
        log = read(path)
        errors = [finding for finding in log_findings(log)[1] if finding.severity != WARNING]
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
                "the runs are of several variants, or two runs share a seed", where=f"batch size {batch_size}"
            )
        if len(of_size) < MIN_REFERENCE_RUNS:
            remedy = f"make at least {MIN_REFERENCE_RUNS}"
            raise UserError(
                f"{len(of_size)} runs are too few for a point", where=f"batch size {batch_size}", remedy=remedy
            )
        variant, params_sha256 = next(iter(kinds))
        order = sorted(range(len(of_size)), key=lambda index: seeds[index])
        accelerators = of_size[0].value(mllog.ACCELERATORS)
        tree[f"{mllog.BENCHMARK}_{variant}_bs{batch_size}"] = REFERENCE_POINT.with_version(
            {
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
        )
    return tree


def main() -> int:
    """Make a variant's reference points from run folders."""
    parser = argparse.ArgumentParser(
        prog="python -m compliance.make_rcp",
        description="Make reference convergence points from run folders. `sh script/make_rcp.sh` makes the runs first.",
        epilog="example:\n  python -m compliance.make_rcp runs/rcp/series/mini-TIME --out compliance/rcp/mini.json",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of run folders")
    parser.add_argument("--out", type=Path, required=True, help="the file to write, e.g. compliance/rcp/mini.json")
    args = parser.parse_args()
    tree = make_points(args.runs)
    write_atomically(args.out, orjson.dumps(tree, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(run_cli(main))
