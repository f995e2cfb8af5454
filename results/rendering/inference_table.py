"""Renders inference runs (`inference.json`, written by `python -m reference_model.infer`) as a separate table.

They are not ranked with training runs or with each other: each row names its system. docs/inference.md defines the
fields.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from common.errors import UserError, one_line
from common.files import natural_key
from common.formats import INFERENCE
from results.comparing.columns import figure
from results.comparing.score_of_runs import UNVERIFIED
from results.rendering.table_layout import natural_widths, table_lines, table_width

NAME = "inference.json"


@dataclass(frozen=True)
class Inference:
    """One inference run; times in milliseconds of one batch, rates per second, error rates in percent. None: unknown."""

    file: Path
    system: str | None
    accelerator: str | None
    model: str | None
    epoch: int | None
    dataset: str | None
    utterances: int | None
    scenario: str | None
    batch_size: int | None
    engine: str | None
    device: str | None
    precision: str | None
    decoder: str | None
    wer_pct: float | None
    cer_pct: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    utterances_per_s: float | None
    audio_s_per_s: float | None
    real_time_factor: float | None


FIELDS = tuple(Inference.__dataclass_fields__)


def find_inference(paths: Iterable[Path]) -> list[Path]:
    """Every inference.json under `paths` (or named by them), each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_file():
            here = [path] if path.name == NAME else []
        else:
            here = [Path(folder, NAME) for folder, _, files in os.walk(path) if NAME in files]
        for file in sorted(here, key=natural_key):
            found.setdefault(file.resolve(), file)
    return list(found.values())


def read_inference(files: Iterable[Path], problems: list[str]) -> list[Inference]:
    """The readable runs; problems with the others are added to `problems`."""
    runs = []
    for file in files:
        try:
            tree = orjson.loads(file.read_bytes())
        except OSError as error:
            problems.append(f"{file}: cannot be read ({error.strerror})")
            continue
        except orjson.JSONDecodeError as error:
            problems.append(f"{file}: not JSON ({one_line(str(error))})")
            continue
        try:
            runs.append(_of(file, INFERENCE.read(_Report, tree, file)))
        except UserError as error:
            problems.append(str(error))
    return runs


@dataclass(frozen=True, kw_only=True)
class _Model:
    file: str | None = None
    variant: str | None = None
    epoch: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Data:
    name: str | None = None
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Options:
    scenario: str | None = None
    batch_size: int | None = None
    engine: str | None = None
    device: str | None = None
    precision: str | None = None
    decoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class _System:
    name: str | None = None
    processor: str | None = None
    accelerator: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Score:
    wer: float | None = None
    cer: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Latency:
    p50_s: float | None = None
    p90_s: float | None = None
    p99_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Times:
    latency_s: _Latency


@dataclass(frozen=True, kw_only=True)
class _Report:
    """The fields of inference.json that are read."""

    kind: Literal["inference"]
    model: _Model
    dataset: _Data
    options: _Options
    system: _System
    score: _Score
    times: _Times
    utterances: int | None = None
    utterances_per_s: float | None = None
    audio_s_per_s: float | None = None
    real_time_factor: float | None = None


def _of(file: Path, report: _Report) -> Inference:
    model, options, system, latency = report.model, report.options, report.system, report.times.latency_s

    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else seconds * 1e3

    return Inference(
        file=file,
        system=system.name or None,
        accelerator=system.accelerator or system.processor,
        model=model.variant or model.file,
        epoch=model.epoch,
        dataset=" ".join(filter(None, (report.dataset.name, report.dataset.split))) or None,
        utterances=report.utterances,
        scenario=options.scenario,
        batch_size=options.batch_size,
        engine=options.engine,
        device=options.device,
        precision=options.precision,
        decoder=options.decoder,
        wer_pct=report.score.wer,
        cer_pct=report.score.cer,
        p50_ms=ms(latency.p50_s),
        p90_ms=ms(latency.p90_s),
        p99_ms=ms(latency.p99_s),
        utterances_per_s=report.utterances_per_s,
        audio_s_per_s=report.audio_s_per_s,
        real_time_factor=report.real_time_factor,
    )


_COLUMNS: tuple[tuple[str, Callable[[Inference], str], bool], ...] = (
    ("system", lambda run: run.system or run.accelerator or "", False),
    ("model", lambda run: " ".join(str(p) for p in (run.model, run.epoch) if p is not None), False),
    ("data", lambda run: run.dataset or "", False),
    (
        "scenario",
        lambda run: f"{run.scenario or ''} x{run.batch_size}" if run.batch_size else run.scenario or "",
        False,
    ),
    ("engine", lambda run: "/".join(p for p in (run.engine, run.device, run.precision) if p), False),
    ("utts", lambda run: "" if run.utterances is None else str(run.utterances), True),
    ("WER %", lambda run: "" if run.wer_pct is None else f"{run.wer_pct:.2f}", True),
    ("p50 ms", lambda run: figure(run.p50_ms), True),
    ("p99 ms", lambda run: figure(run.p99_ms), True),
    ("utt/s", lambda run: figure(run.utterances_per_s), True),
    ("audio s/s", lambda run: figure(run.audio_s_per_s), True),
    ("RTF", lambda run: figure(run.real_time_factor), True),
)


DROPPED = ("utts", "audio s/s", "RTF", "utt/s")
"""Columns that a narrow terminal omits, in this order."""


def render_text(runs: Sequence[Inference], width: int) -> str:
    """A table of at most `width` terminal cells; a narrow one omits columns of DROPPED, a very narrow one is lists."""
    title, foot = "Inference runs", f"Scores are {UNVERIFIED}."
    for count in range(len(DROPPED) + 1):
        omitted = DROPPED[:count]
        columns = [column for column in _COLUMNS if column[0] not in omitted]
        headers, right = [header for header, _, _ in columns], [right for _, _, right in columns]
        rows = [[one_line(cell(run)) for _, cell, _ in columns] for run in runs]
        widths = _widths(headers, rows, right, width)
        if table_width(widths) <= width:
            break
    else:
        named = [[(header, one_line(cell(run))) for header, cell, _ in _COLUMNS] for run in runs]
        blocks = ["\n".join(f"{header}: {cell}" for header, cell in cells if cell) for cells in named]
        return "\n\n".join([title, *blocks, foot]) + "\n"
    lines = [title, "", *table_lines(headers, rows, right, widths)]
    if omitted:
        lines.append(f"  not shown in {width} columns: {', '.join(omitted)}")
    return "\n".join([*lines, "", foot]) + "\n"


def render_markdown(runs: Sequence[Inference]) -> str:
    """The same table in Markdown."""
    rows = [[header for header, _, _ in _COLUMNS], ["---:" if right else "---" for _, _, right in _COLUMNS]]
    rows += [[one_line(cell(run)).replace("|", "\\|") for _, cell, _ in _COLUMNS] for run in runs]
    return (
        "## Inference runs\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows) + f"\nScores are {UNVERIFIED}.\n"
    )


def render_csv(runs: Sequence[Inference]) -> str:
    """One line per run with the fields of Inference, at full precision."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_values(run) for run in runs)
    return out.getvalue()


def as_values(run: Inference) -> dict[str, Any]:
    """A run as plain values for JSON and CSV."""
    return {name: getattr(run, name) for name in FIELDS} | {"file": str(run.file)}


def _widths(headers: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], width: int) -> list[int]:
    """The columns' widths: natural, but left-aligned columns are narrowed to fit into `width` if possible."""
    widths = natural_widths(headers, cells)
    for at, header in enumerate(headers):
        excess = table_width(widths) - width
        if not right[at] and excess > 0:
            widths[at] -= min(excess, max(0, widths[at] - max(8, len(header))))
    return widths
