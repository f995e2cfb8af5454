"""Activation memory of a variant's training step, saved by the forward pass for the backward pass, per second of audio.

    python -m benches.memory [--variant synthetic]

Counted on a CPU, at full size and in the variant's precision: every tensor that autograd saves, at two lengths, whose difference
is the part that scales with the audio. A GPU needs about the same: instead of what PyTorch's CPU code saves per frame, cuDNN
keeps its own reserve space for a GRU, whose size is undocumented.
"""

from __future__ import annotations

import argparse
import sys

import torch

from benchmark.machine.estimates import LONGEST_S
from benchmark.params import Params, load_variant, variant_names
from common.cli import HelpFormatter
from common.errors import EXIT_OK, run_cli
from reference_model.model.features import Features
from reference_model.model.network import DeepSpeech2

LENGTHS_S, BATCH = (4, 8), 2
BYTES_PER_PARAMETER = 16
"""Weight, gradient and AdamW's two moments, each in fp32."""
COPIES_BYTES = 4
"""In bf16, copies of the weights and of their gradients, two bytes each."""


def saved_bytes(network: DeepSpeech2, seconds: int, precision: str) -> int:
    """Bytes that autograd saves in a forward pass over BATCH utterances of `seconds`, without the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    frames = 100 * seconds
    saving = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with saving, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits, _ = network(torch.randn(BATCH, network.bins, frames), torch.full((BATCH,), frames))
        logits.float().log_softmax(2)
    return sum(kept.values())


def per_second(params: Params) -> tuple[float, float]:
    """Megabytes saved per second of audio, and gigabytes of weights, gradients and optimizer state."""
    network = DeepSpeech2(params.model, Features(params.features).bins).train()
    short, long = (saved_bytes(network, seconds, params.train.precision) for seconds in LENGTHS_S)
    parameters = sum(weight.numel() for weight in network.parameters())
    each = BYTES_PER_PARAMETER + COPIES_BYTES * (params.train.precision == "bf16")
    return (long - short) / BATCH / (LENGTHS_S[1] - LENGTHS_S[0]) / 1e6, parameters * each / 1e9


def main() -> int:
    """Print the figures; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benches.memory", description=__doc__, formatter_class=HelpFormatter
    )
    parser.add_argument(
        "--variant",
        choices=variant_names(),
        default="synthetic",
        metavar="NAME",
        help=f"one of {', '.join(variant_names())}",
    )
    params = load_variant(parser.parse_args().variant)
    kept_mb, fixed_gb = per_second(params)
    print(f"{params.variant}: {fixed_gb:.2f} GB for weights, gradients and optimizer")
    print(f"{kept_mb:.2f} MB per second of audio in a batch")
    for clip_s in (14, LONGEST_S):
        batch = params.train.batch_size
        print(f"a batch of {batch} utterances of {clip_s} s: {fixed_gb + kept_mb * batch * clip_s / 1e3:.1f} GB")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(run_cli(main))
