"""A training step, waveforms to updated weights, compared with the same step in plain PyTorch (plain_step.py).

    python -m benches.training.train_step [--seconds 4] [--rounds 5]

Two networks: the closed model at hidden 512, batch 8, and `mini`, batch 16. Both on one thread, in one process.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

import numpy as np
import torch

from benches.line import Line, alternating, report
from benches.training.plain_step import PlainStep
from benchmark.params import Params, load_variant
from reference_model.data.data_loader import Batch
from reference_model.model.features import Features
from reference_model.model.network import DeepSpeech2, prefers_channels_last
from reference_model.training.distributed import World
from reference_model.training.optim import build_optimizer
from reference_model.training.step import TrainStep

GOAL_CLOSED, GOAL_MINI = 1.0, 1.0


def make_batch(size: int, longest_s: float, seed: int = 0) -> tuple[Batch, list[np.ndarray], list[list[int]]]:
    """`size` utterances of noise, 0.9 to 1 times `longest_s` long, with 14 letters per second: as a Batch, and individually."""
    rng = np.random.default_rng(seed)
    lengths = sorted((round(16_000 * longest_s * rng.uniform(0.9, 1)) for _ in range(size)), reverse=True)
    waveforms = [rng.normal(0, 0.1, samples).astype(np.float32) for samples in lengths]
    labels = [rng.integers(1, 29, int(samples / 16_000 * 14)).tolist() for samples in lengths]
    padded = np.zeros((size, lengths[0]), np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    batch = Batch(
        waveforms=torch.from_numpy(padded),
        samples=torch.tensor(lengths),
        labels=torch.tensor([number for each in labels for number in each], dtype=torch.int32),
        label_lengths=torch.tensor([len(each) for each in labels]),
        mask_uniforms=torch.zeros(size, 2, 0),
        indices=list(range(size)),
        global_utterances=size,
        audio_s=sum(lengths) / 16_000,
    )
    return batch, waveforms, labels


def make_step(params: Params, device: torch.device, channels_last: bool | None = None) -> TrainStep:
    """The trainer's own step for `params`, with weights initialised on `device`.

    `channels_last` is the memory layout of the convolutional front; None uses the trainer's own choice.
    """
    torch.manual_seed(0)
    features = Features(params.features).to(device)
    if channels_last is None:
        channels_last = prefers_channels_last(device, params.train.precision)
    # Initialising the closed model's 100 million weights takes two seconds on the host, and almost none on a GPU.
    with device:
        network = DeepSpeech2(params.model, features.bins, channels_last).train()
    # Again, although the weights are already there: this makes a GRU's weights contiguous, as cuDNN requires.
    network.to(device)
    return TrainStep(
        params, network, features, build_optimizer(params.optimizer, network.parameters()), device, World(0, 0, 1)
    )


def hidden_512() -> Params:
    """The closed reference with GRUs of 512."""
    params = load_variant("librispeech")
    return dataclasses.replace(params, model=dataclasses.replace(params.model, rnn_hidden=512))


def compare(name: str, params: Params, longest_s: float, rounds: int, goal: float) -> Line:
    """Time both steps on the same batch."""
    batch, waveforms, labels = make_batch(params.train.batch_size, longest_s)
    ours = make_step(params, torch.device("cpu"))
    plain = PlainStep(params.model, params.optimizer.name, params.optimizer.clip_norm)
    ours_s, plain_s, ratio = alternating(lambda: ours(batch, 1e-4), lambda: plain(waveforms, labels), rounds)
    return Line(name, f"{ours_s * 1e3:.0f} ms", f"plain {plain_s * 1e3:.0f} ms", ratio, goal)


def main() -> int:
    """Measure and print; exit status 0 if the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the longest utterance")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    return report(
        [
            compare("train step, closed, hidden 512", hidden_512(), options.seconds, options.rounds, GOAL_CLOSED),
            compare("train step, mini", load_variant("mini"), options.seconds / 2, options.rounds * 2 + 1, GOAL_MINI),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
