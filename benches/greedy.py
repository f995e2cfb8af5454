"""Greedy decoding of a batch: all frames at once, compared with the usual loop over the frames of each utterance.

Run by `python -m benches.greedy`. Utterances per second, one thread.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from benches.line import Line, alternating, report
from reference_model.model.alphabet import BLANK, LABELS
from reference_model.model.greedy import greedy

GOAL_RATIO = 20
ROUNDS = 5
BATCH, FRAMES = 64, 600
"""Six hundred output frames are twelve seconds of speech: LibriSpeech's average."""


def main() -> int:
    """Print one line: name, our utterances/s, the loop's, the ratio, the goal; exit status 0 if it is met."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    # Like a trained network's output: mostly blanks, each letter lasting one or two frames.
    best = np.repeat(
        np.where(rng.random((FRAMES // 2, BATCH)) < 0.6, BLANK, rng.integers(1, 29, (FRAMES // 2, BATCH))), 2, 0
    )
    logits = torch.nn.functional.one_hot(torch.from_numpy(best), len(LABELS)).float()
    frames = torch.from_numpy(rng.integers(FRAMES // 2, FRAMES + 1, BATCH))
    if greedy(logits, frames) != _loop(logits, frames):
        raise RuntimeError("the decoded texts differ")
    ours_s, peer_s, ratio = alternating(lambda: greedy(logits, frames), lambda: _loop(logits, frames), ROUNDS)
    ours, peer = f"{BATCH / ours_s:.0f} utterances/s", f"loop over frames {BATCH / peer_s:.0f} utterances/s"
    return report([Line("greedy decoding", ours, peer, ratio, GOAL_RATIO)])


def _loop(logits: torch.Tensor, frames: torch.Tensor) -> list[str]:
    """The method of the reference's GreedyDecoder (`process_string` in its decoder.py), frame by frame."""
    best = logits.argmax(2).transpose(0, 1)
    texts = []
    for sequence, length in zip(best, frames.tolist(), strict=True):
        text = ""
        for i in range(length):
            label = LABELS[sequence[i].item()]
            if label != LABELS[BLANK] and not (i and label == LABELS[sequence[i - 1].item()]):
                text += label
        texts.append(text)
    return texts


if __name__ == "__main__":
    sys.exit(main())
