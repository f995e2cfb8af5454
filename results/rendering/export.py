"""Renders a comparison as Markdown, CSV or JSON. docs/results.md defines the fields."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from common.errors import one_line
from common.formats import COMPARISON
from results.comparing.columns import filled_columns
from results.comparing.comparison import Comparison, describe
from results.comparing.footnotes import footnotes, verification_notes
from results.comparing.rows import Row
from results.comparing.score_of_runs import UNVERIFIED
from results.reading.run_data import Run

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def row_fields(row: Row) -> dict[str, Any]:
    """One row as plain values at full precision, in the order of the CSV's columns; None is unknown."""
    aspects, score = row.aspects, row.score
    return {
        "group": row.group,
        "rank": row.rank,
        "submitter": row.submitter,
        "system": row.system,
        "benchmark": aspects.benchmark,
        "variant": aspects.variant,
        "round": aspects.round,
        "division": aspects.division,
        "availability": row.availability,
        "accelerator": row.accelerator,
        "accelerators": row.accelerators,
        "nodes": row.nodes,
        "processes": row.processes,
        "processor": row.processor,
        "runs": row.runs,
        "runs_wanted": row.members[0].rules.runs,
        "converged": row.converged,
        "left_out": row.left_out,
        "score_minutes": score.minutes,
        "score_kind": score.kind,
        "score_rule": score.rule,
        "scaling_factor": score.scaling_factor,
        "scaling_kind": aspects.scaling_kind,
        "models": score.models,
        "instance_scale": score.instance_scale,
        "models_per_minute": score.models_per_minute,
        "minutes_min": row.minutes_min,
        "minutes_max": row.minutes_max,
        "run_minutes": row.run_minutes,
        "run_verdicts": [run.verdict for run in scored_members(row)],
        "run_epochs": row.run_epochs,
        "run_seeds": row.run_seeds,
        "epochs_to_target": row.epochs_to_target,
        "progress_unit": row.progress_unit,
        "best_wer_pct": row.best_wer_pct,
        "target_wer_pct": aspects.target_wer,
        "samples_per_s": row.samples_per_s,
        "audio_s_per_s": row.audio_s_per_s,
        "gpu_utilization_pct": row.gpu_utilization_pct,
        "sm_active_pct": row.sm_active_pct,
        "tensor_active_pct": row.tensor_active_pct,
        "peak_memory_bytes": row.peak_memory_bytes,
        "power_w": row.power_w,
        "energy_kwh": row.energy_kwh,
        "global_batch_size": row.global_batch_size,
        "is_baseline": row.baseline,
        "speedup": row.speedup,
        "speedup_low": row.speedup_low,
        "speedup_high": row.speedup_high,
        "speedup_method": row.speedup_method,
        "params_sha256": aspects.params_sha256,
        "dataset_sha256": aspects.dataset_sha256,
        "notes": row.notes,
        "verification": row.verification,
    }


def scored_members(row: Row) -> list[Run]:
    """The runs that are in the score, in the order of `run_minutes`."""
    return [run for run in row.members if run.verdict != "pending"]


def run_fields(run: Run) -> dict[str, Any]:
    """One run as plain values; None is unknown."""
    return {
        "file": str(run.log),
        "verdict": run.verdict,
        "minutes": run.minutes,
        "seed": run.seed,
        "last_epoch": run.last_epoch,
        "last_eval_accuracy": run.last_accuracy,
        "best_wer_pct": run.best_wer,
        "parse_errors": run.bad_lines,
        "problems": run.problems,
    }


def render_json(comparison: Comparison, inference: Sequence[dict[str, Any]] = ()) -> str:
    """The JSON object of docs/results.md; `inference` has the inference runs as plain values."""
    rows = [row_fields(row) | {"run_details": [run_fields(run) for run in row.members]} for row in comparison.rows]
    groups = [
        {"group": group.number, "title": describe(group.aspects), "reason": group.reason, "rows": len(group.rows)}
        for group in comparison.groups
    ]
    tree = {
        "verification": "; ".join(dict.fromkeys(row.verification for row in comparison.rows)) or UNVERIFIED,
        "baseline": comparison.baseline,
        "groups": groups,
        "rows": rows,
        "inference": list(inference),
        "problems": comparison.problems,
    }
    return json.dumps(COMPARISON.with_version(tree), indent=1, allow_nan=False) + "\n"


def render_csv(comparison: Comparison) -> str:
    """One line per row; lists are JSON texts, unknown values are empty, booleans are True or False."""
    names = list(row_fields(comparison.rows[0])) if comparison.rows else ["submitter", "system", "verification"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in comparison.rows:
        writer.writerow([_csv_cell(value) for value in row_fields(row).values()])
    return out.getvalue()


def _csv_cell(value: object) -> object:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return one_line(value) if isinstance(value, str) else value


def render_markdown(comparison: Comparison) -> str:
    """One table per group, with every column that has a value."""
    lines: list[str] = []
    for group in comparison.groups:
        columns = filled_columns(group.rows)
        lines += [f"### Group {group.number}: {markdown_text(describe(group.aspects))}", ""]
        if group.reason:
            lines += [markdown_text(group.reason[0].upper() + group.reason[1:]) + ".", ""]
        lines.append("| " + " | ".join(markdown_text(column.header) for column in columns) + " |")
        lines.append("|" + "|".join("---:" if column.right else ":---" for column in columns) + "|")
        for row in group.rows:
            lines.append("| " + " | ".join(markdown_text(column.cell(row)) for column in columns) + " |")
        lines.append("")
        lines += [f"- {markdown_text(note)}" for note in footnotes(group)] + [""]
    return "\n".join([*lines, *verification_notes(comparison)]) + "\n"


def markdown_text(text: str) -> str:
    """`text` as one line of Markdown, with special characters escaped."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", one_line(text))
