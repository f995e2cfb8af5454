"""Greedy decoding: the best label of each frame, repeats merged, blanks dropped."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from torch import Tensor

from reference_model.model.alphabet import BLANK, LABELS

_CODES = np.frombuffer(LABELS.encode("ascii"), np.uint8)


def greedy(logits: Tensor, frames: Tensor) -> list[str]:
    """Texts of `logits` (frames, batch, labels); the first frames[i] frames belong to utterance i."""
    return greedy_from_labels(logits.argmax(2).cpu().numpy(), frames.cpu().numpy())


def greedy_from_labels(best: np.ndarray, frames: np.ndarray) -> list[str]:
    """Texts of the best labels `best` (frames, batch), integers; all utterances at once, without a loop over frames."""
    best = best.T
    keep = np.empty(best.shape, bool)
    keep[:, :1] = True
    np.not_equal(best[:, 1:], best[:, :-1], out=keep[:, 1:])
    keep &= best != BLANK
    keep &= np.arange(best.shape[1]) < frames[:, None]
    text = _CODES[best[keep]].tobytes().decode("ascii")
    ends = np.cumsum(keep.sum(1)).tolist()
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def greedy_words(best: np.ndarray) -> list[tuple[str, int, int]]:
    """The words of one utterance's best labels `best` (frames,), in order.

    With each word, the frames (from 0) in which the label of its first letter starts and that of its last letter ends.
    """
    words: list[tuple[str, int, int]] = []
    letters, first, last, frame = "", 0, 0, 0
    for label, run in groupby(best.tolist()):
        length = sum(1 for _ in run)
        if LABELS[label] == " ":
            words += [(letters, first, last)] if letters else []
            letters = ""
        elif label != BLANK:
            first = first if letters else frame
            letters, last = letters + LABELS[label], frame + length - 1
        frame += length
    return [*words, (letters, first, last)] if letters else words
