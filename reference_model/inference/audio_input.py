"""Audio of any sample rate, number of channels and length, from files and pipes, as pieces of mono samples at 16 kHz."""

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
"""LibriSpeech's training clips end at 29.7 s: the network never heard a longer one."""
QUIET_S = 0.2
"""How much audio is looked at to tell how quiet a place is."""
BLOCK_S = 10.0
"""How much of a file is read at a time."""


def blocks_16k(name: str) -> Iterator[np.ndarray]:
    """A WAV or FLAC file as blocks of mono float32 (samples,) at 16 kHz: channels averaged, resampled as needed.

    `name` is a file's, a named pipe's, or STDIN; what comes through a pipe is kept in memory. UserError or OSError where it
    is missing, no audio, empty, cut short, or holds values that are not numbers.
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
    """The samples of `blocks` at 16 kHz in pieces of at most `longest_s`, each cut at the quietest place of its second half.

    No more than a piece and a block are held at a time.
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
    # Of places that are equally quiet the last, so that digital silence leaves the longest pieces.
    return len(energy) - 1 - int(np.argmin(energy[::-1])) + width // 2


def _source(name: str) -> bytes | io.BytesIO:
    """What libsndfile is to open: a file's name, or the whole of a pipe, since it moves about in what it reads."""
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
    with open(name, "rb"):  # says why it cannot be opened, which libsndfile does not
        return os.fsencode(name)


def _stdin() -> io.BytesIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("nothing is piped in", where="stdin", remedy="`cat talk.wav | python -m ...`, or name a file")
    whole = sys.stdin.buffer.read()
    if not whole:
        raise UserError("the audio is empty", where="stdin")
    return io.BytesIO(whole)
