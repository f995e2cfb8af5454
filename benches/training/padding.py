"""Share of padding in a batch, on 281,241 lengths of LibriSpeech's distribution (datasets.synthesis.plans).

    python -m benches.training.padding

Counted, not timed: frames after an utterance's end, as a share of all frames given to the network. The peer is random order. The
closed rules sort by the files' lengths, which a tempo change of up to 15 % makes inexact; the open variant's buckets use the
lengths after the tempo change.
"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

from benches.line import Line, report
from benchmark.params import load_variant
from datasets.corpora import SIZES
from datasets.dataset import LIBRISPEECH
from datasets.synthesis import plans
from reference_model.data.data_loader import training_order

UTTERANCES = SIZES[LIBRISPEECH].train
GOAL_SORTED, GOAL_BUCKETS = 0.03, 0.05


def padding_share(frames: np.ndarray, batches: list[np.ndarray]) -> float:
    """Padded frames over all frames of `batches`, which are positions in `frames`."""
    computed = sum(int(frames[batch].max()) * len(batch) for batch in batches)
    return 1 - int(frames.sum()) / computed


def main() -> int:
    """Count and print; exit status 0 if the goals are met."""
    rng = np.random.default_rng(1)
    lengths_s = np.sort([plans.length_s("train", share) for share in rng.random(UTTERANCES)])
    closed, buckets = load_variant("librispeech"), load_variant("librispeech_open")
    tempo = rng.uniform(closed.augment.tempo_min, closed.augment.tempo_max, UTTERANCES)
    original, tempo_s = 1 + np.rint(lengths_s * 100).astype(np.int64), lengths_s / tempo
    changed = 1 + np.rint(tempo_s * 100).astype(np.int64)
    lines = []
    for name, params, size, frames, by_s, goal in (
        ("sorted, batch 8", closed, 8, original, lengths_s, GOAL_SORTED),
        ("sorted, batch 32", closed, 32, original, lengths_s, GOAL_SORTED),
        ("sorted, batch 32, tempo changed", closed, 32, changed, lengths_s, None),
        ("buckets, batch 32, tempo changed", buckets, 32, changed, tempo_s, GOAL_BUCKETS),
        ("buckets, batch 64, tempo changed", buckets, 64, changed, tempo_s, GOAL_BUCKETS),
    ):
        sized = dataclasses.replace(params, train=dataclasses.replace(params.train, batch_size=size))
        share = padding_share(frames, training_order(sized, by_s, 1, 2))
        shuffled = rng.permutation(UTTERANCES)
        random_share = padding_share(frames, [shuffled[start : start + size] for start in range(0, UTTERANCES, size)])
        lines.append(Line(f"padding, {name}", f"{share:.2%}", f"random {random_share:.1%}", share, goal, at_most=True))
    return report(lines)


if __name__ == "__main__":
    sys.exit(main())
