"""Reads audio of any sample rate, number of channels and length as pieces of mono samples at 16 kHz."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from common.errors import UserError
from datasets.audio import reason
from datasets.manifest import SAMPLE_RATE_HZ

STDIN = "-"
PIECE_S = 30.0
"""The longest training clip of LibriSpeech has 29.7 s: the network was never trained on a longer one."""
QUIET_S = 0.2
"""Length of the window over which loudness is measured."""
BLOCK_S = 10.0
"""Length of the blocks in which a file is read."""


def blocks_16k(name: str) -> Iterator[np.ndarray]:
    """A WAV or FLAC file as blocks of mono float32 (samples,) at 16 kHz: channels averaged, resampled as needed.

    `name` is a file, a named pipe or STDIN; piped data is read into memory. UserError or OSError where the audio is
    missing, not audio, empty, truncated, or holds values that are not numbers.
    """
    where = "stdin" if name == STDIN else name
    read = 0
    try:
        with soundfile.SoundFile(_source(name)) as file:
            rate_hz = file.samplerate
            stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
            while len(block := file.read(int(BLOCK_S * rate_hz), dtype="float32", always_2d=True)):
                read += len(block)
                mono = block.mean(1)
                if not np.isfinite(mono).all():
                    raise UserError("the audio holds values that are not numbers", where=where)
                yield mono if rate_hz == SAMPLE_RATE_HZ else stream.resample_chunk(mono)
            if rate_hz != SAMPLE_RATE_HZ:
                yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
            if read < file.frames < 1 << 40:  # a FLAC stream of unknown length announces 2^63 - 1
                raise UserError(f"the audio is cut short: {read} of {file.frames} samples", where=where)
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise UserError(f"the audio cannot be read ({reason(error)})", where=where, remedy="give WAV or FLAC") from None
    if not read:
        raise UserError("the audio is empty", where=where)


def pieces(blocks: Iterable[np.ndarray], longest_s: float = PIECE_S) -> Iterator[np.ndarray]:
    """The samples of `blocks` at 16 kHz in pieces of at most `longest_s`, cut at their quietest points.

    A piece is cut at the quietest point of its second half. At most one piece and one block are in memory at a time.
    """
    longest = int(longest_s * SAMPLE_RATE_HZ)
    held: list[np.ndarray] = []
    samples = 0
    for block in blocks:
        held.append(block)
        samples += len(block)
        if samples > longest:
            audio = np.concatenate(held)
            while len(audio) > longest:
                at = longest // 2 + _quietest(audio[longest // 2 : longest])
                yield audio[:at]
                audio = audio[at:]
            held, samples = [audio], len(audio)
    if samples:
        yield np.concatenate(held)


def _quietest(audio: np.ndarray) -> int:
    """The middle of the quietest QUIET_S of `audio` (samples,) at 16 kHz."""
    width = min(int(QUIET_S * SAMPLE_RATE_HZ), len(audio))
    before = np.concatenate([[0.0], np.cumsum(np.square(audio.astype(np.float64)))])
    energy = before[width:] - before[:-width]
    # Of equally quiet points the last one, so that digital silence gives the longest pieces.
    return len(energy) - 1 - int(np.argmin(energy[::-1])) + width // 2


def _source(name: str) -> bytes | io.BytesIO:
    """What libsndfile opens: a file's name, or the whole content of a pipe, because libsndfile seeks."""
    if name == STDIN:
        return _stdin()
    try:
        kind = os.stat(name).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("no such audio file", where=name) from None
    if stat.S_ISDIR(kind):
        raise UserError("a folder, not an audio file", where=name, remedy="give the files in it")
    if stat.S_ISFIFO(kind):
        return io.BytesIO(Path(name).read_bytes())
    if not stat.S_ISREG(kind):
        raise UserError("not an audio file", where=name, remedy="give WAV or FLAC")
    with open(name, "rb"):  # raises an OSError with the reason, which libsndfile does not report
        return os.fsencode(name)


def _stdin() -> io.BytesIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("nothing is piped in", where="stdin", remedy="`cat talk.wav | python -m ...`, or name a file")
    whole = sys.stdin.buffer.read()
    if not whole:
        raise UserError("the audio is empty", where="stdin")
    return io.BytesIO(whole)
