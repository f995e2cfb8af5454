"""The values of every table: of a row, of a run, by the names that CSV, JSON and DataFrames use. None is unknown.

docs/results.md defines the fields.
"""

from __future__ import annotations

from typing import Any

from results.comparing.rows import Row
from results.comparing.speedup import Ratio
from results.reading.configuration import IDENTITY, NOTED
from results.reading.run_data import Run


def row_fields(row: Row) -> dict[str, Any]:
    """One row as plain values at full precision, in the order of the CSV's columns."""
    aspects, score = row.aspects, row.score
    return {
        "group": row.group,
        "rank": row.rank,
        "label": row.label,
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
        **{key: row.identity.get(key) for key in IDENTITY if key != "processor"},
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
        "run_verdicts": [run.verdict for run in row.scored],
        "run_epochs": row.run_epochs,
        "run_seeds": row.run_seeds,
        "epochs_to_target": row.epochs_to_target,
        "progress_unit": row.progress_unit,
        "best_wer_pct": row.best_wer_pct,
        "final_wer_pct": row.final_wer_pct,
        "target_wer_pct": aspects.target_wer,
        "samples_per_s": row.samples_per_s,
        "audio_s_per_s": row.audio_s_per_s,
        "gpu_utilization_pct": row.gpu_utilization_pct,
        "sm_active_pct": row.sm_active_pct,
        "tensor_active_pct": row.tensor_active_pct,
        "peak_memory_bytes": row.peak_memory_bytes,
        "power_w": row.power_w,
        "energy_kwh": row.energy_kwh,
        "accelerator_minutes": row.accelerator_minutes,
        "usd_per_hour": row.price_per_hour,
        "usd": row.cost,
        "global_batch_size": row.global_batch_size,
        "is_baseline": row.baseline,
        **_speedup(row),
        "params_sha256": aspects.params_sha256,
        "dataset_sha256": aspects.dataset_sha256,
        "notes": row.notes,
        "verification": aspects.verification,
    }


def _speedup(row: Row) -> dict[str, Any]:
    found = row.speedup
    time = found.time if found else None
    compared = time if not row.baseline else None
    return {
        "speedup": time.value if time else None,
        **_bounds("speedup", compared),
        "speedup_method": compared.method if compared else None,
        "runs_to_tell": compared.runs_to_tell() if compared and not compared.certain else None,
        "seed_pairs": found.pairs if found and not row.baseline else None,
        "throughput_speedup": found.throughput.value if found and found.throughput else None,
        **_bounds("throughput_speedup", found.throughput if found and not row.baseline else None),
        "progress_speedup": found.progress.value if found and found.progress else None,
        **_bounds("progress_speedup", found.progress if found and not row.baseline else None),
    }


def _bounds(name: str, ratio: Ratio | None) -> dict[str, float | None]:
    return {f"{name}_low": ratio.low if ratio else None, f"{name}_high": ratio.high if ratio else None}


def run_fields(run: Run) -> dict[str, Any]:
    """One run as plain values, in the order of a DataFrame's columns."""
    measures = run.measures
    return {
        "file": str(run.log),
        "label": run.label,
        "submitter": run.submitter,
        "system": run.system,
        "benchmark": run.benchmark,
        "variant": run.variant,
        "round": run.source.round,
        "division": run.division,
        "availability": run.availability,
        "accelerator": run.accelerator,
        "accelerators": run.accelerators,
        "nodes": run.nodes,
        "processes": run.processes,
        "processor": run.processor,
        **{key: run.configuration.get(key) for key in (*IDENTITY, *NOTED) if key != "processor"},
        "verdict": run.verdict,
        "minutes": run.minutes,
        "seed": run.seed,
        "epochs_to_target": run.progress_to_target,
        "progress_unit": run.progress_unit,
        "last_epoch": run.last_epoch,
        "last_eval_accuracy": run.last_accuracy,
        "best_wer_pct": run.best_wer,
        "target_wer_pct": run.target_wer,
        "samples_per_s": run.samples_per_s,
        "audio_s_per_s": run.audio_s_per_s,
        "gpu_utilization_pct": measures.gpu_utilization_pct,
        "sm_active_pct": measures.sm_active_pct,
        "tensor_active_pct": measures.tensor_active_pct,
        "peak_memory_bytes": measures.peak_memory_bytes,
        "power_w": measures.power_w,
        "energy_kwh": measures.energy_kwh,
        "global_batch_size": run.global_batch_size,
        "params_sha256": run.params_sha256,
        "dataset_sha256": run.dataset_sha256,
        "parse_errors": run.bad_lines,
        "problems": run.problems,
    }


RUN_DETAILS = (
    "file",
    "verdict",
    "minutes",
    "seed",
    "last_epoch",
    "last_eval_accuracy",
    "best_wer_pct",
    "parse_errors",
    "problems",
    *NOTED,
)
"""The fields of a run in the JSON's `run_details`."""
