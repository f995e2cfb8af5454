"""The default inference engine on a CPU, compared with the other one: the full-size network at batch 1 in fp32.

Run by `python -m benches.onnx_inference`. Seconds for three seconds of audio with one thread and with all cores; the ratio is
how many times as fast the default is. Preparation (loading the weights, building the ONNX graph) is not timed.
"""

from __future__ import annotations

import sys

import torch

from benches.line import Line, alternating, report
from benchmark.params import load_variant
from common import limits
from reference_model.checkpoints.trained_network import Trained
from reference_model.inference.engine_choice import choose_engine, onnx_engine
from reference_model.inference.engines import Engine, TorchEngine
from reference_model.model.features import Features
from reference_model.model.network import DeepSpeech2

GOAL_RATIO = 1
ROUNDS = 5
FRAMES = 300


def main() -> int:
    """Print one line per number of threads: the default engine's seconds, the other's, the ratio; exit status 0 if met."""
    params = load_variant("librispeech")
    torch.manual_seed(0)
    bins = Features(params.features).bins
    weights = DeepSpeech2(params.model, bins).state_dict()
    trained = Trained(params.model, params.features, "fp32", weights, "made", "0")
    cpu = torch.device("cpu")
    features, frames = torch.randn(1, bins, FRAMES), torch.tensor([FRAMES])
    lines = []
    for threads in sorted({1, limits.cores()}):
        torch.set_num_threads(threads)
        engines: dict[str, Engine] = {"torch": TorchEngine(trained, cpu, "fp32"), "onnx": onnx_engine(trained, cpu)}
        answers = [engine(features, frames)[0] for engine in engines.values()]
        torch.testing.assert_close(*answers, rtol=0, atol=1e-4)
        default, _ = choose_engine(trained, cpu, "fp32")
        (other,) = set(engines) - {default}
        ours, peer = ((lambda engine=engines[name]: engine(features, frames)) for name in (default, other))
        ours_s, peer_s, faster = alternating(ours, peer, ROUNDS)
        name = f"inference, full size, batch 1, threads {threads}"
        lines.append(Line(name, f"{default} {ours_s:.3f} s", f"{other} {peer_s:.3f} s", faster, GOAL_RATIO))
    return report(lines)


if __name__ == "__main__":
    sys.exit(main())
