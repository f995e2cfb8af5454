"""The inference benchmark's offline scenario, compared with one utterance at a time: mixed lengths, the same texts.

Run by `python -m benches.offline_inference`. Audio-seconds per second with the default engine, on noise and with untrained
networks, which take the same work. A name such as `closed 1024 bi` gives the variant, and the GRUs' width and directions if they
differ from the variant's.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch

from benches.line import Line, report
from benchmark.params import ModelParams, Params, load_variant
from common import limits
from datasets.manifest import SAMPLE_RATE_HZ, Manifest, Utterance
from reference_model.checkpoints.trained_network import Trained
from reference_model.inference import inference_run
from reference_model.inference.engine_choice import choose_engine, onnx_engine
from reference_model.inference.engines import Engine, TorchEngine
from reference_model.inference.inference_options import OFFLINE_BATCH
from reference_model.inference.inference_run import Outcome, Plan, concurrent_streams
from reference_model.model.features import Features
from reference_model.model.greedy import greedy
from reference_model.model.network import DeepSpeech2
from reference_model.runtime import default_threads

GOAL_RATIO = 2
SHORTEST_S, LONGEST_S = 0.6, 6.0
NETWORKS = (
    ("mini", "mini", {}, 256, GOAL_RATIO),
    ("closed 1024", "librispeech", {"rnn_hidden": 1024}, 128, None),
    ("closed 1024 bi", "librispeech", {"rnn_hidden": 1024, "bidirectional": True}, 128, None),
    ("closed", "librispeech", {}, 16, GOAL_RATIO),
    ("closed bi", "librispeech", {"bidirectional": True}, 16, GOAL_RATIO),
)
"""Name, variant, changes to its network, utterances, and goal.

At 1024 the recurrent weights (12.6 MB per layer) stay in a server's cache, so that one utterance keeps the cores nearly as
busy as a batch: these networks have no goal.
"""


def main() -> int:
    """Print one line per network: offline audio-seconds/s, one at a time, the ratio, the goal; exit status 0 if all are met."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, variant, changes, utterances, goal in NETWORKS:
            params = load_variant(variant)
            model = dataclasses.replace(params.model, **changes)
            lines.append(_compare(name, params, model, _corpus(Path(folder), utterances), goal))
    return report(lines)


def _compare(name: str, params: Params, model: ModelParams, manifest: Manifest, goal: float | None) -> Line:
    torch.manual_seed(0)
    weights = DeepSpeech2(model, Features(params.features).bins).state_dict()
    trained, cpu = Trained(model, params.features, "fp32", weights, "made", "0"), torch.device("cpu")
    default, _ = choose_engine(trained, cpu, "fp32")

    def measure(plan: Plan, threads: int) -> Outcome:
        torch.set_num_threads(threads)
        engine: Engine = onnx_engine(trained, cpu) if default == "onnx" else TorchEngine(trained, cpu, "fp32")
        return inference_run.run(engine, Features(params.features), greedy, manifest, plan)

    # The inference benchmark's default number of threads.
    few = default_threads(params)
    torch.set_num_threads(limits.cores())
    batches = -(-len(manifest) // OFFLINE_BATCH)
    streams, threads = concurrent_streams(batches, None)
    alone = measure(Plan(warmup=1), few)
    offline = measure(Plan(scenario="offline", batch_size=OFFLINE_BATCH, warmup=1, streams=streams), threads or few)
    if alone.texts != offline.texts:
        raise RuntimeError("the texts differ")
    ours, peer = manifest.duration_s / offline.wall_s, manifest.duration_s / alone.wall_s
    figures = f"{ours:.1f} audio s/s", f"one at a time {peer:.1f} audio s/s"
    return Line(f"offline inference, {name}", *figures, ours / peer, goal)


def _corpus(folder: Path, count: int) -> Manifest:
    rng = np.random.default_rng(0)
    utterances = []
    for number in range(count):
        samples = int(rng.uniform(SHORTEST_S, LONGEST_S) * SAMPLE_RATE_HZ)
        soundfile.write(folder / f"{number}.flac", 0.1 * rng.standard_normal(samples), SAMPLE_RATE_HZ)
        utterances.append(Utterance(str(number), f"{number}.flac", samples / SAMPLE_RATE_HZ, "A"))
    return Manifest(folder, tuple(utterances))


if __name__ == "__main__":
    sys.exit(main())
