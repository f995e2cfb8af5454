"""Finished runs as a pandas DataFrame, one row per run. docs/results.md describes the columns."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.reading.discover import find_sources
from results.reading.load import read_run
from results.reading.run_data import Run
from results.rendering.export import run_fields

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "file": "string",
    **dict.fromkeys(("submitter", "system", "benchmark", "variant", "round", "division", "availability"), "string"),
    "accelerator": "string",
    **dict.fromkeys(("accelerators", "nodes", "processes"), "Int64"),
    "processor": "string",
    "verdict": "string",
    "minutes": "float64",
    "seed": "object",
    **dict.fromkeys(("last_epoch", "last_eval_accuracy", "best_wer_pct", "target_wer_pct"), "float64"),
    **dict.fromkeys(("samples_per_s", "audio_s_per_s"), "float64"),
    **dict.fromkeys(("gpu_utilization_pct", "sm_active_pct", "tensor_active_pct"), "float64"),
    **dict.fromkeys(("peak_memory_bytes", "power_w", "energy_kwh"), "float64"),
    "global_batch_size": "object",
    "params_sha256": "string",
    "dataset_sha256": "string",
    "parse_errors": "Int64",
    "problems": "object",
}
"""Columns with their pandas types: the names and units of the CSV export and of its JSON's `run_details`.

A log may contain any value as seed or batch size, hence `object`.
"""


@dataclass(frozen=True)
class Runs:
    """Runs in the order of their files, and the problems found in the files (`file: problem`)."""

    runs: list[Run]
    problems: list[str]

    def to_pandas(self) -> pd.DataFrame:
        """A DataFrame with COLUMNS and one row per run. Unknown values are NA or NaN, never 0."""
        import pandas as pd

        return pd.DataFrame([_values(run) for run in self.runs], columns=list(COLUMNS)).astype(COLUMNS)


def load_all(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Runs:
    """Read every run under `paths`; see `results.load`."""
    listed = [paths] if isinstance(paths, str | os.PathLike) else paths
    problems: list[str] = []
    runs = [read_run(source) for source in find_sources([Path(path) for path in listed], problems)]
    return Runs(runs, problems + list(dict.fromkeys(problem for run in runs for problem in run.all_problems)))


def _values(run: Run) -> dict[str, Any]:
    renamed = run_fields(run) | {"round": run.source.round, "target_wer_pct": run.target_wer}
    return {
        name: renamed[name] if name in renamed else getattr(run if hasattr(run, name) else run.measures, name)
        for name in COLUMNS
    }
