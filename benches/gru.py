"""The closed model's recurrent layers as one call, beside layer by layer, forward and backward on a CPU (hidden 512, batch 8).

    python -m benches.gru [--frames 120] [--rounds 5]

On a CPU both do the same work, and no gain is promised; what it is for is cuDNN (`python -m benches gpu`).
"""

from __future__ import annotations

import argparse
import functools
import sys

import torch

from reference_model.model import RecurrentLayer, run_stack

from .line import Line, alternating, report


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    layers = [RecurrentLayer(inputs, 512, False, None) for inputs in (672, 512, 512)]
    x = torch.randn(options.frames, 8, 672, requires_grad=True)

    def layer_by_layer() -> None:
        functools.reduce(lambda values, layer: layer(values), layers, x).sum().backward()

    ours_s, peer_s, ratio = alternating(lambda: run_stack(layers, x).sum().backward(), layer_by_layer, options.rounds)
    return report([Line("GRU layers in one call", f"{ours_s:.3f} s", f"layer by layer {peer_s:.3f} s", ratio)])


if __name__ == "__main__":
    sys.exit(main())
