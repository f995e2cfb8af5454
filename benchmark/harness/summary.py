"""The summary on stderr at the end of a run, from its record alone."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from benchmark.record import EpochFacts, RunRecord
from benchmark.settings import ROOT, TRAINER_MODULE
from benchmark.submission import ERRORS_FILE
from common.progress import format_duration

WIDTH = 80
SCORE_NOTE = "MLPerf-style, unverified"


def print_summary(record: RunRecord, run_dir: Path) -> None:
    """Print result, epochs, time, throughput, telemetry, the run's folder and the next step."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stderr, highlight=False)
    console = Console(file=sys.stderr, highlight=False, width=min(WIDTH, console.width))
    if record.epochs:
        table = Table(box=box.SIMPLE_HEAD)
        for column in ("epoch", "WER %", "CER %", "loss", "train", "evaluate", "utter./s", "audio s/s"):
            table.add_column(column, justify="right")
        for epoch in record.epochs:
            table.add_row(*_epoch_cells(epoch))
        console.print(table)
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    rows = summary_rows(record, run_dir)
    names = max(len(name) for name, _ in rows)
    table.add_column(no_wrap=True, min_width=names)
    table.add_column(overflow="fold")
    for name, value in rows[:-2]:
        # Text, not a string: square brackets in a path are not markup.
        table.add_row(name, Text(value))
    console.print(table)
    for name, value in rows[-2:]:
        # Path and command on one line each, so that they can be copied.
        console.print(Text(f"  {name:<{names}}   {value}"), soft_wrap=True)


def summary_rows(record: RunRecord, run_dir: Path) -> list[tuple[str, str]]:
    """The summary as (name, value) pairs, without what could not be measured."""
    run = record.run
    rows = [("result", _result(record))]
    if run.minutes is not None:
        # The time of a run that missed its target is not a score.
        note = f", {SCORE_NOTE}" if record.status == "success" else ""
        rows.append(("time", f"{run.minutes:.2f} minutes ({format_duration(run.minutes * 60)}){note}"))
    rows.append(("variant", f"{record.variant}, {record.division} division, seed {record.seed}"))
    checked = f"verified {record.dataset.verified_at}" if record.dataset.verified else "not verified"
    data = record.dataset
    known = data.train_hours is not None and data.eval_hours is not None
    hours = f"{data.train_hours:.2f} h training, {data.eval_hours:.2f} h evaluation; " if known else ""
    rows.append(("dataset", f"{data.name}: {hours}{checked}"))
    if run.cache_cleared is not None:
        rows.append(("caches", "cleared" if run.cache_cleared else "not cleared"))
    rows += _telemetry_rows(record.telemetry)
    if run.peak_memory_bytes is not None:
        rows.append(
            ("peak memory", f"{_gib(run.peak_memory_bytes)} (all processes of the trainer; shared pages count in each)")
        )
    rows += [("note", note) for note in record.notes]
    rows.append(("files", str(run_dir)))
    rows.append(("next", _next_step(record, run_dir)))
    return rows


def _result(record: RunRecord) -> str:
    run = record.run
    wer = f"WER {run.final_wer:.2f} % after epoch {run.epochs}" if run.final_wer is not None else "no epoch finished"
    if _is_follower(record):
        return "done on this machine; the result is in the run folder of machine 0"
    if record.status == "success":
        return f"target reached: {wer} (target {run.target_wer:g} %)"
    if record.status == "aborted":
        return f"target missed: {wer} (target {run.target_wer:g} %)"
    if record.status == "interrupted":
        return f"{record.reason}; {wer}"
    return f"{record.status}: {record.reason}; {wer}"


def _epoch_cells(epoch: EpochFacts) -> list[str]:
    return [
        str(epoch.epoch_num),
        f"{epoch.wer:.2f}",
        _formatted(epoch.cer, ".2f"),
        _formatted(epoch.train_loss, ".4g"),
        "-" if epoch.train_s is None else format_duration(epoch.train_s),
        "-" if epoch.eval_s is None else format_duration(epoch.eval_s),
        _formatted(epoch.utterances_per_s, ",.1f"),
        _formatted(epoch.audio_s_per_s, ",.1f"),
    ]


def _telemetry_rows(telemetry: dict[str, Any] | None) -> list[tuple[str, str]]:
    if not telemetry:
        return []
    rows = []
    for gpu in telemetry.get("gpus") or []:
        if gpu.get("used"):
            parts = [
                _reading(gpu, "utilization_pct", "mean", "busy {:.0f} %"),
                _reading(gpu, "sm_active_pct", "mean", "SMs {:.0f} %"),
                _reading(gpu, "tensor_active_pct", "mean", "tensor {:.0f} %"),
                _reading(gpu, "power_w", "mean", "{:.0f} W"),
                f"{gpu['energy_j'] / 1000:.1f} kJ" if gpu.get("energy_j") is not None else None,
                _memory(gpu),
            ]
            rows.append((f"GPU {gpu.get('index')}", ", ".join([str(gpu.get("name")), *filter(None, parts)])))
            if others := gpu.get("other_processes"):
                shared = "1 other process" if others == 1 else f"{others} other processes"
                text = f"{shared} used it when the clock started, which may have slowed the run down"
                rows.append(("warning", f"GPU {gpu.get('index')}: {text}"))
    host, trainer = telemetry.get("host") or {}, telemetry.get("trainer") or {}
    cpu = [
        _reading(host, "cpu_pct", "mean", "machine {:.0f} % busy"),
        _reading(trainer, "cpu_pct", "mean", "trainer {:.0f} % of one core"),
    ]
    if any(cpu):
        rows.append(("CPU", ", ".join(filter(None, cpu))))
    return rows


def _reading(readings: dict[str, Any], name: str, figure: str, form: str) -> str | None:
    value = (readings.get(name) or {}).get(figure)
    return None if value is None else form.format(value)


def _memory(gpu: dict[str, Any]) -> str | None:
    peak = (gpu.get("memory_used_bytes") or {}).get("max")
    return None if peak is None else f"{_gib(peak)} at most"


def _gib(value: float) -> str:
    return f"{value / 2**30:.2f} GiB"


def _is_follower(record: RunRecord) -> bool:
    """Whether another machine has the run's log, and so its error rates."""
    return record.status == "success" and record.run.final_wer is None


def _next_step(record: RunRecord, run_dir: Path) -> str:
    compare = f"{_shell_path(Path(sys.executable))} -m results compare {_shell_path(run_dir)}"
    if _is_follower(record):
        return "see machine 0"
    if record.status == "success" and record.trainer not in (None, TRAINER_MODULE):
        # The author of another trainer wants to know whether it logs everything that a result needs.
        return compare.replace("results compare", "compliance")
    if record.status == "success":
        return compare
    if record.status == "aborted":
        return f"{compare} (missing the target at the last epoch is a valid outcome)"
    if record.epochs:
        return f"sh run_and_time.sh --resume {_shell_path(run_dir)} resumes after the last complete epoch"
    if record.status == "interrupted":
        return "start again: no epoch was finished to resume from"
    return f"fix the cause (see {run_dir / ERRORS_FILE}) and start again"


def _shell_path(path: Path) -> str:
    """`path` as typed in the checkout."""
    return shlex.quote(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))


def _formatted(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
