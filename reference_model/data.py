"""From the manifest to batches of waveforms: order, reading, alteration and padding, in worker processes.

Every process sees the same global batches and takes its own share of each; what an utterance undergoes depends on the
seed, the epoch and its number alone. Batches hold waveforms; features are computed on the training device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmark.params import AugmentParams, Params
from datasets.errors import UserError
from datasets.manifest import SAMPLE_RATE_HZ, Manifest
from datasets.pack import PackedAudio

from .alphabet import encode
from .augment import alter, draw, find_noise, mask_uniforms, samples_after


@dataclass(frozen=True)
class Batch:
    """One process's share of a global batch, longest utterance first.

    `waveforms` (share, longest) float32 in [-1, 1], zero past an utterance's end; `samples` (share,) their lengths;
    `labels` all label numbers in a row and `label_lengths` (share,) how many are whose; `mask_uniforms` (share, 2, masks) what
    decides SpecAugment's stripes; `indices` positions in the manifest; `global_utterances` the size of the global batch;
    `audio_s` this share's seconds of audio. A process without a share holds another's utterance in its place, of `weight` 0,
    and no `indices`, so that it takes part in the step and adds nothing to it.
    """

    waveforms: Tensor
    samples: Tensor
    labels: Tensor
    label_lengths: Tensor
    mask_uniforms: Tensor
    indices: list[int]
    global_utterances: int
    audio_s: float
    weight: float = 1.0

    def pin_memory(self) -> Batch:
        """The same in page-locked memory (called by the loader), from which copies to a GPU need not wait."""
        tensors: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return dataclasses.replace(self, **tensors)


def training_order(params: Params, lengths: np.ndarray, seed: int, epoch: int) -> list[np.ndarray]:
    """The global batches of an epoch, as arrays of positions in the manifest, which is sorted by length.

    `sorted` takes consecutive batches. Buckets shuffle utterances among neighbours of like length (`lengths`, in any unit, are
    jittered by up to 2 %), cut batches from that order and draw the order of the batches.
    """
    batch_size = params.train.batch_size
    positions = np.arange(len(lengths))
    if params.train.order == "sorted" or (params.train.order == "sorted_then_buckets" and epoch == 1):
        return [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
    rng = np.random.default_rng((seed, epoch))
    jittered = np.argsort(lengths * rng.uniform(0.98, 1.02, len(lengths)), kind="stable")
    batches = [jittered[start : start + batch_size] for start in range(0, len(jittered), batch_size)]
    return [batches[number] for number in rng.permutation(len(batches))]


def evaluation_order(utterances: int, batch_size: int, rank: int, size: int) -> list[np.ndarray]:
    """This process's evaluation batches: consecutive in length, dealt out in turn, so that each utterance occurs once."""
    batches = [np.arange(start, min(start + batch_size, utterances)) for start in range(0, utterances, batch_size)]
    return batches[rank::size]


class Order(Sampler):
    """Hands the loader one item per batch: (epoch, global batch, this process's share of it)."""

    def __init__(self) -> None:
        self._items: list[list[tuple[int, np.ndarray, np.ndarray]]] = []

    def set(self, epoch: int, batches: Sequence[np.ndarray], rank: int = 0, size: int = 1) -> None:
        """What the next pass over the loader yields.

        A global batch is dealt out in turn, so that all shares of a length-sorted batch are about equally long. Of one with
        fewer utterances than there are processes (the last to be cut, at most) some shares are empty.
        """
        self._items = [[(epoch, batch, batch[rank::size])] for batch in batches]

    def __iter__(self) -> Iterator[list[tuple[int, np.ndarray, np.ndarray]]]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class Recordings(Dataset):
    """Reads a share of a batch from disk and alters it; runs in the loader's workers.

    The audio comes from the manifest's files, or from `packed` where the data set was packed: the same samples either way.
    """

    def __init__(
        self, manifest: Manifest, augment: AugmentParams | None, seed: int, packed: PackedAudio | None = None
    ) -> None:
        self._root = str(manifest.root)
        self._audio = [u.audio for u in manifest]
        self._labels = [torch.tensor(encode(u.text), dtype=torch.int32) for u in manifest]
        self.samples = np.array([round(u.duration_s * SAMPLE_RATE_HZ) for u in manifest])
        self._augment = augment
        self._noise_files = find_noise(augment) if augment else ()
        self._seed = seed
        self._packed = packed

    def altered_samples(self, epoch: int) -> np.ndarray:
        """Every utterance's length in samples after its change of tempo in `epoch`: what buckets should be cut by."""
        if self._augment is None or self._augment.tempo_min == self._augment.tempo_max == 1.0:
            return self.samples
        tempos = (draw(self._augment, self._seed, epoch, index).tempo for index in range(len(self.samples)))
        return np.array([samples_after(n, tempo) for n, tempo in zip(self.samples, tempos, strict=True)])

    def __getitem__(self, item: tuple[int, np.ndarray, np.ndarray]) -> Batch | UserError:
        """The Batch of (epoch, global batch, share); waveforms are padded to the longest of the global batch.

        What the user can mend is returned, not raised: the loader would wrap it in its worker's traceback.
        """
        try:
            return self._batch(*item)
        except UserError as error:
            return error

    def _batch(self, epoch: int, batch: np.ndarray, share: np.ndarray) -> Batch:
        drawn = {int(i): draw(self._augment, self._seed, epoch, int(i)) for i in batch} if self._augment else {}
        samples = {
            i: samples_after(self.samples[i], drawn[i].tempo) if drawn else int(self.samples[i])
            for i in map(int, batch)
        }
        mine = sorted(map(int, share if len(share) else batch[:1]), key=lambda i: -samples[i])
        waveforms = np.zeros((len(mine), max(samples.values())), np.float32)
        for row, index in zip(waveforms, mine, strict=True):
            waveform = self._read(index)
            row[: samples[index]] = alter(waveform, drawn[index], self._noise_files) if drawn else waveform
        lengths = [samples[index] for index in mine]
        no_masks = np.zeros((2, 0), np.float32)
        masks = [mask_uniforms(self._augment, self._seed, epoch, i) if self._augment else no_masks for i in mine]
        return Batch(
            waveforms=torch.from_numpy(waveforms),
            samples=torch.tensor(lengths),
            labels=torch.cat([self._labels[index] for index in mine]),
            label_lengths=torch.tensor([len(self._labels[index]) for index in mine]),
            mask_uniforms=torch.from_numpy(np.stack(masks)),
            indices=mine if len(share) else [],
            global_utterances=len(batch),
            audio_s=sum(lengths) / SAMPLE_RATE_HZ if len(share) else 0.0,
            weight=1.0 if len(share) else 0.0,
        )

    def _read(self, index: int) -> np.ndarray:
        if self._packed:
            return self._packed.read(index)
        path = Path(self._root, self._audio[index])
        remedy = "verify the data set (`sh verify_dataset.sh`), and prepare it again if it is damaged"
        try:
            waveform, rate_hz = soundfile.read(path, dtype="float32")
        except (soundfile.LibsndfileError, OSError) as error:
            raise UserError(f"cannot read the audio ({error})", where=path, remedy=remedy) from None
        if rate_hz != SAMPLE_RATE_HZ or waveform.ndim != 1:
            raise UserError(f"expected mono audio at {SAMPLE_RATE_HZ} Hz", where=path, remedy=remedy)
        if len(waveform) != self.samples[index]:
            found_s, expected_s = len(waveform) / rate_hz, self.samples[index] / rate_hz
            raise UserError(
                f"the audio lasts {found_s:.3f} s, the manifest says {expected_s:.3f} s", where=path, remedy=remedy
            )
        return waveform


def loader(recordings: Recordings, order: Order, workers: int, pin: bool) -> DataLoader:
    """A loader over `order` in `workers` processes (0: in this one), which stay alive from epoch to epoch."""
    return DataLoader(
        recordings,
        batch_sampler=order,
        collate_fn=_only,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )


def _only(items: list[Batch]) -> Batch:
    return items[0]
