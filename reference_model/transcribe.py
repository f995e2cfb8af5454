"""Text for any WAV or FLAC file, of any sample rate, number of channels and length.

    python -m reference_model.transcribe talk.wav --checkpoint runs/mini/.../checkpoints/epoch_03.pt
    python -m reference_model.transcribe *.flac --onnx model.onnx --json
    python -m reference_model.transcribe - --onnx model.onnx < talk.flac

Prints a file's text on one line; with several files, the file's name and a tab before it. Files longer than --piece-seconds
are cut where they are quietest. Why a file gives no text is said on stderr. Exit status: 0 done, 2 some files could not be
read (the others are done), or nothing could be done.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from common.cli import HelpFormatter
from common.errors import EXIT_ERROR, EXIT_OK, UserError, from_os_error, one_line, run_cli
from datasets.geometry import FEWEST_FRAMES, FRAMES_APART
from datasets.manifest import SAMPLE_RATE_HZ
from reference_model.inference.audio_input import PIECE_S, STDIN, blocks_16k, pieces
from reference_model.inference.engine_choice import AUTO, Opened, open_engine
from reference_model.model.features import Features
from reference_model.model.greedy import greedy_words
from reference_model.train import choose_device

BATCH_SIZE = 8
SILENCE = 2.0**-15
"""One step of 16 bits, -90 dB of full scale. The network is not asked about pieces that stay within it: their features are
scaled to the same loudness as anything's, and it hears words in them."""


@dataclass(frozen=True)
class Word:
    """A word and when the network wrote its letters, in seconds from the file's start."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Piece:
    """A stretch of a file that the network heard by itself."""

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
    """What is said in `blocks` of mono float32 (samples,) at 16 kHz; no more than a batch of pieces is held at a time."""
    features = Features(opened.trained.features).to(opened.engine.device)
    heard: list[Piece] = []
    samples, longest, silent = 0, 0, True
    cut = pieces(blocks, piece_s)
    while batch := list(itertools.islice(cut, BATCH_SIZE)):
        longest, silent = max(longest, *map(len, batch)), silent and all(map(_is_silent, batch))
        for audio, words in zip(batch, _words(batch, opened, features), strict=True):
            start_s = samples / SAMPLE_RATE_HZ
            samples += len(audio)
            said = [Word(word, _ms(start_s + a), _ms(start_s + b)) for word, a, b in words]
            text = " ".join(word.text for word in said)
            heard.append(Piece(_ms(start_s), _ms(samples / SAMPLE_RATE_HZ), text, said))
    text = " ".join(piece.text for piece in heard if piece.text)
    why = None if text else _why_empty(longest, (FEWEST_FRAMES - 1) * features.hop, silent)
    return Transcript(text, _ms(samples / SAMPLE_RATE_HZ), heard, why)


def _words(batch: list[np.ndarray], opened: Opened, features: Features) -> list[list[tuple[str, float, float]]]:
    """Of each piece its words, with seconds from the piece's start."""
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
        # Feature frame f stands for the moment f hops after the start, an output frame for the middle of those it sees.
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
    """Why no text came of pieces of at most `longest` samples at 16 kHz, of which `needed` yield an output frame."""
    if longest < needed:
        return f"too short: {longest / SAMPLE_RATE_HZ:.3f} s, the network needs {needed / SAMPLE_RATE_HZ:.2f} s"
    if silent:
        return f"silence: nothing in it is louder than {20 * np.log10(SILENCE):.0f} dB of full scale"
    return "the network heard no letters in it"


def _ms(seconds: float) -> float:
    return round(seconds, 3)


def _file(name: str, opened: Opened, piece_s: float) -> tuple[Transcript | None, str | None]:
    """A file's transcript, or why there is none; whatever is to be told goes to stderr."""
    try:
        said = transcribe(blocks_16k(name), opened, piece_s)
    except (UserError, OSError) as caught:
        fault = caught if isinstance(caught, UserError) else from_os_error(caught)
        error = str(UserError(fault.what, where=fault.where or name, remedy=fault.remedy))
        print(f"error: {error}", file=sys.stderr, flush=True)
        return None, error
    if said.empty_because:
        print(f"note: {one_line(name)}: no text: {said.empty_because}", file=sys.stderr, flush=True)
    return said, None


def _as_json(name: str, said: Transcript | None, error: str | None) -> str:
    empty: dict[str, object] = {"text": None, "duration_s": None, "pieces": [], "empty_because": None}
    return json.dumps({"file": name} | (asdict(said) if said else empty) | {"error": error})


def main(argv: list[str] | None = None) -> int:
    """The door; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_model.transcribe",
        description=__doc__,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="WAV or FLAC; - reads it from stdin")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--checkpoint", type=Path, help="a checkpoint of any known format")
    network.add_argument("--onnx", type=Path, help="a file of reference_model.export_onnx")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--piece-seconds", type=float, default=PIECE_S, help=f"cut longer files (default {PIECE_S:g})")
    parser.add_argument("--json", action="store_true", help="a JSON object a line: text, pieces and words with times")
    args = parser.parse_args(argv)
    if not 1 <= args.piece_seconds < float("inf"):
        raise UserError("must be at least 1", where="--piece-seconds")
    if args.files.count(STDIN) > 1:
        raise UserError("stdin can be read once", where=STDIN, remedy="name it once")
    opened = open_engine(args.onnx or args.checkpoint, "onnx" if args.onnx else AUTO, choose_device(args.device))
    status = EXIT_OK
    for name in args.files:
        said, error = _file(name, opened, args.piece_seconds)
        status = EXIT_ERROR if error else status
        if args.json:
            print(_as_json(name, said, error), flush=True)
        elif said:
            print(f"{one_line(name)}\t{said.text}" if len(args.files) > 1 else said.text, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(run_cli(main))
