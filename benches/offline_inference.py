"""The offline scenario of the inference benchmark, beside its utterances one at a time: mixed lengths, the same texts.

Run by `python -m benches.offline_inference`. Audio-seconds per second; noise for audio and a network that was not trained: the
work is the same. The network is that of `mini`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmark.params import load_variant
from datasets.manifest import SAMPLE_RATE_HZ, Manifest, Utterance
from reference_model import inference_run
from reference_model.decode import greedy
from reference_model.engines import TorchEngine
from reference_model.features import Features
from reference_model.inference_run import OFFLINE_BATCH, Outcome, Plan
from reference_model.model import DeepSpeech2
from reference_model.trained import Trained

from .line import Line, report

GOAL_RATIO = 2
UTTERANCES, SHORTEST_S, LONGEST_S = 96, 0.6, 6.0


def main() -> int:
    """Print one line: name, offline audio-seconds/s, one at a time, the ratio, the goal; exit status 0 where it is met."""
    params = load_variant("mini")
    model = params.model
    torch.set_num_threads(1)  # as the inference benchmark runs a small network
    torch.manual_seed(0)
    weights = DeepSpeech2(model, Features(params.features).bins).state_dict()
    engine = TorchEngine(Trained(model, params.features, "fp32", weights, "made", "0"), torch.device("cpu"), "fp32")
    with tempfile.TemporaryDirectory() as folder:
        manifest = _corpus(Path(folder))

        def measure(plan: Plan) -> Outcome:
            return inference_run.run(engine, Features(params.features), greedy, manifest, plan)

        alone = measure(Plan(warmup=1))
        offline = measure(Plan(scenario="offline", batch_size=OFFLINE_BATCH, warmup=1))
    if alone.texts != offline.texts:
        raise RuntimeError("the texts differ")
    ours, peer = manifest.duration_s / offline.wall_s, manifest.duration_s / alone.wall_s
    line = Line(
        "offline inference", f"{ours:.1f} audio s/s", f"one at a time {peer:.1f} audio s/s", ours / peer, GOAL_RATIO
    )
    return report([line])


def _corpus(folder: Path) -> Manifest:
    rng = np.random.default_rng(0)
    utterances = []
    for number in range(UTTERANCES):
        samples = int(rng.uniform(SHORTEST_S, LONGEST_S) * SAMPLE_RATE_HZ)
        soundfile.write(folder / f"{number}.flac", 0.1 * rng.standard_normal(samples), SAMPLE_RATE_HZ)
        utterances.append(Utterance(str(number), f"{number}.flac", samples / SAMPLE_RATE_HZ, "A"))
    return Manifest(folder, tuple(utterances))


if __name__ == "__main__":
    sys.exit(main())
