"""MLPerf rounds and how their repositories' folders are named."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

TRAINING, HPC = "training", "hpc"
USAGES = (TRAINING, HPC)
"""The suites, by mlperf_logging's names (`--usage`)."""

_VERSION = r"[ _.-]*v?(?P<version>[0-9]+\.[0-9]+)(?:\.[0-9]+)*(?![0-9])"
_NAMED = (
    re.compile(r"(?<![a-z0-9])(?:training|hpc)[ _-]results?" + _VERSION, re.IGNORECASE),
    re.compile(
        r"(?:(?:mlperf|training|hpc|results?|submissions?|round)(?:[ _.-]+|(?=v?[0-9])))+" + _VERSION, re.IGNORECASE
    ),
)
"""Names of repositories with their version, as cloned, downloaded, unpacked or copied: `training_results_v4.0`,
`training_results_v4.0-main`, `copy of hpc_results_v3.0 (1)` (first pattern, anywhere in the name), and
`submission_training_1.0`, `Submissions-round-2.0` (second pattern, from the name's start)."""
_BARE = re.compile(r"v([0-9]+\.[0-9]+)(?:\.0)?(?:[ _-].*)?", re.IGNORECASE)
"""A folder's name that is only a version: `v1.1`, `v0.5.0`, `v1.1 (copy)`."""
_WITHOUT_RULES = ("0.5",)
"""Rounds for which mlperf_logging has no rule set."""


@dataclass(frozen=True)
class Round:
    """One MLPerf round. `usage` is None if only the version is known (a folder `v1.1`)."""

    usage: str | None
    version: str

    @property
    def ruleset(self) -> str:
        """The name of its rule set in mlperf_logging: `4.0.0`."""
        return f"{self.version}.0"

    def __str__(self) -> str:
        """The round as users know it: `4.0`, `HPC 3.0`."""
        return f"HPC {self.version}" if self.usage == HPC else self.version


def round_of_name(name: str) -> Round | None:
    """The round in the name of a repository's folder, in any spelling; None if there is none."""
    found = _NAMED[0].search(name) or _NAMED[1].match(name)
    if found is None:
        return None
    usage = next((each for each in (HPC, TRAINING) if re.search(rf"(?<![a-z]){each}(?![a-z])", name, re.I)), None)
    return Round(usage, found["version"])


def rounds_above(path: Path) -> Iterator[Round]:
    """The rounds in the names of the folders above `path`, nearest first: as `path` is spelt, then through links.

    A folder whose whole name is the version of a known round (`v1.1`) counts only as the direct parent of `path`, or
    in a repository of round 0.5, where it is above the submitters' folders.
    """
    for spelling in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
        yield from _rounds_in(Path(spelling).parents)


def _rounds_in(parents: Iterable[Path]) -> Iterator[Round]:
    for distance, folder in enumerate(parents):
        named = round_of_name(folder.name)
        if named is None and (bare := _BARE.fullmatch(folder.name)) and (distance == 0 or bare[1] == "0.5"):
            named = Round(None, bare[1]) if bare[1] in known_versions() else None
        if named is not None:
            yield named


@functools.cache
def known_versions() -> frozenset[str]:
    """The versions of all rounds that mlperf_logging knows, and of those before it."""
    from mlperf_logging.compliance_checker.mlp_compliance import rule_choices

    return frozenset({*_WITHOUT_RULES, *(name.removesuffix(".0") for name in rule_choices())})
