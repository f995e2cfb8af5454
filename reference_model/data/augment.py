"""Augmentation: tempo, gain and noise on the waveform, SpecAugment masks on the features.

All randomness comes from generators seeded by the run's seed, the epoch and the utterance's position, so that an
utterance is augmented the same way whichever rank or worker reads it, and again after a resume.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.params import AugmentParams
from common.errors import UserError
from reference_model.data.tempo import change_tempos


@dataclass(frozen=True, slots=True)
class Draw:
    """The augmentation of an utterance in an epoch: `tempo` (1.1 is 10 % faster), `gain_db`, noise level or None."""

    tempo: float
    gain_db: float
    noise_level: float | None
    noise_seed: int


def draw(params: AugmentParams, seed: int, epoch: int, index: int) -> Draw:
    """The augmentation of utterance `index` in `epoch`."""
    rng = np.random.default_rng((seed, epoch, index))
    tempo, gain_db, chance, level = rng.random(4)
    noisy = params.noise_dir is not None and chance < params.noise_probability
    return Draw(
        tempo=params.tempo_min + tempo * (params.tempo_max - params.tempo_min),
        gain_db=params.gain_min_db + gain_db * (params.gain_max_db - params.gain_min_db),
        noise_level=params.noise_level_min + level * (params.noise_level_max - params.noise_level_min)
        if noisy
        else None,
        noise_seed=int(rng.integers(1 << 31)),
    )


def augment_waveforms(
    waveforms: Iterable[np.ndarray],
    samples: Sequence[int],
    draws: Sequence[Draw],
    rows: Sequence[np.ndarray],
    noise_files: tuple[Path, ...] = (),
) -> None:
    """Apply each draw's tempo, gain and noise to its float32 waveform, clip to [-1, 1], and write it to its row.

    Waveforms have `samples` samples, and each row has exactly the length of the result (`samples_after`).
    """
    changed = change_tempos(waveforms, samples, [drawn.tempo for drawn in draws])
    for row, waveform, drawn in zip(rows, changed, draws, strict=True):
        np.multiply(waveform, np.float32(10 ** (drawn.gain_db / 20)), out=row)
        if drawn.noise_level is not None:
            row[:] = add_noise(row, drawn.noise_level, noise_files, drawn.noise_seed)
        np.clip(row, -1.0, 1.0, out=row)


def find_noise(params: AugmentParams) -> tuple[Path, ...]:
    """The noise recordings (FLAC, WAV at 16 kHz) in `noise_dir`; () if noise is off; UserError if there are none."""
    if params.noise_dir is None:
        return ()
    files = tuple(
        sorted(path for path in Path(params.noise_dir).rglob("*") if path.suffix.lower() in {".wav", ".flac"})
    )
    if not files:
        raise UserError(
            "no noise recordings (.wav, .flac) in this folder",
            where=params.noise_dir,
            remedy="correct augment.noise_dir",
        )
    return files


def add_noise(waveform: np.ndarray, level: float, noise_files: tuple[Path, ...], seed: int) -> np.ndarray:
    """Add a random part of a random noise file, at `level` times the speech's RMS (the reference's NoiseInjection).

    UserError for a noise file that cannot be read, is not mono at 16 kHz, or is shorter than the speech.
    """
    import soundfile

    rng = np.random.default_rng(seed)
    path = noise_files[rng.integers(len(noise_files))]
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            frames, rate_hz, channels = file.frames, file.samplerate, file.channels
            if rate_hz != 16_000 or channels != 1 or frames < len(waveform):
                raise UserError(
                    f"a noise recording must be mono, at 16 kHz and at least as long as the speech "
                    f"({len(waveform) / 16_000:.1f} s); this one has {channels} channels, {rate_hz} Hz, {frames / rate_hz:.1f} s",
                    where=path,
                    remedy="convert it, or remove it from augment.noise_dir",
                )
            file.seek(int(rng.integers(frames - len(waveform) + 1)))
            noise = file.read(len(waveform), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise UserError(f"cannot read the noise recording ({error})", where=path) from None
    noise_rms = float(np.sqrt(np.mean(noise.astype(np.float64) ** 2)))
    if noise_rms == 0:
        return waveform
    speech_rms = float(np.sqrt(np.mean(waveform.astype(np.float64) ** 2)))
    return waveform + noise * np.float32(level * speech_rms / noise_rms)


def mask_uniforms(params: AugmentParams, seed: int, epoch: int, index: int) -> np.ndarray:
    """Uniform draws (2, masks) in [0, 1) for `spec_augment`: width and start per stripe, frequency stripes first."""
    masks = params.spec_freq_masks + params.spec_time_masks
    return np.random.default_rng((seed, epoch, index, 1)).random((2, masks), np.float32)


def spec_augment(features: Tensor, frames: Tensor, params: AugmentParams, hop_s: float, uniforms: Tensor) -> Tensor:
    """Set random stripes of `features` (batch, bins, frames) to zero, their mean (SpecAugment, Park et al. 2019).

    Each utterance gets `spec_freq_masks` stripes of up to `spec_freq_width_max` bins and `spec_time_masks` stripes of
    up to `spec_time_width_max_s` seconds, but at most a fifth of its length. `uniforms` (batch, 2, masks) are the
    random numbers.
    """
    bins, longest = features.shape[1:]
    widths, starts = uniforms.unbind(1)
    in_frequency = params.spec_freq_masks
    widest_bins = torch.full_like(frames, min(params.spec_freq_width_max, bins))
    widest_frames = (frames // 5).clamp_max(round(params.spec_time_width_max_s / hop_s))

    def dropped(chosen: slice, widest: Tensor, extent: Tensor, positions: int) -> Tensor:
        """(batch, positions): whether any of the chosen stripes covers the position."""
        width = (widths[:, chosen] * (widest + 1)[:, None]).floor()
        start = (starts[:, chosen] * (extent[:, None] - width + 1)).floor()
        position = torch.arange(positions, device=features.device)
        return ((position >= start[:, :, None]) & (position < (start + width)[:, :, None])).any(1)

    bin_mask = dropped(slice(0, in_frequency), widest_bins, torch.full_like(frames, bins), bins)
    frame_mask = dropped(slice(in_frequency, None), widest_frames, frames, longest)
    return features.masked_fill(bin_mask[:, :, None] | frame_mask[:, None, :], 0.0)
