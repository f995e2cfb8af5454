"""A checkpoint as an ONNX file: features in, log-probabilities out, any number of utterances of any length.

    python -m reference_model.export_onnx runs/mini/.../checkpoints/epoch_03.pt --out model.onnx
    python -m reference_model.export_onnx epoch_03.pt --out model.onnx --int8 --data mini

Inputs: `features` (batch, bins, frames) float32 and `frames` (batch,) int64, how many of them are each utterance's own;
the longest must have 31. Outputs: `log_probabilities` (batch, output frames, 29) and `output_frames` (batch,). The file
carries labels, feature settings, WER and source as metadata. It appears under its name only after ONNX Runtime gave
PyTorch's answers on several batches. Exit status: 0 written, 1 the answers differ, 2 it could not be done.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from common.cli import HelpFormatter
from common.errors import EXIT_FAILED, EXIT_OK, UserError, run_cli
from datasets.geometry import FEWEST_FRAMES
from reference_model.checkpoint import load_trained
from reference_model.checkpoints.trained_network import Trained
from reference_model.inference.engines import OnnxEngine, TorchEngine
from reference_model.inference.onnx_graph import OPSET, write
from reference_model.model.features import Features

TOLERANCE = 1e-4
"""Largest difference of a log-probability that passes."""
CHECKED = ((31,), (777,), (400, 40), (33, 200, 1200), (500, 31, 90, 250, 251, 60, 75, 999))
"""Feature frames of the utterances of each checked batch: none of them as traced, and of very different lengths."""


def export(trained: Trained, path: Path) -> float:
    """Write `path` once it is verified; returns the largest difference from PyTorch. UserError where it is above TOLERANCE."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part.onnx")
    try:
        write(trained, part)
        difference = largest_difference(trained, part)
        if not difference <= TOLERANCE:
            raise UserError(
                f"ONNX Runtime and PyTorch differ by {difference:.2g} in a log-probability (at most {TOLERANCE:g} may be)",
                where=path,
                remedy="this is a bug of the exporter or of ONNX Runtime: try other versions; nothing was written",
            )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return difference


def largest_difference(trained: Trained, path: Path, seed: int = 0) -> float:
    """The largest difference between the log-probabilities of the file and of PyTorch over the batches CHECKED."""
    generator = torch.Generator().manual_seed(seed)
    cpu = torch.device("cpu")
    ours, theirs = TorchEngine(trained, cpu, "fp32"), OnnxEngine(path, cpu)
    worst = 0.0
    for lengths in CHECKED:
        frames = torch.tensor(lengths)
        features = torch.randn(len(lengths), Features(trained.features).bins, max(lengths), generator=generator)
        features *= torch.arange(max(lengths)) < frames[:, None, None]
        expected, kept = ours(features, frames)
        found, found_kept = theirs(features, frames)
        assert torch.equal(kept, found_kept)
        for row, length in enumerate(kept.tolist()):
            worst = max(worst, float((expected[:length, row] - found[:length, row]).abs().max()))
    return worst


def main(argv: list[str] | None = None) -> int:
    """The door; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_model.export_onnx",
        description=__doc__,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of any known format")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--int8", action="store_true", help="quantise dynamically to 8 bits, and say what it costs")
    parser.add_argument("--data", default="mini", help="what --int8 is measured on, as for reference_model.infer")
    parser.add_argument("--trials", type=int, default=-1, help="measure --int8 on this many utterances (-1: all)")
    args = parser.parse_args(argv)
    if args.out.suffix != ".onnx":
        raise UserError("must end in .onnx", where=f"--out {args.out}")
    trained = load_trained(args.checkpoint)
    try:
        if args.int8:
            from reference_model.inference.onnx_int8 import export_int8

            return export_int8(trained, args.out, args.data, args.trials)
        difference = export(trained, args.out)
    except UserError as error:
        if "differ by" not in error.what:
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    print(
        f"wrote {args.out}: {args.out.stat().st_size:,} bytes, opset {OPSET}, checked on {len(CHECKED)} batches of 1 to "
        f"{max(map(len, CHECKED))} utterances of {FEWEST_FRAMES} to {max(map(max, CHECKED))} frames: "
        f"within {difference:.1e} of PyTorch"
    )
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(run_cli(main))
