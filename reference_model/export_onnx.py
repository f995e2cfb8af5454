"""Exports a checkpoint to ONNX: features in, log-probabilities out, any number of utterances of any length.

    python -m reference_model.export_onnx runs/mini/.../checkpoints/epoch_03.pt --out model.onnx
    python -m reference_model.export_onnx epoch_03.pt --out model.onnx --int8 --data mini

Inputs: `features` (batch, bins, frames) float32 and `frames` (batch,) int64, the number of valid frames of each
utterance; the longest must have 31. Outputs: `log_probabilities` (batch, output frames, 29) and `output_frames`
(batch,). The file carries labels, feature settings, WER and source as metadata. It appears under its name only after
ONNX Runtime has given the same outputs as PyTorch on several batches. Exit status: 0 written, 1 the outputs differ, 2
error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.cli import HelpFormatter
from common.errors import UserError, run_cli


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_model.export_onnx",
        description=__doc__,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of any known format")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument(
        "--int8", action="store_true", help="quantise dynamically to 8 bits, and report the cost in WER"
    )
    parser.add_argument("--data", default="mini", help="what --int8 is measured on, as for reference_model.infer")
    parser.add_argument("--trials", type=int, default=-1, help="measure --int8 on this many utterances (-1: all)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Export as the command line says; returns the exit status."""
    args = parse_arguments(argv)
    if args.out.suffix != ".onnx":
        raise UserError("must end in .onnx", where=f"--out {args.out}")
    # These import torch and onnx, which --help need not wait for.
    from reference_model.checkpoints.loading import load_trained

    trained = load_trained(args.checkpoint)
    if args.int8:
        from reference_model.inference.onnx_int8 import export_int8

        return export_int8(trained, args.out, args.data, args.trials)
    from reference_model.inference.onnx_conversion import export_fp32

    return export_fp32(trained, args.out)


if __name__ == "__main__":
    sys.exit(run_cli(main))
