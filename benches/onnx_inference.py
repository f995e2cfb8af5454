"""The network at batch 1 in fp32: the default engine, beside ONNX Runtime with the same threads, for the full-size model.

Run by `python -m benches.onnx_inference`. Seconds for three seconds of audio; the ratio is the default engine's time over the
other's.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from benchmark.params import load_variant
from reference_model.engines import OnnxEngine, TorchEngine
from reference_model.features import Features
from reference_model.model import DeepSpeech2
from reference_model.onnx_file import write
from reference_model.trained import Trained

from .line import Line, alternating, report

GOAL_RATIO = 1.1
ROUNDS = 5
FRAMES = 300


def main() -> int:
    """Print one line: name, the default engine's seconds, ONNX Runtime's, their ratio, the goal; exit status 0 where it is met."""
    params = load_variant("librispeech")
    torch.manual_seed(0)
    bins = Features(params.features).bins
    weights = DeepSpeech2(params.model, bins).state_dict()
    trained = Trained(params.model, params.features, "fp32", weights, "made", "0")
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        write(trained, Path(folder) / "model.onnx")
        engines = (
            TorchEngine(trained, cpu, "fp32"),
            OnnxEngine(Path(folder) / "model.onnx", cpu, torch.get_num_threads()),
        )
    features, frames = torch.randn(1, bins, FRAMES), torch.tensor([FRAMES])
    answers = [engine(features, frames)[0] for engine in engines]
    torch.testing.assert_close(*answers, rtol=0, atol=1e-4)
    default, onnx = (lambda engine=engine: engine(features, frames) for engine in engines)
    ours_s, peer_s, faster = alternating(default, onnx, ROUNDS)
    line = Line(
        "inference, full size, batch 1", f"{ours_s:.3f} s", f"ONNX Runtime {peer_s:.3f} s", 1 / faster, GOAL_RATIO, True
    )
    return report([line])


if __name__ == "__main__":
    sys.exit(main())
