"""Finished runs as pandas DataFrames, one of runs and one of systems. docs/results.md describes the columns.

The CSV table is the frame of systems; the other tables have the same fields.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from results.comparing.comparison import compare_runs
from results.comparing.fields import row_fields, run_fields
from results.comparing.identity import row_keys_from
from results.comparing.rows import Row
from results.reading.configuration import IDENTITY, NOTED
from results.reading.discover import LabelledPath, find_sources, labelled_path
from results.reading.load import read_run
from results.reading.run_data import Run

if TYPE_CHECKING:
    import pandas as pd

_COUNTS = ("runs", "runs_wanted", "converged", "left_out", "models", "runs_to_tell", "seed_pairs", "parse_errors")
_WHOLE = {"group", "rank", "accelerators", "nodes", "processes", "instance_scale", *_COUNTS}
_NAMES = ("file", "label", "submitter", "system", "benchmark", "variant", "round", "division", "availability")
_RULES = ("verdict", "score_kind", "score_rule", "scaling_kind", "progress_unit", "speedup_method", "verification")
_TEXT = {*_NAMES, "accelerator", *_RULES, "params_sha256", "dataset_sha256", *IDENTITY, *NOTED}
_LISTS = ("problems", "notes", "run_minutes", "run_verdicts", "run_epochs", "run_seeds")
_ANY = {"seed", "global_batch_size", *_LISTS}
"""A log may have any value as seed and batch size. All fields that are in none of these sets are numbers."""


@dataclass(frozen=True)
class Results:
    """`runs` has a row for each run, `systems` one for each row of the tables that `compare` prints.

    `problems` are those of any file (`file: problem`).
    """

    runs: pd.DataFrame
    systems: pd.DataFrame
    problems: list[str]


def load_all(
    paths: Iterable[str | os.PathLike[str]],
    *,
    baseline: str | None,
    by: str | Sequence[str] | None,
    ignore: str | Sequence[str] | None,
) -> Results:
    """Read and compare every run under `paths`; see `results.load`."""
    problems: list[str] = []
    runs = [read_run(source).slim() for source in find_sources(map(_path, paths), problems)]
    comparison = compare_runs(runs, baseline=baseline, row_keys=row_keys_from(by, ignore))
    return Results(runs_frame(runs), systems_frame(comparison.rows), [*problems, *comparison.problems])


def _path(path: str | os.PathLike[str]) -> LabelledPath:
    if not isinstance(path, str):
        return LabelledPath(Path(path))
    try:
        return labelled_path(path)
    except ValueError:
        raise UserError("not PATH or LABEL=PATH", where=path) from None


def runs_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """The runs in the order of their files, with the fields of `run_fields`. Unknown values are NA or NaN, never 0."""
    return _frame([run_fields(run) for run in runs])


def systems_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows of a comparison in the order of their groups, with the fields of `row_fields`."""
    return _frame([row_fields(row) for row in rows])


def _frame(values: Sequence[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(values)
    return frame.astype({name: _type(name) for name in frame})


def _type(name: str) -> str:
    if name in _ANY:
        return "object"
    if name.startswith("is_"):
        return "bool"
    return "Int64" if name in _WHOLE else "string" if name in _TEXT else "float64"
