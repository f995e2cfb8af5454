"""Change of tempo at the same pitch, for the utterances of a batch together.

WSOLA (Verhelst and Roelands 1993) as sox's `tempo` effect does it, which the reference calls: segments are taken from the input
at `tempo` times the pace at which they are laid down, each shifted to where it best continues the one before, and
cross-faded. A segment's place depends on the place of the one before, so that one utterance is a long chain of small
searches. The chains of a batch are walked side by side, one search of each at a time: numpy is called as often for
thirty-two utterances as for one. No utterance sees another's samples, and what becomes of it does not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# The defaults of sox's `tempo` effect: segments of 82 ms, searched for within 14.68 ms, cross-faded over 12 ms (sox(1)); in
# samples at 16 kHz.
SEGMENT, SEARCH, OVERLAP = 1312, 235, 192
STEP = SEGMENT - OVERLAP
FRONT = SEARCH // 2

# The search goes over sums of COARSE neighbouring samples first, then over the samples within MARGIN of the place found.
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
    """The same for each of several waveforms of `samples` samples, in their order, each as it would be alone.

    A tempo of 1 leaves a waveform as it is.
    """
    if all(tempo == 1.0 for tempo in tempos):
        yield from waveforms
        return
    laid_out = _laid_out(waveforms, samples)
    lengths = [samples_after(count, tempo) for count, tempo in zip(samples, tempos, strict=True)]
    segments = np.array([-(-length // STEP) for length in lengths])
    places = _places(laid_out, segments, np.array(tempos))
    bodies, overlaps = sliding_window_view(laid_out.audio, STEP), sliding_window_view(laid_out.audio, OVERLAP)
    fade_in = np.linspace(0, 1, OVERLAP, endpoint=False, dtype=np.float32)
    fade_out = 1 - fade_in
    for number, (tempo, length) in enumerate(zip(tempos, lengths, strict=True)):
        if tempo == 1.0:
            begin = laid_out.begins[number]
            yield laid_out.audio[begin : begin + length]
            continue
        chosen = places[number, : segments[number]]
        joined = bodies[chosen]
        joined[1:, :OVERLAP] *= fade_in
        joined[1:, :OVERLAP] += overlaps[chosen[:-1] + STEP] * fade_out
        yield joined.reshape(-1)[:length]


class _LaidOut(NamedTuple):
    """All waveforms in one array, `audio`, from `begins` on, with room around each for the search.

    `coarse` are sums of COARSE neighbouring samples, `energy` half the energy of the COARSE_OVERLAP sums from each on.
    """

    audio: np.ndarray
    begins: np.ndarray
    coarse: np.ndarray
    energy: np.ndarray


def _laid_out(waveforms: Iterable[np.ndarray], samples: Sequence[int]) -> _LaidOut:
    rooms = [-(-(FRONT + count + SEARCH + SEGMENT + STEP) // COARSE) * COARSE for count in samples]
    ends = np.cumsum(rooms)
    audio = np.empty(ends[-1], np.float32)
    coarse, energy = np.empty((2, len(audio) // COARSE), np.float32)
    for waveform, room, end in zip(waveforms, rooms, ends.tolist(), strict=True):
        own = audio[end - room : end]
        own[:FRONT] = 0
        own[FRONT : FRONT + len(waveform)] = waveform
        own[FRONT + len(waveform) :] = 0
        own_coarse = slice((end - room) // COARSE, end // COARSE)
        _sum_up(own, coarse[own_coarse], energy[own_coarse])
    return _LaidOut(audio, ends - rooms + FRONT, coarse, energy)


def _sum_up(audio: np.ndarray, coarse: np.ndarray, energy: np.ndarray) -> None:
    """Fill one waveform's `coarse` and `energy`, at once after it was written, while the processor's cache holds it."""
    pairs = audio[0::2] + audio[1::2]
    np.add(pairs[0::2], pairs[1::2], out=coarse)
    # Sums over 2, 4, ... 32 values by doubling, and 48 of 16 and 32: unlike in a running sum, additions need not wait for
    # each other, and a loud passage leaves nothing behind in the quiet one after it.
    of_16 = coarse * coarse / 2
    for width in (1, 2, 4, 8):
        of_16 = of_16[:-width] + of_16[width:]
    of_48 = of_16[:-32] + of_16[16:-16] + of_16[32:]
    energy[: len(of_48)] = of_48
    energy[len(of_48) :] = 0


def _places(laid_out: _LaidOut, segments: np.ndarray, tempos: np.ndarray) -> np.ndarray:
    """Where each segment begins in `audio`: (waveforms, most segments); past a waveform's own number, anything.

    The best place is where the difference to what follows the segment before, squared and summed over the overlap, is
    least, as in sox: half the energy of what is there less its product with what ought to be there.
    """
    audio, _, coarse, energy = laid_out
    most = max(1, int(segments.max()))
    rows = np.argsort(-segments, kind="stable")
    active = np.searchsorted(-segments[rows], -np.arange(most))
    begins = laid_out.begins[rows]
    # Where the search for a segment begins, and the first segment, which is the utterance's beginning.
    earliest = begins - FRONT + np.rint(np.arange(most)[:, None] * STEP * tempos[rows]).astype(np.int64)
    places = np.empty((most, len(rows)), np.int64)
    places[0] = begins
    coarse_regions = sliding_window_view(coarse, COARSE_PLACES + COARSE_OVERLAP - 1)
    coarse_overlaps = sliding_window_view(coarse, COARSE_OVERLAP)
    energies = sliding_window_view(energy, COARSE_PLACES)
    regions, overlaps = sliding_window_view(audio, OVERLAP + 2 * MARGIN), sliding_window_view(audio, OVERLAP)
    first_coarse = earliest + (MARGIN + COARSE - 1)
    for number in range(1, most):
        going = active[number]
        wanted = places[number - 1, :going] + STEP
        # Coarse places have the phase of what ought to follow, so that like is compared with like.
        wanted_coarse = wanted // COARSE
        phase = wanted - wanted_coarse * COARSE
        first = (first_coarse[number, :going] - phase) // COARSE
        windows = _windows(coarse_regions[first], COARSE_PLACES, COARSE_OVERLAP)
        score = np.einsum("upo,uo->up", windows, coarse_overlaps[wanted_coarse])
        score -= energies[first]
        near = (first + score.argmax(1)) * COARSE + phase - MARGIN
        windows = _windows(regions[near], 2 * MARGIN + 1, OVERLAP)
        score = np.vecdot(windows, overlaps[wanted][:, None])
        score -= 0.5 * np.vecdot(windows, windows)
        places[number, :going] = near + score.argmax(1)
    by_waveform = np.empty((len(rows), most), np.int64)
    by_waveform[rows] = places.T
    return by_waveform


def _windows(regions: np.ndarray, places: int, length: int) -> np.ndarray:
    """(rows, places, length): the windows of `length` values of each of `regions` (rows, places + length - 1)."""
    stride = regions.itemsize
    return np.ndarray((len(regions), places, length), regions.dtype, regions, 0, (regions.strides[0], stride, stride))
