"""Waveforms to features, in batches, on the device of the waveforms.

The features of the reference, which computes them with librosa: STFT of 320 samples (20 ms) every 160 (10 ms),
symmetric Hamming window, frames centred on their hop with edges reflected, magnitude, log1p, then (x - mean) / std over
the utterance with the unbiased std. An utterance's features are the same alone and in any batch: its edges are
reflected at its own end, mean and std are computed over its own frames, and the padding after it is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.params import FeatureParams

MFCC_MEL_BANDS = 40
"""Mel bands before the cosine transform: torchaudio requires a number, and the reference's text gives none."""


class Features(nn.Module):
    """Turns (batch, samples) waveforms into (batch, bins, frames) features.

    `bins` is 161 for a 20 ms window at 16 kHz, or the number of MFCC coefficients.
    """

    window: Tensor

    def __init__(self, params: FeatureParams) -> None:
        super().__init__()
        self.window_size = round(params.window_s * params.sample_rate_hz)
        self.hop = round(params.hop_s * params.sample_rate_hz)
        self.register_buffer("window", torch.hamming_window(self.window_size, periodic=False), persistent=False)
        self.mfcc = _mfcc(params, self.window_size, self.hop) if params.kind == "mfcc" else None
        self.bins = params.mfcc_coefficients if self.mfcc else self.window_size // 2 + 1

    def frames(self, samples: Tensor) -> Tensor:
        """Number of frames of utterances of `samples` samples: 1 + samples // hop."""
        return 1 + samples // self.hop

    @torch.no_grad()
    def forward(self, waveforms: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Features of `waveforms` (batch, longest), float32 in [-1, 1]; samples past an utterance's end are ignored.

        `samples` (batch,) are the utterances' lengths. Returns (batch, bins, frames) float32, zero past an utterance's
        last frame, and (batch,) the number of frames of each utterance.
        """
        padded = reflect_edges(waveforms, samples, self.window_size // 2, self.hop)
        if self.mfcc:
            values = self.mfcc(padded)
        else:
            spectrum = torch.stft(
                padded, self.window_size, self.hop, window=self.window, center=False, return_complex=True
            )
            values = spectrum.abs().log1p_()
        frames = self.frames(samples)
        # The spectrum is stored frame by frame; in that layout the following convolution takes an eighth longer.
        return normalise(values, frames).contiguous(), frames


def reflect_edges(waveforms: Tensor, samples: Tensor, width: int, hop: int) -> Tensor:
    """Pad (batch, longest) waveforms by `width` samples on both sides, each mirrored at its first and last sample.

    Utterance i of n = samples[i] samples occupies positions 0 .. n + 2 * width of row i; later positions are undefined.
    As in librosa (0.10 and later, `librosa.stft`), the end is mirrored within the part of the signal that its last
    frames cover: where that part is one sample too short (n a multiple of `hop`), the last sample is mirrored a second
    time.
    """
    edge = torch.arange(width, device=waveforms.device)
    ends = samples[:, None]
    tail = (((ends - width) // hop + 1) * hop - width).clamp_min(0)
    period = 2 * (ends - tail - 1).clamp_min(1)

    def mirrored(position: Tensor) -> Tensor:
        """The samples (batch, width) at `position` (batch, width), which may be past the ends."""
        beyond = (position - tail) % period
        source = torch.where(position < ends, position, tail + torch.minimum(beyond, period - beyond))
        return waveforms.gather(1, source.clamp_max(ends - 1))

    # Only the edges are gathered; the rest is copied as it is.
    padded = functional.pad(waveforms, (width, width))
    padded[:, :width] = mirrored((width - edge).expand(len(waveforms), -1))
    return padded.scatter_(1, ends + width + edge, mirrored(ends + edge))


def normalise(values: Tensor, frames: Tensor) -> Tensor:
    """(x - mean) / std of each utterance over its own frames of `values` (batch, bins, frames); zero past its end."""
    valid = torch.arange(values.shape[2], device=values.device) < frames[:, None, None]
    count = frames[:, None, None] * values.shape[1]
    values = torch.where(valid, values, 0.0)
    mean = values.sum((1, 2), keepdim=True) / count
    centred = values.sub_(mean).masked_fill_(~valid, 0.0)
    variance = centred.square().sum((1, 2), keepdim=True) / (count - 1)
    # Digital silence has zero variance: its features are zero, not NaN.
    return centred.div_(variance.sqrt().clamp_min(torch.finfo(values.dtype).tiny))


def _mfcc(params: FeatureParams, window_size: int, hop: int) -> nn.Module:
    from torchaudio.transforms import MFCC

    return MFCC(
        sample_rate=params.sample_rate_hz,
        n_mfcc=params.mfcc_coefficients,
        melkwargs={
            "n_fft": window_size,
            "hop_length": hop,
            "n_mels": max(MFCC_MEL_BANDS, params.mfcc_coefficients),
            "window_fn": torch.hamming_window,
            "wkwargs": {"periodic": False},
            "center": False,
        },
    )
