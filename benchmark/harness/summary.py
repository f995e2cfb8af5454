"""The closing summary of a run on stderr, from its record alone."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from benchmark.record import EpochFacts, RunRecord
from benchmark.settings import ROOT, TRAINER_MODULE
from benchmark.submission import ERRORS_FILE
from common.progress import clock

WIDTH = 80
SCORE_NOTE = "MLPerf-style, unverified"


def print_summary(record: RunRecord, run_dir: Path) -> None:
    """Print result, epochs, time, throughput, telemetry, where the files lie and what to do next."""
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
        # Text, not a string: square brackets in a path are no markup.
        table.add_row(name, Text(value))
    console.print(table)
    for name, value in rows[-2:]:
        # The path and the command, as they can be copied: a line break is the terminal's own business.
        console.print(Text(f"  {name:<{names}}   {value}"), soft_wrap=True)


def summary_rows(record: RunRecord, run_dir: Path) -> list[tuple[str, str]]:
    """The summary as (name, value) pairs; what could not be measured is left out."""
    run = record.run
    rows = [("result", _result(record))]
    if run.minutes is not None:
        # The time of a run that ended without its target is no score.
        note = f", {SCORE_NOTE}" if record.status == "success" else ""
        rows.append(("time", f"{run.minutes:.2f} minutes ({clock(run.minutes * 60)}){note}"))
    rows.append(("variant", f"{record.variant}, {record.division} division, seed {record.seed}"))
    checked = f"verified {record.dataset.verified_at}" if record.dataset.verified else "not verified"
    data = record.dataset
    known = data.train_hours is not None and data.eval_hours is not None
    hours = f"{data.train_hours:.2f} h training, {data.eval_hours:.2f} h evaluation; " if known else ""
    rows.append(("data set", f"{data.name}: {hours}{checked}"))
    if run.cache_cleared is not None:
        rows.append(("caches", "cleared" if run.cache_cleared else "not cleared"))
    rows += _telemetry_rows(record.telemetry)
    if run.peak_memory_bytes is not None:
        rows.append(("peak memory", f"{_gib(run.peak_memory_bytes)} (trainer, all processes)"))
    rows += [("note", note) for note in record.notes]
    rows.append(("files", str(run_dir)))
    rows.append(("next", _next_step(record, run_dir)))
    return rows


def _result(record: RunRecord) -> str:
    run = record.run
    wer = f"WER {run.final_wer:.2f} % after epoch {run.epochs}" if run.final_wer is not None else "no epoch finished"
    if _is_followers(record):
        return "this machine's part is done; the result is in the run folder of machine 0"
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
        _shown(epoch.cer, ".2f"),
        _shown(epoch.train_loss, ".4g"),
        "-" if epoch.train_s is None else clock(epoch.train_s),
        "-" if epoch.eval_s is None else clock(epoch.eval_s),
        _shown(epoch.utterances_per_s, ",.1f"),
        _shown(epoch.audio_s_per_s, ",.1f"),
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
                text = f"{shared} used it when the clock started; the time may not be this machine's best"
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


def _is_followers(record: RunRecord) -> bool:
    """Whether the run's log, and so its error rates, are kept by another machine."""
    return record.status == "success" and record.run.final_wer is None


def _next_step(record: RunRecord, run_dir: Path) -> str:
    compare = f"{_typed(Path(sys.executable))} -m results compare {_typed(run_dir)}"
    if _is_followers(record):
        return "see machine 0"
    if record.status == "success" and record.trainer not in (None, TRAINER_MODULE):
        # Whoever wrote the trainer wants to know whether it logs all that a result needs.
        return compare.replace("results compare", "compliance")
    if record.status == "success":
        return compare
    if record.status == "aborted":
        return f"{compare} (a run that ends at its last epoch is a valid outcome)"
    if record.epochs:
        return f"sh run_and_time.sh --resume {_typed(run_dir)} goes on after the last whole epoch"
    if record.status == "interrupted":
        return "start again: no epoch was finished that the run could go on from"
    return f"fix the cause (see {run_dir / ERRORS_FILE}) and start again"


def _typed(path: Path) -> str:
    """`path` as one types it in the checkout."""
    return shlex.quote(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
