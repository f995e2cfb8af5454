"""The journal between the processes of `python -m benches gpu`, and the table built from it; without PyTorch.

A section's process appends lines of JSON to a journal: rows of the table (`section`, `name` and figures) and events
(`event`: `machine`, `refused`, `begun` and `done`). The watching process reads them as they arrive, so that a section's results
are kept however it ends. Not importing PyTorch here lets the watching process start a few seconds sooner.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
JSON, MARKDOWN = "gpu_bench.json", "gpu_bench.md"


def note(journal: Path, **entry: object) -> None:
    """Append a row or an event immediately, because later work may end the process."""
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


class Reader:
    """Reads a journal while it is being written."""

    def __init__(self, journal: Path) -> None:
        self._journal, self._read = journal, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """The entries since the last call; an incomplete line is left for the next call."""
        with self._journal.open("rb") as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                self._read += len(line)
                yield json.loads(line)


def rows_of(journal: Path) -> list[dict[str, Any]]:
    """The table's rows in a journal."""
    return [entry for entry in Reader(journal).new() if "event" not in entry]


def save(
    out: Path, machine: Mapping[str, Any], rehearsal: bool, seconds: float, processes: int, rows: list[dict[str, Any]]
) -> None:
    """Write the table as JSON and as Markdown into the folder `out`.

    `machine` contains the device and the versions of PyTorch, CUDA and cuDNN; `processes` is the number of processes used.
    """
    out.mkdir(parents=True, exist_ok=True)
    tree = {**machine, "rehearsal": rehearsal, "seconds": round(seconds, 1), "processes": processes, "rows": rows}
    (out / JSON).write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    note = " (rehearsal, not a measurement)" if rehearsal else ""
    lines = [f"# {machine['device']}, torch {machine['torch']}{note}"]
    for section in dict.fromkeys(row["section"] for row in rows):
        lines += markdown_of(section, [row for row in rows if row["section"] == section])
    (out / MARKDOWN).write_text("\n".join(lines) + "\n", encoding="utf-8")


def markdown_of(section: str, rows: list[dict[str, Any]]) -> list[str]:
    """A section's rows as lines of Markdown: its heading, and a table with a column for each figure of any row."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "section"))
    lines = ["", f"## {section}", "", f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
    return lines + [f"| {' | '.join(cell(row.get(key)) for key in keys)} |" for row in rows]


def short(value: object) -> str:
    """A figure as shown in the tables: floats with four digits, a dash for None."""
    return "-" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)


def cell(value: object) -> str:
    """The same for a Markdown table, in which a bar would end the cell and a newline the row."""
    return " ".join(short(value).replace("|", "\\|").split())


def first_line(error: BaseException) -> str:
    """An error's type and first line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else '-'}"
