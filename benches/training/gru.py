"""The CPU GRU for training (reference_model/model/cpu_gru.py), compared with PyTorch's, forward and backward, one thread.

    python -m benches.training.gru [--frames 120] [--rounds 5]

Two stacks: the closed model's three layers at hidden 512, batch 8, and `mini`'s two bidirectional ones of 128, batch 16, whose
directions are summed. All utterances have the same length, so that PyTorch's GRU needs no packing, which is slow on a CPU.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benches.line import Line, alternating, report
from reference_model.model.layers import Padding, RecurrentLayer, Stack

GOAL = 1.0


def closed(frames: int, rounds: int) -> Line:
    """Three stacked layers."""
    layers = [RecurrentLayer(inputs, 512, False, None) for inputs in (672, 512, 512)]
    x = torch.randn(frames, 8, 672, requires_grad=True)

    def pytorch(x: Tensor) -> Tensor:
        return functools.reduce(lambda values, layer: layer.rnn(values)[0], layers, x)

    return _compare("GRU, 3 layers of 512", x, Stack(layers), pytorch, rounds)


def mini(frames: int, rounds: int) -> Line:
    """Two bidirectional layers."""
    layers = [RecurrentLayer(inputs, 128, True, None) for inputs in (168, 128)]
    x = torch.randn(frames, 16, 168, requires_grad=True)
    padding = Padding.of(torch.full((16,), frames), frames)

    def summed(rnn: nn.GRU, x: Tensor) -> Tensor:
        return rnn(x)[0].unflatten(2, (2, -1)).sum(2)

    return _compare(
        "GRU, 2 x 2 layers of 128",
        x,
        lambda x: functools.reduce(lambda values, layer: layer(values, padding), layers, x),
        lambda x: functools.reduce(lambda values, layer: summed(layer.rnn, values), layers, x),
        rounds,
    )


def _compare(
    name: str, x: Tensor, ours: Callable[[Tensor], Tensor], peer: Callable[[Tensor], Tensor], rounds: int
) -> Line:
    gradient = torch.randn_like(ours(x))
    ours_s, peer_s, ratio = alternating(lambda: ours(x).backward(gradient), lambda: peer(x).backward(gradient), rounds)
    return Line(name, f"{ours_s * 1e3:.0f} ms", f"PyTorch {peer_s * 1e3:.0f} ms", ratio, GOAL)


def main() -> int:
    """Measure and print; exit status 0 if the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    return report([closed(options.frames, options.rounds), mini(options.frames, 2 * options.rounds + 1)])


if __name__ == "__main__":
    sys.exit(main())
