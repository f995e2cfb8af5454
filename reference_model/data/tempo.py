"""Tempo change at constant pitch, vectorized over the utterances of a batch.

WSOLA (Verhelst and Roelands 1993), as in sox's `tempo` effect, which the reference calls: segments are read from the
input at `tempo` times the rate at which they are written, each shifted to the position that best continues the previous
one, and cross-faded. A segment's position depends on that of the previous one, so one utterance is a long chain of
small searches. The chains of a batch advance in lockstep, one search each per iteration: numpy is called as often for
thirty-two utterances as for one. The result of an utterance does not depend on the other utterances.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# The defaults of sox's `tempo` effect (sox(1)) in samples at 16 kHz: segments of 82 ms, a search range of 14.68 ms, and
# cross-fades over 12 ms.
SEGMENT, SEARCH, OVERLAP = 1312, 235, 192
STEP = SEGMENT - OVERLAP
FRONT = SEARCH // 2

# The search first uses sums of COARSE neighbouring samples, then single samples within MARGIN of the position found.
COARSE = 4
MARGIN = COARSE - 1
COARSE_PLACES = (SEARCH - 2 * MARGIN - COARSE) // COARSE + 1
COARSE_OVERLAP = OVERLAP // COARSE


def samples_after(samples: int, tempo: float) -> int:
    """Length in samples of an utterance of `samples` samples after a change of tempo."""
    return round(samples / tempo)


def change_tempo(waveform: np.ndarray, tempo: float) -> np.ndarray:
    """Play a float32 `waveform` (samples,) `tempo` times as fast at the same pitch; round(samples / tempo) samples."""
    return next(change_tempos([waveform], [len(waveform)], [tempo]))


def change_tempos(
    waveforms: Iterable[np.ndarray], samples: Sequence[int], tempos: Sequence[float]
) -> Iterator[np.ndarray]:
    """`change_tempo` for several waveforms of `samples` samples, in their order.

    A tempo of 1 leaves a waveform unchanged.
    """
    if all(tempo == 1.0 for tempo in tempos):
        yield from waveforms
        return
    padded = _pad(waveforms, samples)
    lengths = [samples_after(count, tempo) for count, tempo in zip(samples, tempos, strict=True)]
    segments = np.array([-(-length // STEP) for length in lengths])
    places = _find_places(padded, segments, np.array(tempos))
    bodies, overlaps = sliding_window_view(padded.audio, STEP), sliding_window_view(padded.audio, OVERLAP)
    fade_in = np.linspace(0, 1, OVERLAP, endpoint=False, dtype=np.float32)
    fade_out = 1 - fade_in
    for number, (tempo, length) in enumerate(zip(tempos, lengths, strict=True)):
        if tempo == 1.0:
            start = padded.starts[number]
            yield padded.audio[start : start + length]
            continue
        chosen = places[number, : segments[number]]
        joined = bodies[chosen]
        joined[1:, :OVERLAP] *= fade_in
        joined[1:, :OVERLAP] += overlaps[chosen[:-1] + STEP] * fade_out
        yield joined.reshape(-1)[:length]


class _PaddedAudio(NamedTuple):
    """All waveforms in one array, `audio`, starting at `starts`, with padding around each for the search.

    `coarse` are sums of COARSE neighbouring samples; `energy` is half the energy of the COARSE_OVERLAP sums from each
    one on.
    """

    audio: np.ndarray
    starts: np.ndarray
    coarse: np.ndarray
    energy: np.ndarray


def _pad(waveforms: Iterable[np.ndarray], samples: Sequence[int]) -> _PaddedAudio:
    widths = [-(-(FRONT + count + SEARCH + SEGMENT + STEP) // COARSE) * COARSE for count in samples]
    ends = np.cumsum(widths)
    audio = np.empty(ends[-1], np.float32)
    coarse, energy = np.empty((2, len(audio) // COARSE), np.float32)
    for waveform, width, end in zip(waveforms, widths, ends.tolist(), strict=True):
        own = audio[end - width : end]
        own[:FRONT] = 0
        own[FRONT : FRONT + len(waveform)] = waveform
        own[FRONT + len(waveform) :] = 0
        own_coarse = slice((end - width) // COARSE, end // COARSE)
        _sum_up(own, coarse[own_coarse], energy[own_coarse])
    return _PaddedAudio(audio, ends - widths + FRONT, coarse, energy)


def _sum_up(audio: np.ndarray, coarse: np.ndarray, energy: np.ndarray) -> None:
    """Fill one waveform's `coarse` and `energy` right after it was written, while it is in the CPU cache."""
    pairs = audio[0::2] + audio[1::2]
    np.add(pairs[0::2], pairs[1::2], out=coarse)
    # Sums over 2, 4, ... 32 values by doubling, and 48 from 16 and 32: unlike in a running sum, additions are
    # independent of each other, and a loud passage leaves no rounding error in the quiet one after it.
    of_16 = coarse * coarse / 2
    for width in (1, 2, 4, 8):
        of_16 = of_16[:-width] + of_16[width:]
    of_48 = of_16[:-32] + of_16[16:-16] + of_16[32:]
    energy[: len(of_48)] = of_48
    energy[len(of_48) :] = 0


def _find_places(padded: _PaddedAudio, segments: np.ndarray, tempos: np.ndarray) -> np.ndarray:
    """The start of each segment in `audio`: (waveforms, most segments); undefined past a waveform's last segment.

    As in sox, the best position minimizes the squared difference, summed over the overlap, to the samples that follow
    the previous segment: half the energy at the position minus its product with those samples.
    """
    audio, _, coarse, energy = padded
    most = max(1, int(segments.max()))
    rows = np.argsort(-segments, kind="stable")
    active = np.searchsorted(-segments[rows], -np.arange(most))
    starts = padded.starts[rows]
    # The start of the search for each segment; the first segment is the start of the utterance.
    earliest = starts - FRONT + np.rint(np.arange(most)[:, None] * STEP * tempos[rows]).astype(np.int64)
    places = np.empty((most, len(rows)), np.int64)
    places[0] = starts
    coarse_regions = sliding_window_view(coarse, COARSE_PLACES + COARSE_OVERLAP - 1)
    coarse_overlaps = sliding_window_view(coarse, COARSE_OVERLAP)
    energies = sliding_window_view(energy, COARSE_PLACES)
    regions, overlaps = sliding_window_view(audio, OVERLAP + 2 * MARGIN), sliding_window_view(audio, OVERLAP)
    first_coarse = earliest + (MARGIN + COARSE - 1)
    for number in range(1, most):
        running = active[number]
        wanted = places[number - 1, :running] + STEP
        # Coarse positions have the phase of the samples to match, so that equal sums are compared.
        wanted_coarse = wanted // COARSE
        phase = wanted - wanted_coarse * COARSE
        first = (first_coarse[number, :running] - phase) // COARSE
        windows = _windows(coarse_regions[first], COARSE_PLACES, COARSE_OVERLAP)
        score = np.einsum("upo,uo->up", windows, coarse_overlaps[wanted_coarse])
        score -= energies[first]
        near = (first + score.argmax(1)) * COARSE + phase - MARGIN
        windows = _windows(regions[near], 2 * MARGIN + 1, OVERLAP)
        score = np.vecdot(windows, overlaps[wanted][:, None])
        score -= 0.5 * np.vecdot(windows, windows)
        places[number, :running] = near + score.argmax(1)
    by_waveform = np.empty((len(rows), most), np.int64)
    by_waveform[rows] = places.T
    return by_waveform


def _windows(regions: np.ndarray, places: int, length: int) -> np.ndarray:
    """(rows, places, length): the windows of `length` values of each of `regions` (rows, places + length - 1)."""
    stride = regions.itemsize
    return np.ndarray((len(regions), places, length), regions.dtype, regions, 0, (regions.strides[0], stride, stride))
