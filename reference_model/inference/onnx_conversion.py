"""Export of a trained network to an ONNX file that is compared with PyTorch before it is renamed to its final name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from common.errors import EXIT_FAILED, EXIT_OK, UserError
from datasets.geometry import FEWEST_FRAMES
from reference_model.checkpoints.trained_network import Trained
from reference_model.inference.engines import OnnxEngine, TorchEngine
from reference_model.inference.onnx_graph import OPSET, write
from reference_model.model.features import Features

TOLERANCE = 1e-4
"""Largest accepted difference of a log-probability."""
CHECKED = ((31,), (777,), (400, 40), (33, 200, 1200), (500, 31, 90, 250, 251, 60, 75, 999))
"""Feature frames of the utterances of each checked batch: different batch sizes, and very different lengths."""


def export_fp32(trained: Trained, path: Path) -> int:
    """Export to `path` and print what was written and checked; returns the exit status: 1 where the outputs differ."""
    try:
        difference = export(trained, path)
    except UserError as error:
        if "differ by" not in error.what:
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    print(
        f"wrote {path}: {path.stat().st_size:,} bytes, opset {OPSET}, checked on {len(CHECKED)} batches of 1 to "
        f"{max(map(len, CHECKED))} utterances of {FEWEST_FRAMES} to {max(map(max, CHECKED))} frames: "
        f"within {difference:.1e} of PyTorch"
    )
    return EXIT_OK


def export(trained: Trained, path: Path) -> float:
    """Write `path` if verified; returns the largest difference from PyTorch. UserError where above TOLERANCE."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part.onnx")
    try:
        write(trained, part)
        difference = largest_difference(trained, part)
        if not difference <= TOLERANCE:
            raise UserError(
                f"ONNX Runtime and PyTorch differ by {difference:.2g} in a log-probability (at most {TOLERANCE:g} is accepted)",
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
        expected, expected_lengths = ours(features, frames)
        found, found_lengths = theirs(features, frames)
        assert torch.equal(expected_lengths, found_lengths)
        for row, length in enumerate(expected_lengths.tolist()):
            worst = max(worst, float((expected[:length, row] - found[:length, row]).abs().max()))
    return worst
