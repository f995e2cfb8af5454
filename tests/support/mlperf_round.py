"""RNN-T results of MLPerf Training 1.1, two systems or the whole round, with the output of MLPerf's own tools."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.conftest import DATA, whole_data

ROUND = "mlperf/training_results_v1.1"
EXTRACT = "extract"
WHOLE = pytest.param("whole round", marks=pytest.mark.long)


class PublishedRound:
    """`folder` is the round's; `scores` (a system each) and `files` (a log each) are the expected rows, as {column: text}."""

    def __init__(self, where: str) -> None:
        self.folder = DATA / ROUND if where == EXTRACT else whole_data(ROUND)
        self.scores, self.files = self._expected("scores"), self._expected("files")
        systems = 2 if where == EXTRACT else 18
        assert (len(self.scores), len(self.files)) == (systems, 10 * systems), "the folder does not match its README.md"

    def _expected(self, what: str) -> list[dict[str, str]]:
        with open(DATA / "mlperf" / f"expected_{what}.csv", newline="") as file:
            return [row for row in csv.DictReader(file) if (self.folder / self._results(row)).is_dir()]

    def _results(self, row: dict[str, str]) -> Path:
        return Path(row["org"], "results", row["system"], row["benchmark"])

    def path(self, row: dict[str, str]) -> Path:
        """Path of the log of a row of `files`, relative to `folder`."""
        return self._results(row) / row["file"]

    def results(self) -> list[Path]:
        """The folders of the logs; the whole round's folder has other benchmarks too."""
        return [self.folder / self._results(row) for row in self.scores]
