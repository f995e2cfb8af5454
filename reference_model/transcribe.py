"""Text for any WAV or FLAC file, of any sample rate, number of channels and length.

    python -m reference_model.transcribe talk.wav --checkpoint runs/mini/.../checkpoints/epoch_03.pt
    python -m reference_model.transcribe *.flac --onnx model.onnx

Prints a file's text on one line; with several files, the file's name and a tab before it. Files longer than --piece-seconds
are cut where they are quietest. Exit status: 0 done, 2 it could not be done.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from datasets.audio import reason
from datasets.errors import HELD, UserError, one_line, run_door
from datasets.manifest import SAMPLE_RATE_HZ
from datasets.usage import Filled

from .decode import greedy
from .features import Features
from .opened_engine import AUTO, Opened, open_engine
from .train import choose_device

PIECE_S = 30.0
"""LibriSpeech's training clips end at 29.7 s: the network never heard a longer one."""
QUIET_S = 0.2
"""How much audio is looked at to tell how quiet a place is."""
BLOCK_S = 10.0
"""How much of a file is read at a time."""


def read_16k(path: Path) -> np.ndarray:
    """A WAV or FLAC file as mono float32 (samples,) at 16 kHz: channels averaged, resampled as needed.

    UserError where it is missing, no audio, empty, cut short, or holds values that are not numbers.
    """
    if not path.is_file():
        raise UserError("no such audio file", where=path)
    pieces: list[np.ndarray] = []
    read = 0
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            rate_hz = file.samplerate
            stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
            while len(block := file.read(int(BLOCK_S * rate_hz), dtype="float32", always_2d=True)):
                read += len(block)
                mono = block.mean(1)
                pieces.append(mono if rate_hz == SAMPLE_RATE_HZ else stream.resample_chunk(mono))
            if rate_hz != SAMPLE_RATE_HZ:
                pieces.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
            if read < file.frames < 1 << 40:  # a FLAC stream of unknown length announces 2^63 - 1
                raise UserError(f"the audio is cut short: {read} of {file.frames} samples", where=path)
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise UserError(f"the audio cannot be read ({reason(error)})", where=path, remedy="give WAV or FLAC") from None
    if not read:
        raise UserError("the audio is empty", where=path)
    audio = np.concatenate(pieces)
    if not np.isfinite(audio).all():
        raise UserError("the audio holds values that are not numbers", where=path)
    return audio


def cut(audio: np.ndarray, longest_s: float = PIECE_S) -> list[np.ndarray]:
    """`audio` (samples,) at 16 kHz in pieces of at most `longest_s`, each cut at the quietest place of its second half."""
    longest, width = int(longest_s * SAMPLE_RATE_HZ), int(QUIET_S * SAMPLE_RATE_HZ)
    pieces = []
    while len(audio) > longest:
        searched = audio[longest // 2 : longest].astype(np.float64)
        energy = np.convolve(np.square(searched), np.ones(min(width, len(searched))), "valid")
        # Of places that are equally quiet the last, so that digital silence leaves the longest pieces.
        quietest = len(energy) - 1 - int(np.argmin(energy[::-1]))
        at = longest // 2 + quietest + min(width, len(searched)) // 2
        pieces.append(audio[:at])
        audio = audio[at:]
    return [*pieces, audio]


def transcribe(audio: np.ndarray, opened: Opened, piece_s: float = PIECE_S, batch_size: int = 8) -> str:
    """The words in `audio` (samples,) float32 at 16 kHz."""
    features = Features(opened.trained.features).to(opened.engine.device)
    pieces = cut(audio, piece_s)
    # Batches of like length waste little on padding.
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i]))
    texts = [""] * len(pieces)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        for index, text in zip(chosen, _batch([pieces[i] for i in chosen], opened, features), strict=True):
            texts[index] = text
    return " ".join(" ".join(texts).split())


def _batch(pieces: list[np.ndarray], opened: Opened, features: Features) -> list[str]:
    waveforms = torch.zeros(len(pieces), max(map(len, pieces)))
    for row, piece in zip(waveforms, pieces, strict=True):
        row[: len(piece)] = torch.from_numpy(piece)
    device = opened.engine.device
    samples = torch.tensor([len(piece) for piece in pieces])
    values, _ = features(waveforms.to(device), samples.to(device))
    return greedy(*opened.engine(values, features.frames(samples)))


def _files(paths: list[Path]) -> Iterator[tuple[Path, np.ndarray]]:
    for path in paths:
        yield path, read_16k(path)


def main(argv: list[str] | None = None) -> int:
    """The door; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_model.transcribe",
        description=__doc__,
        formatter_class=Filled,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="WAV or FLAC")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--checkpoint", type=Path, help="a checkpoint of any known format")
    network.add_argument("--onnx", type=Path, help="a file of reference_model.export_onnx")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--piece-seconds", type=float, default=PIECE_S, help=f"cut longer files (default {PIECE_S:g})")
    args = parser.parse_args(argv)
    if not 1 <= args.piece_seconds < float("inf"):
        raise UserError("must be at least 1", where="--piece-seconds")
    opened = open_engine(args.onnx or args.checkpoint, "onnx" if args.onnx else AUTO, choose_device(args.device))
    for path, audio in _files(args.files):
        text = transcribe(audio, opened, args.piece_seconds)
        print(f"{one_line(str(path))}\t{text}" if len(args.files) > 1 else text, flush=True)
    return HELD


if __name__ == "__main__":
    sys.exit(run_door(main))
