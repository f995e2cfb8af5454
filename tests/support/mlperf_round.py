"""Published rounds: RNN-T results of MLPerf Training 1.1 with the output of MLPerf's own tools, and results built here."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark.machine.system import FIELDS
from results import compare
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


Line = tuple[str, Any, dict[str, Any]]
DESCRIPTION = dict.fromkeys(FIELDS, "N/A") | {
    "division": "closed",
    "status": "Available on-premise",
    "number_of_nodes": "2",
    "accelerators_per_node": "4",
    "accelerator_model_name": "GPU",
}
START_MS = 1_700_000_000_000
ONE_INSTANCE = {"number_of_nodes": 2, "accelerators_per_node": 4}
"""What a run of weak scaling logs of its size."""


def build_result(
    org: Path,
    minutes: Sequence[float | None],
    *,
    system: str = "box",
    benchmark: str = "resnet",
    kind: str | None = None,
    description: dict[str, Any] | None = None,
    logged: dict[str, Any] | None = None,
    names: Callable[[int], str] = "result_{}.txt".format,
    lines: Callable[[int], list[Line]] | None = None,
    status: str = "success",
) -> Path:
    """Write one result of an MLPerf tree, with a log for each of `minutes` (None: without run_stop); return its folder.

    `description` and `logged` change the description's fields and the values logged before run_start; `lines` gives the
    events of a run between run_start and run_stop, each one a second after the last.
    """
    folder = org.joinpath("results", system, *([kind] if kind else []), benchmark)
    folder.mkdir(parents=True)
    (org / "benchmarks" / benchmark).mkdir(parents=True, exist_ok=True)
    (org / "systems").mkdir(exist_ok=True)
    tree = DESCRIPTION | {"submitter": org.name, "system_name": system} | (description or {})
    (org / "systems" / f"{system}.json").write_text(json.dumps(tree))
    for number, value in enumerate(minutes):
        before = {
            "submission_org": org.name,
            "submission_platform": system,
            "submission_division": tree["division"],
            "submission_status": "onprem",
            "submission_benchmark": benchmark,
            "seed": number,
            **(logged or {}),
        }
        inside = lines(number) if lines else [("eval_accuracy", 0.76, {"epoch_num": 35})]
        events = [(START_MS - 1000, key, each, {}) for key, each in before.items()]
        events += [(START_MS, "run_start", None, {})]
        events += [(START_MS + 1000 * place, *line) for place, line in enumerate(inside, 1)]
        if value is not None:
            events.append((START_MS + round(value * 60_000), "run_stop", None, {"status": status}))
        (folder / names(number)).write_text("".join(map(_line, events)))
    return folder


def _line(event: tuple[int, str, Any, dict[str, Any]]) -> str:
    time_ms, key, value, metadata = event
    tree = {"namespace": "", "time_ms": time_ms, "event_type": "POINT_IN_TIME", "key": key, "value": value}
    return f":::MLLOG {json.dumps(tree | {'metadata': metadata | {'file': 'train.py', 'lineno': 1}})}\n"


def change(log: Path, old: str, new: str) -> None:
    """Replace a text that a log contains."""
    text = log.read_text()
    assert old in text
    log.write_text(text.replace(old, new))


def compared(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[dict[str, Any], str]:
    """The JSON output of `compare`, and its warnings."""
    assert compare.main([*map(str, arguments), "--format", "json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, dict[str, Any]]:
    """The rows of `compare`, by submitter."""
    return {row["submitter"]: row for row in compared(capsys, *arguments)[0]["rows"]}
