"""The network at batch 1 in fp32: the default engine, beside ONNX Runtime with the same threads, for the full-size model.

Run by `python -m benches.onnx_inference`. Seconds for three seconds of audio, the least of several turns, taken alternately.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from benchmark.params import load_variant
from reference_model.engines import Engine, OnnxEngine, TorchEngine
from reference_model.features import Features
from reference_model.model import DeepSpeech2
from reference_model.onnx_file import write
from reference_model.trained import Trained

GOAL_RATIO = 1.1
ROUNDS = 5
FRAMES = 300


def run() -> None:
    """Print one line: name, the default engine's seconds, ONNX Runtime's, their ratio, the goal."""
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
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for engine, taken in zip(engines, times, strict=True):
            taken.append(_seconds(engine, features, frames))
    # The least of each: whatever else runs on the machine can only add.
    ours, peer = map(min, times)
    print(f"onnx_inference, {ours:.3f} s, {peer:.3f} s, {ours / peer:.2f}, <= {GOAL_RATIO}")


def _seconds(engine: Engine, features: torch.Tensor, frames: torch.Tensor) -> float:
    started_s = time.perf_counter()
    engine(features, frames)
    return time.perf_counter() - started_s


if __name__ == "__main__":
    run()
