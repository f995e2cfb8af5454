"""Works with finished runs: dataset checksums, scores, comparison tables, report pages, submission packages.

>>> import results
>>> found = results.load("runs", "other=../other-machine/runs")  # doctest: +SKIP
>>> found.runs.groupby("system")["minutes"].describe()  # doctest: +SKIP
>>> found.systems[["label", "system", "score_minutes", "speedup"]]  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from results.rendering.frames import Results

__all__ = ["load"]


def load(
    *paths: str | os.PathLike[str],
    baseline: str | None = None,
    by: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
) -> Results:
    """Read and compare every run under the paths: run folders, folders of runs, logs, MLPerf results repositories.

    A path may be `LABEL=PATH`; `baseline`, `by` and `ignore` are as for `python -m results compare`. The result has the
    DataFrames `runs` and `systems`, with the fields of docs/results.md, and `problems` (a list of `file: problem`).
    Broken files never raise. Raises `common.errors.UserError` for a path that does not exist or has no log, and for a
    baseline or key that is not known.
    """
    # Imported here, so that importing the package stays cheap for the commands.
    from results.rendering.frames import load_all

    return load_all(paths, baseline=baseline, by=by, ignore=ignore)
