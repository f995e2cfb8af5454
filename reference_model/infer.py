"""The inference benchmark: error rates, latency and throughput of a trained network on a set of utterances.

    sh script/test.sh 20 libri -1 1 -1
    python -m reference_model.infer --checkpoint 20 --data libri --hold-index -1 --hold-seconds 1 --trials -1
    python -m reference_model.infer --checkpoint model.onnx --data mini --scenario offline --batch-size 32

Prints a table, and writes inference.json, batches.csv and texts.csv into a folder of its own. docs/inference.md says what is
measured. Exit status: 0 done, 2 it could not be done.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmark import clock
from benchmark.telemetry.sampler import Telemetry
from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError, run_cli
from common.progress import Progress
from datasets.dataset import default_data_dir
from reference_model.inference.beam_search import decoder_of
from reference_model.inference.engine_choice import AUTO, CHOICES, open_engine
from reference_model.inference.engines import PRECISIONS
from reference_model.inference.inference_report import build_report, print_report, write_report
from reference_model.inference.inference_run import OFFLINE_BATCH, Plan, run, side_by_side
from reference_model.inference.locate import default_results_dir, find_checkpoint, find_clips, variant_of
from reference_model.model.features import Features
from reference_model.train import choose_device


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The options; the first five are script/test.sh's EPOCH DATASET HOLD_IDX HOLD_SEC N_TRIALS."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_model.infer",
        description=__doc__,
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="EPOCH", help="an epoch's number, or a file (.pt, .safetensors, .onnx)")
    add("--data", required=True, metavar="DATASET", help="libri (test-clean), mini, synthetic, a folder, or a manifest")
    add("--hold-index", type=int, default=-1, metavar="N", help="run utterance N (from 0) again and again; -1: all")
    add("--hold-seconds", type=float, default=1.0, metavar="S", help="divide the reported times by S; 1: as they are")
    add("--trials", type=int, default=-1, metavar="N", help="at most N batches; -1: all")
    add("--scenario", choices=("single", "offline"), default="single", help="one at a time, or length-sorted batches")
    add("--batch-size", type=int, help=f"utterances in a batch (single: 1; offline: {OFFLINE_BATCH} unless said)")
    add("--engine", choices=CHOICES, default=AUTO, help="auto: onnx in fp32 on a CPU, else torch")
    add("--device", choices=("auto", "cuda", "cpu"), default=os.environ.get("DEVICE") or "auto")
    add("--precision", choices=PRECISIONS, help="default: the one that training evaluated with")
    add("--threads", type=int, help="CPU threads in all (default: all cores; single: one for a small network)")
    add("--warmup", type=int, default=3, metavar="N", help="batches before the clock starts (default 3)")
    add("--variant", default=os.environ.get("VARIANT"), help="whose checkpoint (default: VARIANT, else by DATASET)")
    add("--split", help="another part of the data set, such as dev-other")
    add("--decoder", choices=("greedy", "beam"), default="greedy", help="the benchmark's score is greedy")
    add("--beam-width", type=int, default=16, help="prefixes kept by --decoder beam (default 16)")
    add("--words", type=Path, metavar="FILE", help="beam: only these words, one a line")
    add("--lm", type=Path, metavar="FILE", help="beam: an n-gram language model in ARPA form")
    add("--lm-weight", type=float, default=0.5, help="beam: weight of the language model (default 0.5)")
    add("--word-bonus", type=float, default=0.5, help="beam: added to the logarithm for each word (default 0.5)")
    add("--out", type=Path, metavar="DIR", help="where the files go (default: a new folder in RESULTS_DIR/inference)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure as the command line says; returns the exit status."""
    args = parse_arguments(argv)
    if not 0 < args.hold_seconds < float("inf"):
        raise UserError("must be a number of seconds above 0", where="HOLD_SEC")
    if args.threads is not None and args.threads < 1:
        raise UserError("must be at least 1", where="--threads")
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
    path = find_checkpoint(args.checkpoint, variant_of(args.data, args.variant), default_results_dir(), _say)
    clips = find_clips(args.data, args.split, default_data_dir(), _say)
    total = len(plan.batches([utterance.duration_s for utterance in clips.manifest]))
    threads = args.threads
    if plan.scenario == "offline" and device.type == "cpu":
        streams, threads = side_by_side(total, threads)
        plan = dataclasses.replace(plan, streams=streams)
    opened = open_engine(path, args.engine, device, args.precision, threads)

    telemetry = Telemetry(None, say=_say)
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_cli(main))
