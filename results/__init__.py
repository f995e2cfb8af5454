"""Works with finished runs: dataset checksums, scores, comparison tables, report pages, submission packages.

>>> import results
>>> results.load("runs").to_pandas().groupby("system")["minutes"].describe()  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from results.rendering.run_frame import Runs

__all__ = ["load"]


def load(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Runs:
    """Read every run under a path or several: run folders, folders of runs, logs and MLPerf results repositories.

    The result has `runs` (a list of `results.reading.run_data.Run`, with their evaluations and telemetry summaries),
    `problems` (a list of `file: problem`) and `to_pandas()` (a DataFrame with one row per run). Broken files never
    raise. Raises `common.errors.UserError` for a path that does not exist or has no log.
    """
    # Imported here, so that importing the package stays cheap for the commands.
    from results.rendering.run_frame import load_all

    return load_all(paths)
