"""One MLPerf result as the rules of a package see it: its place, its rule set, its division and its logs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mlperf_logging.benchmark_meta import get_allowed_benchmarks

from benchmark.rounds.result_tree import WEAK, ResultFolder
from benchmark.rounds.rules_by_round import rules_of, runs_of
from compliance.log import Log
from compliance.mlperf.official_logs import RuleSet

CLOSED = "closed"
PARAMS = "package_checker_params"
"""The file that switches checks off, in a system's or a benchmark's folder."""
RCP_BYPASS, SEED_BYPASS = "rcp-bypass", "seed-checker-bypass"


@dataclass
class MlperfResult:
    """A result of an MLPerf benchmark, with its logs in the order of package_checker (by name).

    `division` is that of the system's description, None if it has none.
    """

    place: ResultFolder
    rules: RuleSet
    division: object
    logs: list[Log] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder of the logs."""
        return self.place.folder

    @property
    def benchmark(self) -> str:
        """The name of the benchmark's folder; package_checker knows no other spelling."""
        return self.folder.name

    @property
    def weak(self) -> bool:
        """Whether this is weak scaling, of which any number of runs may be submitted."""
        return self.place.kind == WEAK

    @property
    def in_round(self) -> bool:
        """Whether the benchmark is one of its round; package_checker skips others."""
        return self.rules.name is not None and self.benchmark in get_allowed_benchmarks(
            self.rules.usage, self.rules.name
        )

    @property
    def log_rules(self) -> RuleSet:
        """The rule set for its logs: none in a round without the benchmark, as coverage says."""
        return self.rules if self.in_round else replace(self.rules, name=None)

    @property
    def wanted(self) -> int:
        """The number of runs of a result."""
        return runs_of(self.rules.usage)[self.benchmark]

    @property
    def forgiven(self) -> int:
        """How many runs may fail: olympic scoring drops them."""
        return rules_of(self.benchmark).dropped

    @property
    def compared(self) -> bool:
        """Whether seeds and convergence points are checked: in the closed division from round 1.0 on."""
        name = self.rules.name
        return name is not None and int(name.split(".")[0]) >= 1 and self.division == CLOSED

    @cached_property
    def bypasses(self) -> dict[str, Path]:
        """The checks that the submitter switched off, each with the file that says so.

        package_checker only takes a name on a last line without a line break: it compares lines with their ends.
        """
        found = {}
        for path in (self.folder.parent / PARAMS, self.folder / PARAMS):
            try:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            except OSError:
                continue
            found.update({line: path for line in lines if line in (RCP_BYPASS, SEED_BYPASS)})
        return found
