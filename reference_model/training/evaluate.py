"""Evaluation: error rates over a set of utterances, each scored exactly once with any number of processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import nn

from benchmark.error_rates import Score, score_of
from reference_model.data.data_loader import Batch
from reference_model.model.features import Features
from reference_model.model.greedy import greedy
from reference_model.training.distributed import World


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    features: Features,
    batches: Iterable[Batch],
    texts: list[str],
    device: torch.device,
    world: World,
    autocast: Callable[[], AbstractContextManager],
    progress: Callable[[int], None] = lambda done: None,
) -> Score:
    """Score greedy decoding of this rank's `batches` against `texts` (by position in the manifest), summed over ranks.

    `progress` is called with the number of utterances that this rank has done. Every rank scores with the running
    statistics of rank 0, which are the ones that the checkpoint stores: after a training step the statistics differ
    between ranks.
    """
    world.share(model.buffers())
    was_training = model.training
    model.eval()
    score = Score()
    for batch in batches:
        samples = batch.samples.to(device, non_blocking=True)
        values, _ = features(batch.waveforms.to(device, non_blocking=True), samples)
        with autocast():
            logits, lengths = model(values, features.frames(batch.samples))
        hypotheses = greedy(logits.float(), lengths)
        score += score_of(
            (texts[index], hypothesis) for index, hypothesis in zip(batch.indices, hypotheses, strict=True)
        )
        progress(score.utterances)
    model.train(was_training)
    *counts, mean_wer_sum = world.sum([float(value) for value in dataclasses.astuple(score)])
    utterances, word_edits, words, char_edits, chars = map(int, counts)
    return Score(utterances, word_edits, words, char_edits, chars, mean_wer_sum)
