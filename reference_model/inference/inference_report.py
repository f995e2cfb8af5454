"""The report of an inference run: a table on stdout, inference.json, one CSV line per batch, and the texts."""

from __future__ import annotations

import csv
import dataclasses
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import torch

from benchmark.machine import system
from benchmark.telemetry.integrals import Summary
from common.files import sha256_of, write_atomically
from common.formats import INFERENCE
from reference_model.inference.engine_choice import Opened
from reference_model.inference.inference_run import Outcome, Plan
from reference_model.inference.latency import WHOLE, spreads, write_csv
from reference_model.inference.locate import Clips

ROWS = {
    WHOLE: "whole batch",
    "audio_s": "audio decoding",
    "features_s": "features",
    "network_s": "network",
    "text_s": "text decoding",
}


def build_report(
    outcome: Outcome,
    clips: Clips,
    plan: Plan,
    opened: Opened,
    path: Path,
    *,
    hold_seconds: float,
    decoder: str,
    telemetry: Summary | None,
) -> dict[str, Any]:
    """The content of inference.json; docs/inference.md documents its fields. Unknown values are None."""
    score, times = outcome.score(clips.manifest), spreads(outcome.times)
    trained, engine = opened.trained, opened.engine
    clip_s = sum(batch.clip_s for batch in outcome.times)
    utterances = len(outcome.texts)
    described = system.describe(gpus=() if engine.device.type == "cpu" else None)
    report = {
        "kind": "inference",
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "file": path.name,
            "sha256": sha256_of(path),
            "variant": trained.variant,
            "epoch": trained.epoch,
            "trained_wer": trained.wer,
            "source": trained.source,
        },
        "dataset": {
            "name": clips.name,
            "split": clips.split,
            "tree_sha256": clips.tree_sha256,
            "utterances": len(clips.manifest),
        },
        "options": dataclasses.asdict(plan)
        | {
            "hold_seconds": hold_seconds,
            "decoder": decoder,
            "engine": engine.name,
            "engine_because": opened.reason,
            "device": engine.device.type,
            "precision": engine.precision,
            "threads": torch.get_num_threads(),
        },
        "system": {
            "name": described["system_name"],
            "processor": described["host_processor_model_name"],
            "accelerator": torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else None,
            "software": system.software(),
        },
        "batches": len(outcome.times),
        "utterances": utterances,
        "audio_s": clip_s,
        "wall_s": outcome.wall_s,
        "score": dataclasses.asdict(score) | {"wer": score.wer, "cer": score.cer, "mean_wer": score.mean_wer},
        "times": {name: dataclasses.asdict(value) for name, value in times.items()},
        "times_divided": {name: dataclasses.asdict(value.divided(hold_seconds)) for name, value in times.items()},
        "utterances_per_s": utterances / outcome.wall_s,
        "audio_s_per_s": clip_s / outcome.wall_s,
        "real_time_factor": outcome.wall_s / clip_s,
        "telemetry": telemetry.as_dict() if telemetry else None,
    }
    return INFERENCE.with_version(report)


def write_report(report: dict[str, Any], outcome: Outcome, clips: Clips, folder: Path) -> None:
    """Write batches.csv, texts.csv and, last, inference.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(outcome.times, folder / "batches.csv")
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("utterance", "id", "reference", "text"))
    for index, text in outcome.texts:
        utterance = clips.manifest.utterances[index]
        writer.writerow((index, utterance.id, utterance.text, text))
    write_atomically(folder / "texts.csv", lines.getvalue().encode())
    write_atomically(
        folder / "inference.json", orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )


def print_report(report: dict[str, Any]) -> None:
    """The report as a table on stdout."""
    options, model, score = report["options"], report["model"], report["score"]
    divided = options["hold_seconds"]
    which = f"epoch {model['epoch']} of {model['variant']}" if model["epoch"] is not None else model["file"]
    held = f", utterance {options['hold_index']} only" if options["hold_index"] >= 0 else ""
    streams = f", {options['streams']} concurrently" if options["streams"] > 1 else ""
    part = f" {report['dataset']['split']}" if report["dataset"]["split"] else ""
    lines = [
        f"model        {which}",
        f"engine       {options['engine']} ({options['engine_because']}), {options['device']}, {options['precision']}, "
        f"CPU threads{' of each batch' if streams else ''}: {options['threads']}",
        f"data         {report['dataset']['name']}{part}: {report['utterances']} utterances, "
        f"{report['audio_s']:.1f} s of audio{held}",
        f"scenario     {options['scenario']}, batch size {options['batch_size']}, {report['batches']} batches{streams}; "
        f"{options['warmup']} warm-up batches not counted",
        f"WER          {score['wer']:.2f} %  ({score['word_edits']} edits, {score['words']} words; {options['decoder']} decoding)",
        f"CER          {score['cer']:.2f} %",
        f"throughput   {report['utterances_per_s']:.2f} utterances/s, {report['audio_s_per_s']:.2f} audio-seconds/s",
        f"real time    factor {report['real_time_factor']:.4f}",
    ]
    lines += _gpu_lines(report["telemetry"])
    lines += ["", f"{'ms per batch':<16}" + "".join(f"{name:>11}" for name in ("mean", "p50", "p90", "p99", "share %"))]
    lines += _time_lines(report["times"])
    if divided != 1:
        lines += ["", f"divided by {divided:g} s"]
        lines += _time_lines(report["times_divided"])
    print("\n".join(lines))


def _time_lines(times: dict[str, Any]) -> list[str]:
    whole_s = times[WHOLE]["sum_s"]
    lines = []
    for name, label in ROWS.items():
        cells = [f"{times[name][key] * 1e3:11.3f}" for key in ("mean_s", "p50_s", "p90_s", "p99_s")]
        lines.append(f"{label:<16}{''.join(cells)}{100 * times[name]['sum_s'] / whole_s:11.1f}")
    return lines


def _gpu_lines(telemetry: dict[str, Any] | None) -> list[str]:
    lines = []
    for gpu in (telemetry or {}).get("gpus", ()):
        if gpu["used"]:
            shown = {
                "power W": (gpu.get("power_w") or {}).get("mean"),
                "energy J": gpu.get("energy_j"),
                "SM active %": (gpu.get("sm_active_pct") or {}).get("mean"),
            }
            values = ", ".join(f"{name} {value:.1f}" for name, value in shown.items() if value is not None)
            lines.append(f"GPU          {gpu['name']}: {values or 'no reading'}")
    return lines
