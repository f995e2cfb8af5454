"""What a result and its submission are: runs and their mean, divisions and statuses, names of files, the tree of a package.

What `results` builds and scores, and `compliance` checks. The tree is that of MLPerf's published rounds:
`ORG/systems/SYSTEM.json`, `ORG/results/SYSTEM/BENCHMARK/result_N.txt` and `ORG/benchmarks/BENCHMARK/` with the code.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from mlperf_logging.benchmark_meta import get_result_file_counts

BENCHMARK = "deepspeech2"
"""What logs and folders call this benchmark."""

# ---------------------------------------------------------------------------------------------------------------------
# Runs of a result

RUNS = 10
"""Runs of one result. DeepSpeech2 was never in a round: its ten are those of MLPerf's own speech benchmark (rnnt)."""
TRAINING_RUNS: dict[str, int] = get_result_file_counts("training")
"""Runs of one result by benchmark of MLPerf Training, from mlperf_logging."""
_RUNS_WANTED = {**get_result_file_counts("hpc"), **TRAINING_RUNS, BENCHMARK: RUNS}
_ALIASES = {"mask": "maskrcnn"}
_DROPPED_EACH_SIDE = {"unet3d": 4}
MAX_TARGET_WER = 23.0
"""Percent: the reference's target, which an open entry may only tighten."""


def runs_wanted(benchmark: str | None) -> int | None:
    """The MLPerf number of runs of a benchmark, None for one that mlperf_logging does not know."""
    return _RUNS_WANTED.get(_ALIASES.get(benchmark or "", benchmark or ""))


def dropped_each_side(benchmark: str | None) -> int:
    """How many runs the olympic mean drops at either end: four of unet3d's forty, one of any other's."""
    return _DROPPED_EACH_SIDE.get(benchmark or "", 1)


def olympic_mean(values: Sequence[float], dropped: int = 1) -> float | None:
    """Mean of one value a run without the `dropped` smallest and largest; a run that failed is infinite, so the largest.

    None when more runs failed than may be dropped, or nothing is left. Source: mlperf_logging.result_summarizer,
    `_compute_olympic_average`; the sum runs over sorted values, so that the result is equal to the last bit.
    """
    counted = sorted(values)[dropped : len(values) - dropped]
    return sum(counted) / len(counted) if counted and math.isfinite(counted[-1]) else None


# ---------------------------------------------------------------------------------------------------------------------
# Divisions and statuses

Division = Literal["closed", "open"]
DIVISIONS: tuple[str, ...] = get_args(Division)

AVAILABILITY = {
    "onprem": "Available on-premise",
    "cloud": "Available cloud",
    "preview": "Preview",
    "research": "Research, Development, or Internal (RDI)",
}
"""What a log's submission_status is called in a system description.

mlperf_logging's system_desc_checker takes no other `status` from rule set 4.0.0 on (its condition names 4.1, but holds for all of
4); before, it took any.
"""
STATUSES = tuple(AVAILABILITY)

UNFINISHED = ("unfinished", "interrupted")
"""Statuses of records of runs that may still go on: no part of a result yet."""


def devices_of(accelerators: object) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The devices that a log's `accelerators` lists, and those of them that are no CPU; both empty where it lists none."""
    devices = [each for each in accelerators if isinstance(each, dict)] if isinstance(accelerators, list) else []
    return devices, [each for each in devices if not str(each.get("device")).startswith("cpu")]


# ---------------------------------------------------------------------------------------------------------------------
# Files of a run, by themselves and numbered in a package

LOG_FILE, RECORD_FILE, PARAMS_FILE = "result.txt", "record.json", "params.yaml"
TELEMETRY_FILE, ERRORS_FILE = "telemetry.csv", "trainer.err"
SEALED_FILES = (LOG_FILE, PARAMS_FILE, TELEMETRY_FILE, ERRORS_FILE)
"""Those whose SHA-256 the record holds, where they are there."""
LOG_SUFFIXES = (".txt", ".log", ".out")
"""Of files that may be logs under another name."""
_NUMBERED = re.compile(
    "|".join(
        re.escape(stem) + "_[0-9]+" + re.escape(suffix)
        for stem, suffix in map(os.path.splitext, (RECORD_FILE, *SEALED_FILES))
    )
)
_NUMBERED_LOG = re.compile(r"result_([0-9]+)\.txt")


def number_of(log: Path) -> int | None:
    """N of a log `result_N.txt`; None for a log of another name."""
    found = _NUMBERED_LOG.fullmatch(log.name)
    return int(found[1]) if found else None


def numbered_logs(folder: Path) -> list[Path]:
    """The logs `result_N.txt` in a folder, by their numbers."""
    found = [(number, path) for path in folder.glob("result_*.txt") if (number := number_of(path)) is not None]
    return [path for _, path in sorted(found)]


def is_result(log: Path) -> bool:
    """Whether a file is called as logs of results are: `result.txt` in a run folder, `result_N.txt` in a package."""
    return log.name == LOG_FILE or number_of(log) is not None


def numbered(name: str, number: int | str) -> str:
    """What a run's file is called in a package: `record_3.json` for record.json of run 3."""
    stem, suffix = os.path.splitext(name)
    return f"{stem}_{number}{suffix}"


def is_numbered(path: Path) -> bool:
    """Whether a file is called as a run's files are in a package: `result_N.txt`, `record_N.json`, ..."""
    return _NUMBERED.fullmatch(path.name) is not None


def file_of_run(log: Path, name: str) -> Path | None:
    """Where another file of a log's run lies: `telemetry.csv` by `result.txt`, `telemetry_3.csv` by `result_3.txt`.

    None for a log of another name: it is alone.
    """
    if found := _NUMBERED_LOG.fullmatch(log.name):
        return log.with_name(numbered(name, found[1]))
    return log.with_name(name) if log.name == LOG_FILE else None


def is_run_folder(folder: Path) -> bool:
    """Whether a run left this folder; its log may be missing (a run that died early)."""
    return (folder / LOG_FILE).is_file() or (folder / RECORD_FILE).is_file()


# ---------------------------------------------------------------------------------------------------------------------
# The tree of a package, and of a published round

SYSTEMS, RESULTS, BENCHMARKS = FOLDERS = ("systems", "results", "benchmarks")
"""The folders of a submitter."""
IMPLEMENTATIONS = "implementations"
SUMS_FILE, LOCK_FILE = "SHA256SUMS", "requirements.lock"
README_FILE, START_FILE = "README.md", "run_and_time.sh"
SYSTEM_FILES = (README_FILE, START_FILE, PARAMS_FILE)
"""What says, in `setup_of` a system, how its result is made again."""
SCALING_KINDS = ("strong", "weak")
"""MLPerf HPC's, each with a folder of its own between system and benchmark."""
_ROUND = re.compile(
    r"(?:training_|hpc_|(?:results?|submissions?)[_-])(?:v|round[_-]?)?([0-9]+\.[0-9]+)(?![0-9])", re.IGNORECASE
)


def is_submitter(folder: Path) -> bool:
    """Whether a folder is a submitter's: results, with what describes them, made them or seals them."""
    return (folder / RESULTS).is_dir() and (
        (folder / SYSTEMS).is_dir() or (folder / BENCHMARKS).is_dir() or (folder / SUMS_FILE).is_file()
    )


def description_of(system: str) -> str:
    """Where a system's description lies in a submitter's folder."""
    return f"{SYSTEMS}/{system}.json"


def results_of(system: str, benchmark: str = BENCHMARK) -> str:
    """Where a system's logs of a benchmark lie in a submitter's folder."""
    return f"{RESULTS}/{system}/{benchmark}"


def setup_of(system: str, benchmark: str = BENCHMARK) -> str:
    """Where a submitter's folder says how a system's result is made again."""
    return f"{BENCHMARKS}/{benchmark}/{system}"


def code_of(name: str, benchmark: str = BENCHMARK) -> str:
    """Where the code of the implementation `name` lies in a submitter's folder."""
    return f"{BENCHMARKS}/{benchmark}/{IMPLEMENTATIONS}/{name}"


def module_files(module: str) -> tuple[str, str]:
    """Where the code of a module may lie that `python -m` starts, relative to the implementation's folder."""
    path = module.replace(".", "/")
    return f"{path}.py", f"{path}/__main__.py"


def locks_of(org: Path, benchmark: str) -> list[Path]:
    """The lock files of the implementations of a benchmark in the submitter's folder `org`."""
    found = (org / BENCHMARKS / benchmark / IMPLEMENTATIONS).glob(f"*/{LOCK_FILE}")
    return [path for path in sorted(found) if path.is_file()]


def rounds_above(path: Path) -> Iterator[tuple[str, str]]:
    """MLPerf's rounds that folders above `path` are named after, the nearest first, each with the folder's name.

    `training_results_v1.1` and `training_results_v1.1-main` (GitHub's archive of it) give "1.1".
    """
    for folder in Path(os.path.abspath(path)).parents:
        if found := _ROUND.search(folder.name):
            yield folder.name, found[1]
