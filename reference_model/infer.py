"""The inference benchmark: error rates, latency and throughput of a trained network on a set of utterances.

    sh script/test.sh 20 libri -1 1 -1
    python -m reference_model.infer --checkpoint 20 --data libri --hold-index -1 --hold-seconds 1 --trials -1
    python -m reference_model.infer --checkpoint model.onnx --data mini --scenario offline --batch-size 32

Prints a table, and writes inference.json, batches.csv and texts.csv into a folder of its own. docs/inference.md
describes what is measured. Exit status: 0 done, 2 error.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from common.cli import HelpFormatter
from common.errors import UserError, run_cli
from reference_model.inference.inference_options import AUTO, ENGINE_CHOICES, OFFLINE_BATCH, PRECISIONS


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
    add("--hold-index", type=int, default=-1, metavar="N", help="run only utterance N (from 0), repeatedly; -1: all")
    add("--hold-seconds", type=float, default=1.0, metavar="S", help="divide the reported times by S; 1: unchanged")
    add("--trials", type=int, default=-1, metavar="N", help="at most N batches; -1: all")
    add("--scenario", choices=("single", "offline"), default="single", help="one at a time, or length-sorted batches")
    add("--batch-size", type=int, help=f"utterances in a batch (default: 1 for single, {OFFLINE_BATCH} for offline)")
    add("--engine", choices=ENGINE_CHOICES, default=AUTO, help="auto: onnx in fp32 on a CPU, else torch")
    add("--device", choices=("auto", "cuda", "cpu"), default=os.environ.get("DEVICE") or "auto")
    add("--precision", choices=PRECISIONS, help="default: the one that training evaluated with")
    add("--threads", type=int, help="total CPU threads (default: all cores; single: one for a small network)")
    add("--warmup", type=int, default=3, metavar="N", help="batches before the clock starts (default 3)")
    add("--variant", default=os.environ.get("VARIANT"), help="whose checkpoint (default: VARIANT, else by DATASET)")
    add("--split", help="another part of the dataset, such as dev-other")
    add("--decoder", choices=("greedy", "beam"), default="greedy", help="the benchmark's score is greedy")
    add("--beam-width", type=int, default=16, help="prefixes kept by --decoder beam (default 16)")
    add("--words", type=Path, metavar="FILE", help="beam: only these words, one a line")
    add("--lm", type=Path, metavar="FILE", help="beam: an n-gram language model in ARPA format")
    add("--lm-weight", type=float, default=0.5, help="beam: weight of the language model (default 0.5)")
    add("--word-bonus", type=float, default=0.5, help="beam: added to the log-probability per word (default 0.5)")
    add("--out", type=Path, metavar="DIR", help="output folder (default: a new folder in RESULTS_DIR/inference)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure as the command line says; returns the exit status."""
    args = parse_arguments(argv)
    if not 0 < args.hold_seconds < float("inf"):
        raise UserError("must be a number of seconds above 0", where="HOLD_SEC")
    if args.threads is not None and args.threads < 1:
        raise UserError("must be at least 1", where="--threads")
    from reference_model.inference import inference_benchmark  # imports torch, which --help need not wait for

    return inference_benchmark.measure(args)


if __name__ == "__main__":
    sys.exit(run_cli(main))
