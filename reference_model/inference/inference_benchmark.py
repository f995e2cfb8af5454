"""The inference benchmark: opens the engine, runs the plan with telemetry, and writes the report.

`python -m reference_model.infer` is its command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from datetime import UTC, datetime

import torch

from benchmark import clock
from benchmark.telemetry.sampler import Telemetry
from common.errors import EXIT_OK
from common.progress import Progress, print_status
from datasets.dataset import default_data_dir
from reference_model.inference.beam_search import decoder_of
from reference_model.inference.engine_choice import open_engine
from reference_model.inference.inference_options import OFFLINE_BATCH
from reference_model.inference.inference_report import build_report, print_report, write_report
from reference_model.inference.inference_run import Plan, concurrent_streams, run
from reference_model.inference.locate import default_results_dir, find_checkpoint, find_clips, variant_of
from reference_model.model.features import Features
from reference_model.runtime import choose_device


def measure(args: argparse.Namespace) -> int:
    """Measure as the options of `reference_model.infer` say, print and write the report; returns the exit status."""
    batch_size = args.batch_size if args.batch_size is not None else 1 if args.scenario == "single" else OFFLINE_BATCH
    plan = Plan(
        scenario=args.scenario,
        batch_size=batch_size,
        hold_index=args.hold_index,
        trials=args.trials,
        warmup=args.warmup,
    )
    decode = decoder_of(args)
    device = choose_device(args.device)
    path = find_checkpoint(args.checkpoint, variant_of(args.data, args.variant), default_results_dir(), print_status)
    clips = find_clips(args.data, args.split, default_data_dir(), print_status)
    total = len(plan.batches([utterance.duration_s for utterance in clips.manifest]))
    threads = args.threads
    if plan.scenario == "offline" and device.type == "cpu":
        streams, threads = concurrent_streams(total, threads)
        plan = dataclasses.replace(plan, streams=streams)
    opened = open_engine(path, args.engine, device, args.precision, threads)

    telemetry = Telemetry(None, notify=print_status)
    if device.type == "cuda":
        telemetry.use([f"GPU-{torch.cuda.get_device_properties(device).uuid}"])
    marks: list[float] = []

    def mark() -> None:
        marks.append(clock.now_s())
        telemetry.mark("start" if len(marks) == 1 else "stop", marks[-1])

    started_at = datetime.now(UTC)
    with telemetry, Progress(f"inference, {clips.name}", total, "batches") as progress:
        telemetry.watch(os.getpid())
        outcome = run(
            opened.engine, Features(opened.trained.features), decode, clips.manifest, plan, progress.update, mark
        )
        mark()
    summary = telemetry.summary(*marks)

    report = build_report(
        outcome, clips, plan, opened, path, hold_seconds=args.hold_seconds, decoder=args.decoder, telemetry=summary
    )
    stamp = started_at.strftime("%Y%m%dT%H%M%S.%fZ")
    out = args.out or default_results_dir() / "inference" / f"{clips.name}-{device.type}-{stamp}"
    write_report(report, outcome, clips, out)
    print_report(report)
    print(f"\nwritten to {out}")
    return EXIT_OK
