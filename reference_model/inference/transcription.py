"""Transcription of audio of any length: pieces of it through the network in batches, to text and words with times."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from datasets.geometry import FEWEST_FRAMES, FRAMES_APART
from datasets.manifest import SAMPLE_RATE_HZ
from reference_model.inference.audio_input import PIECE_S, pieces
from reference_model.inference.engine_choice import Opened
from reference_model.model.features import Features
from reference_model.model.greedy import greedy_words

BATCH_SIZE = 8
SILENCE = 2.0**-15
"""One 16-bit quantization step, -90 dB of full scale. Pieces that stay below it do not reach the network: normalization
would scale their features to the loudness of speech, and the network would recognize words in them."""


@dataclass(frozen=True)
class Word:
    """A word, and the time span of its letters in seconds from the file's start."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Piece:
    """A part of a file that the network processed separately."""

    start_s: float
    end_s: float
    text: str
    words: list[Word]


@dataclass(frozen=True)
class Transcript:
    """A file's text. `empty_because` says why there is none."""

    text: str
    duration_s: float
    pieces: list[Piece]
    empty_because: str | None


def transcribe(blocks: Iterable[np.ndarray], opened: Opened, piece_s: float = PIECE_S) -> Transcript:
    """The transcript of `blocks` of mono float32 (samples,) at 16 kHz; holds at most one batch of pieces."""
    features = Features(opened.trained.features).to(opened.engine.device)
    transcribed: list[Piece] = []
    samples, longest, silent = 0, 0, True
    remaining = pieces(blocks, piece_s)
    while batch := list(itertools.islice(remaining, BATCH_SIZE)):
        longest, silent = max(longest, *map(len, batch)), silent and all(map(_is_silent, batch))
        for audio, found in zip(batch, _words(batch, opened, features), strict=True):
            start_s = samples / SAMPLE_RATE_HZ
            samples += len(audio)
            words = [Word(word, _ms(start_s + a), _ms(start_s + b)) for word, a, b in found]
            text = " ".join(word.text for word in words)
            transcribed.append(Piece(_ms(start_s), _ms(samples / SAMPLE_RATE_HZ), text, words))
    text = " ".join(piece.text for piece in transcribed if piece.text)
    why = None if text else _why_empty(longest, (FEWEST_FRAMES - 1) * features.hop, silent)
    return Transcript(text, _ms(samples / SAMPLE_RATE_HZ), transcribed, why)


def _words(batch: list[np.ndarray], opened: Opened, features: Features) -> list[list[tuple[str, float, float]]]:
    """The words of each piece, with start and end in seconds from the piece's start."""
    words: list[list[tuple[str, float, float]]] = [[] for _ in batch]
    rows = [row for row, audio in enumerate(batch) if not _is_silent(audio)]
    if not rows:
        return words
    samples = torch.tensor([len(batch[row]) for row in rows])
    waveforms = pad_sequence([torch.from_numpy(batch[row]) for row in rows], batch_first=True)
    device = opened.engine.device
    values, _ = features(waveforms.to(device), samples.to(device))
    found, frames = opened.engine(values, features.frames(samples))
    hop_s = features.hop / SAMPLE_RATE_HZ

    def centre_s(frame: int) -> float:
        # Feature frame f is centred f hops after the start, and an output frame on the middle of the frames that it
        # sees.
        return (FRAMES_APART * frame + FEWEST_FRAMES // 2) * hop_s

    half_s = FRAMES_APART / 2 * hop_s
    for row, best, length in zip(rows, found.argmax(2).cpu().numpy().T, frames.tolist(), strict=True):
        words[row] = [
            (word, centre_s(first) - half_s, centre_s(last) + half_s)
            for word, first, last in greedy_words(best[:length])
        ]
    return words


def _is_silent(audio: np.ndarray) -> bool:
    return bool(np.ptp(audio) / 2 <= SILENCE)


def _why_empty(longest: int, needed: int, silent: bool) -> str:
    """Why audio pieces of at most `longest` samples at 16 kHz gave no text; one output frame needs `needed` samples."""
    if longest < needed:
        return f"too short: {longest / SAMPLE_RATE_HZ:.3f} s, the network needs {needed / SAMPLE_RATE_HZ:.2f} s"
    if silent:
        return f"silence: nothing in it is louder than {20 * np.log10(SILENCE):.0f} dB of full scale"
    return "the network recognized no letters in it"


def _ms(seconds: float) -> float:
    return round(seconds, 3)
