"""Finds the results in an MLPerf tree as MLPerf's own tools do, and counts what is there and is not a result.

A result is a folder `ORG/results/SYSTEM/BENCHMARK` (MLPerf HPC: `ORG/results/SYSTEM/strong|weak/BENCHMARK`) with logs
`result_*.txt`. Nothing below it is a result: not the runs that a submitter of weak scaling took out
(`pruned_results/`), nor nested copies. Only directories are read; no file is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.rounds.descriptions import ENTRY_FILE
from benchmark.rounds.round_names import HPC, Round, rounds_above
from benchmark.rounds.rules_by_round import Rules, canonical_name, rules_of, usage_of
from benchmark.submission import (
    BENCHMARK,
    BENCHMARKS,
    RESULTS,
    SUMS_FILE,
    SYSTEMS,
    description_of,
    is_numbered,
    number_of,
)
from common.errors import listed
from common.files import natural_key

SCALING_KINDS = ("strong", "weak")
"""MLPerf HPC's kinds, each with its own folder between system and benchmark."""
WEAK = "weak"
POWER = "power"
"""The folder of a result's power logs."""
SCALING_FILE = "scaling.json"
_KNOWN_FILES = (SCALING_FILE, "package_checker_params")
_SHOWN = 3


@dataclass(frozen=True)
class ResultFolder:
    """The result of one system and benchmark.

    `org` is the submitter's folder, which has `results/`; `benchmark` is the canonical name. `round` is None if no
    folder's name has it. `kind` is HPC's `strong` or `weak`. `logs` are in the order of their numbers. `description`
    and `scaling` are paths of files that exist, `has_power` says whether there are power logs. `unread` describes what
    lies in the folder and is not read.
    """

    folder: Path
    org: Path
    submitter: str
    system: str
    benchmark: str
    round: Round | None
    kind: str | None = None
    logs: list[Path] = field(default_factory=list)
    description: Path | None = None
    scaling: Path | None = None
    has_power: bool = False
    unread: list[str] = field(default_factory=list)

    @property
    def power(self) -> Path | None:
        """The folder of the result's power logs; None if it has none."""
        return self.folder / POWER if self.has_power else None

    @property
    def ours(self) -> bool:
        """Whether this is a DeepSpeech2 result."""
        return self.benchmark == BENCHMARK

    @property
    def rules(self) -> Rules:
        """The rules of its benchmark in its round."""
        return rules_of(self.benchmark, self.round)


def is_submitter(folder: Path) -> bool:
    """Whether a folder is a submitter's: results, with their system descriptions, their code or their hashes."""
    return (folder / RESULTS).is_dir() and (
        (folder / SYSTEMS).is_dir() or (folder / BENCHMARKS).is_dir() or (folder / SUMS_FILE).is_file()
    )


def place_of(folder: Path) -> tuple[Path, str, str | None] | None:
    """The submitter's folder, system and scaling kind of a result's folder, from its path; None elsewhere."""
    return _place(Path(os.path.abspath(folder))) or _place(Path(os.path.realpath(folder)))


def _place(folder: Path) -> tuple[Path, str, str | None] | None:
    if len(folder.parents) > 3 and folder.parent.name in SCALING_KINDS and folder.parents[2].name == RESULTS:
        return folder.parents[3], folder.parents[1].name, folder.parent.name
    if len(folder.parents) > 2 and folder.parents[1].name == RESULTS and folder.name not in SCALING_KINDS:
        return folder.parents[2], folder.parent.name, None
    return None


def result_at(folder: Path, *, empty: bool = False) -> ResultFolder | None:
    """The result in a folder, with its logs; None if the folder is not at the place of a result.

    A folder without a log is only a result if `empty`.
    """
    place = place_of(folder)
    if place is None:
        return None
    org, system, kind = place
    benchmark = canonical_name(folder.name)
    entries = sorted(os.scandir(folder), key=lambda entry: natural_key(entry.name))
    logs = [folder / entry.name for entry in entries if _is_log(entry, benchmark)]
    if not logs and not empty:
        return None
    its_round = round_of_result(org, benchmark, kind)
    description = _description(org, system)
    return ResultFolder(
        folder,
        org,
        _submitter(org, its_round),
        system,
        benchmark,
        its_round,
        kind,
        logs,
        description,
        folder / SCALING_FILE if (folder / SCALING_FILE).is_file() else None,
        any(entry.name == POWER and entry.is_dir() for entry in entries),
        _unread(entries, {log.name for log in logs}),
    )


def round_of_result(org: Path, benchmark: str, kind: str | None = None) -> Round | None:
    """The round of a result in a submitter's folder; DeepSpeech2 is in none.

    A folder that is only called `v1.1` leaves the suite open: it follows from the scaling kind or the benchmark.
    """
    found = None if benchmark == BENCHMARK else next(rounds_above(org), None)
    if found is None or found.usage is not None:
        return found
    return Round(HPC if kind else usage_of(benchmark), found.version)


def results_in(
    org: Path, unread: list[str] | None = None, report: Callable[[OSError], None] | None = None
) -> Iterator[ResultFolder]:
    """The results in a submitter's folder, by system and benchmark, in natural order.

    Folders with logs that are not at a result's place are described in `unread` (`path: reason`); errors of reading a
    directory are passed to `report`.
    """
    known = [] if unread is None else unread
    top = org / RESULTS
    for folder, subfolders, files in os.walk(top, onerror=report):
        subfolders.sort(key=natural_key)
        here = Path(folder)
        if here == top:
            continue
        result = result_at(here)
        if result is not None:
            yield result
            subfolders.clear()
        elif logs := [name for name in files if _LOG_NAME.fullmatch(name)]:
            known.append(f"{here}: {len(logs)} logs outside a folder results/SYSTEM/BENCHMARK: not read")
            subfolders.clear()
        elif place_of(here) is not None and not _has_logs_below(here) and (count := _count(here)):
            known.append(f"{here}: no log result_*.txt; {count} other files are not read")
            subfolders.clear()


_LOG_NAME = re.compile(r"result_.*\.txt")
"""MLPerf's tools read all logs with such names, `result_0.txt` and `result_run0.txt`."""


def is_log_name(name: str, benchmark: str | None) -> bool:
    """Whether a file has the name of a log of a result; ours are only `result_N.txt`."""
    if benchmark == BENCHMARK:
        return number_of(Path(name)) is not None
    return _LOG_NAME.fullmatch(name) is not None


def _is_log(entry: os.DirEntry[str], benchmark: str) -> bool:
    return is_log_name(entry.name, benchmark) and not entry.is_dir()


def _unread(entries: list[os.DirEntry[str]], logs: set[str]) -> list[str]:
    """What is in a result's folder and is neither read nor known."""
    other = [
        entry
        for entry in entries
        if entry.name not in logs
        and entry.name not in _KNOWN_FILES
        and (entry.is_dir() or not is_numbered(Path(entry.name)))
    ]
    files = [entry.name for entry in other if not entry.is_dir()]
    folders = [entry.name for entry in other if entry.is_dir() and entry.name != POWER]
    found = [f"{name}/ ({_count(Path(entry.path))} files)" for entry in other if (name := entry.name) in folders]
    if files:
        found.append(listed(files, _SHOWN, "files"))
    return found


def _has_logs_below(folder: Path) -> bool:
    return any(_LOG_NAME.fullmatch(name) for _, _, files in os.walk(folder) for name in files)


def _count(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _submitter(org: Path, its_round: Round | None) -> str:
    """The submitter's name: its folder's; in round 0.5 that of the folder below the round's (`v0.5.0/google/...`)."""
    if its_round is not None and its_round.version == "0.5":
        for folder in (org, *org.parents):
            if re.fullmatch(r"v0\.5(\.0)?", folder.parent.name):
                return folder.name
    return org.name


def _description(org: Path, system: str) -> Path | None:
    """The system's description: `systems/SYSTEM.json`; in round 0.5 `results/SYSTEM/entry.json`."""
    for path in (org / description_of(system), org / RESULTS / system / ENTRY_FILE):
        if path.is_file():
            return path
    return None
