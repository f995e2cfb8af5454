"""Results and submission packages: runs and their mean, divisions and statuses, file names, the folder layout.

`results` builds and scores packages, `compliance` checks them. The layout is that of MLPerf's published rounds:
`ORG/systems/SYSTEM.json`, `ORG/results/SYSTEM/BENCHMARK/result_N.txt` and `ORG/benchmarks/BENCHMARK/` with the code.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

BENCHMARK = "deepspeech2"
"""The name of this benchmark in logs and folders."""

# ---------------------------------------------------------------------------------------------------------------------
# Runs of a result

RUNS = 10
"""Runs of one result. DeepSpeech2 was never in a round: ten runs are those of MLPerf's own speech benchmark (rnnt)."""
MAX_TARGET_WER = 23.0
"""Percent: the reference's target; an open submission may only set a lower one."""


def olympic_mean(values: Sequence[float], dropped: int = 1) -> float | None:
    """Mean of one value per run without the `dropped` smallest and largest; a failed run counts as infinite, the
    largest.

    None when more runs failed than may be dropped, or nothing is left. Source: mlperf_logging.result_summarizer,
    `_compute_olympic_average`; the sum is over sorted values, so that the result is bit-identical.
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
"""The name of a log's submission_status in a system description.

mlperf_logging's system_desc_checker accepts no other `status` from rule set 4.0.0 on (its condition names 4.1, but
holds for all of 4); before, it accepted any.
"""
STATUSES = tuple(AVAILABILITY)

UNFINISHED = ("unfinished", "interrupted")
"""Record statuses of runs that may still continue: not yet part of a result."""


def devices_of(accelerators: object) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The devices in a log's `accelerators`, and those of them that are not CPUs; both empty if there are none."""
    devices = [each for each in accelerators if isinstance(each, dict)] if isinstance(accelerators, list) else []
    return devices, [each for each in devices if not str(each.get("device")).startswith("cpu")]


# ---------------------------------------------------------------------------------------------------------------------
# Files of a run, in its folder and numbered in a package

LOG_FILE, RECORD_FILE, PARAMS_FILE = "result.txt", "record.json", "params.yaml"
TELEMETRY_FILE, ERRORS_FILE = "telemetry.csv", "trainer.err"
HASHED_FILES = (LOG_FILE, PARAMS_FILE, TELEMETRY_FILE, ERRORS_FILE)
"""The files whose SHA-256 is in the record, if they exist."""
LOG_SUFFIXES = (".txt", ".log", ".out")
"""Suffixes of files that may be logs under another name."""
_NUMBERED = re.compile(
    "|".join(
        re.escape(stem) + "_[0-9]+" + re.escape(suffix)
        for stem, suffix in map(os.path.splitext, (RECORD_FILE, *HASHED_FILES))
    )
)
_NUMBERED_LOG = re.compile(r"result_([0-9]+)\.txt")


def number_of(log: Path) -> int | None:
    """N of a log `result_N.txt`; None for a log with another name."""
    found = _NUMBERED_LOG.fullmatch(log.name)
    return int(found[1]) if found else None


def is_result(log: Path) -> bool:
    """Whether a file has the name of a result's log: `result.txt` in a run folder, `result_N.txt` in a package."""
    return log.name == LOG_FILE or number_of(log) is not None


def numbered(name: str, number: int | str) -> str:
    """The name of a run's file in a package: `record_3.json` for record.json of run 3."""
    stem, suffix = os.path.splitext(name)
    return f"{stem}_{number}{suffix}"


def is_numbered(path: Path) -> bool:
    """Whether a file has the name of a run's file in a package: `result_N.txt`, `record_N.json`, ..."""
    return _NUMBERED.fullmatch(path.name) is not None


def file_of_run(log: Path, name: str) -> Path | None:
    """The path of another file of a log's run: `telemetry.csv` for `result.txt`, `telemetry_3.csv` for `result_3.txt`.

    None for a log with another name, which has no other files.
    """
    if found := _NUMBERED_LOG.fullmatch(log.name):
        return log.with_name(numbered(name, found[1]))
    return log.with_name(name) if log.name == LOG_FILE else None


def is_run_folder(folder: Path) -> bool:
    """Whether this is the folder of a run; its log may be missing (a run that died early)."""
    return (folder / LOG_FILE).is_file() or (folder / RECORD_FILE).is_file()


# ---------------------------------------------------------------------------------------------------------------------
# The layout of a package, and of a published round

SYSTEMS, RESULTS, BENCHMARKS = FOLDERS = ("systems", "results", "benchmarks")
"""The folders in a submitter's folder."""
IMPLEMENTATIONS = "implementations"
SUMS_FILE, LOCK_FILE = "SHA256SUMS", "requirements.lock"
README_FILE, START_FILE = "README.md", "run_and_time.sh"
SYSTEM_FILES = (README_FILE, START_FILE, PARAMS_FILE)
"""The files in `setup_of` a system that say how to reproduce its result."""


def description_of(system: str) -> str:
    """The path of a system's description in a submitter's folder."""
    return f"{SYSTEMS}/{system}.json"


def results_of(system: str, benchmark: str = BENCHMARK) -> str:
    """The folder of a system's logs of a benchmark in a submitter's folder."""
    return f"{RESULTS}/{system}/{benchmark}"


def setup_of(system: str, benchmark: str = BENCHMARK) -> str:
    """The folder in a submitter's folder that says how to reproduce a system's result."""
    return f"{BENCHMARKS}/{benchmark}/{system}"


def code_of(name: str, benchmark: str = BENCHMARK) -> str:
    """The folder of the implementation `name` in a submitter's folder."""
    return f"{BENCHMARKS}/{benchmark}/{IMPLEMENTATIONS}/{name}"


def module_files(module: str) -> tuple[str, str]:
    """The possible files of a module that `python -m` starts, relative to the implementation's folder."""
    path = module.replace(".", "/")
    return f"{path}.py", f"{path}/__main__.py"


def locks_of(org: Path, benchmark: str) -> list[Path]:
    """The lock files of the implementations of a benchmark in the submitter's folder `org`."""
    found = (org / BENCHMARKS / benchmark / IMPLEMENTATIONS).glob(f"*/{LOCK_FILE}")
    return [path for path in sorted(found) if path.is_file()]
