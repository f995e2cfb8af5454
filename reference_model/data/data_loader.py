"""The data loader: from the manifest to batches of augmented and padded waveforms, in worker processes.

Every rank sees the same global batches and takes its own share of each. The augmentation of an utterance depends only
on the seed, the epoch and its position. Batches hold waveforms; features are computed on the training device.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmark.params import AugmentParams, Params
from common import limits
from common.errors import UserError
from datasets.audio import reason
from datasets.manifest import SAMPLE_RATE_HZ, Manifest
from datasets.pack import PackedAudio
from reference_model.data.augment import Draw, augment_waveforms, draw, find_noise, mask_uniforms
from reference_model.data.shared_memory import Batch, SharedBatch, Slots, keep_freed_memory
from reference_model.data.tempo import samples_after
from reference_model.model.alphabet import encode

UTTERANCES_PER_CHUNK = 32
"""Utterances that a worker reads and augments together, rounded up to whole batches: see `tempo`."""
PREFETCHED = 2
"""Chunks that each worker may prefetch."""


def training_order(params: Params, lengths: np.ndarray, seed: int, epoch: int) -> list[np.ndarray]:
    """The global batches of an epoch, as arrays of positions in the manifest, which is sorted by length.

    `sorted` takes consecutive batches. Bucketing shuffles utterances of similar length (`lengths`, in any unit, are
    jittered by up to 2 %), cuts batches from that order and shuffles the batches.
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
    """This rank's evaluation batches: consecutive in length, distributed round-robin, each utterance exactly once."""
    batches = [np.arange(start, min(start + batch_size, utterances)) for start in range(0, utterances, batch_size)]
    return batches[rank::size]


Item = tuple[int, np.ndarray, np.ndarray]
"""What determines a batch: the epoch, the global batch and this rank's share of it, as positions in the manifest."""


class Order:
    """The batches of an epoch, and this rank's share of each."""

    def __init__(self) -> None:
        self._items: list[Item] = []

    def set(self, epoch: int, batches: Sequence[np.ndarray], rank: int = 0, size: int = 1) -> None:
        """Set the batches of the next pass over the loader.

        A global batch is distributed round-robin, so that all shares of a length-sorted batch have about the same
        length. If it has fewer utterances than there are ranks (the last batch, at most), some shares are empty.
        """
        self._items = [(epoch, batch, batch[rank::size]) for batch in batches]

    @property
    def largest_share(self) -> int:
        """The number of utterances of the largest share."""
        return max((len(share) for _, _, share in self._items), default=0) or 1

    def chunks(self, batches: int) -> Iterator[list[Item]]:
        """The batches in chunks of `batches` consecutive ones."""
        for start in range(0, len(self._items), batches):
            yield self._items[start : start + batches]

    def __len__(self) -> int:
        return len(self._items)


class Recordings:
    """Reads shares of batches from disk and augments them; runs in the data loader's workers.

    The audio comes from the manifest's files, or from `packed` if the dataset was packed: the same samples either way.
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

    @property
    def max_augmented_samples(self) -> int:
        """The largest number of samples that an utterance can have after augmentation."""
        slowest = min(1.0, self._augment.tempo_min) if self._augment else 1.0
        return samples_after(int(self.samples.max()), slowest)

    def augmented_samples(self, epoch: int) -> np.ndarray:
        """Every utterance's length in samples after the tempo change of `epoch`: the lengths to bucket by."""
        if self._augment is None or self._augment.tempo_min == self._augment.tempo_max == 1.0:
            return self.samples
        tempos = (draw(self._augment, self._seed, epoch, index).tempo for index in range(len(self.samples)))
        return np.array([samples_after(n, tempo) for n, tempo in zip(self.samples, tempos, strict=True)])

    def __getitem__(self, item: Item) -> Batch:
        """The Batch of (epoch, global batch, share)."""
        return self.batches([item], lambda rows, columns: np.empty((rows, columns), np.float32))[0]

    def batches(self, items: Sequence[Item], allocate: Callable[[int, int], np.ndarray]) -> list[Batch]:
        """The batches of several items, whose utterances are augmented together.

        `allocate` returns the array (rows, columns) for a batch's waveforms. They are padded to the longest of the
        global batch. UserError where audio cannot be read or augmented.
        """
        shares = [self._share(*item) for item in items]
        waveforms = [allocate(len(share.indices), share.longest) for share in shares]
        rows = []
        for share, matrix in zip(shares, waveforms, strict=True):
            for row, length in zip(matrix, share.lengths, strict=True):
                row[length:] = 0
                rows.append(row[:length])
        indices = [index for share in shares for index in share.indices]
        read = map(self._read, indices)
        if self._augment:
            draws = [drawn for share in shares for drawn in share.draws]
            augment_waveforms(read, self.samples[indices].tolist(), draws, rows, self._noise_files)
        else:
            for row, waveform in zip(rows, read, strict=True):
                row[:] = waveform
        return [self._batch(share, matrix) for share, matrix in zip(shares, waveforms, strict=True)]

    def _share(self, epoch: int, batch: np.ndarray, share: np.ndarray) -> _Share:
        drawn = {int(i): draw(self._augment, self._seed, epoch, int(i)) for i in batch} if self._augment else {}
        samples = {
            i: samples_after(self.samples[i], drawn[i].tempo) if drawn else int(self.samples[i])
            for i in map(int, batch)
        }
        indices = sorted(map(int, share if len(share) else batch[:1]), key=lambda i: -samples[i])
        return _Share(
            epoch=epoch,
            indices=indices,
            lengths=[samples[index] for index in indices],
            draws=[drawn[index] for index in indices] if drawn else [],
            longest=max(samples.values()),
            global_utterances=len(batch),
            present=len(share) > 0,
        )

    def _batch(self, share: _Share, waveforms: np.ndarray) -> Batch:
        masks = [
            mask_uniforms(self._augment, self._seed, share.epoch, index)
            if self._augment
            else np.zeros((2, 0), np.float32)
            for index in share.indices
        ]
        return Batch(
            waveforms=torch.from_numpy(waveforms),
            samples=torch.tensor(share.lengths),
            labels=torch.cat([self._labels[index] for index in share.indices]),
            label_lengths=torch.tensor([len(self._labels[index]) for index in share.indices]),
            mask_uniforms=torch.from_numpy(np.stack(masks)),
            indices=share.indices if share.present else [],
            global_utterances=share.global_utterances,
            audio_s=sum(share.lengths) / SAMPLE_RATE_HZ if share.present else 0.0,
            weight=1.0 if share.present else 0.0,
        )

    def _read(self, index: int) -> np.ndarray:
        if self._packed:
            return self._packed.read(index)
        path = Path(self._root, self._audio[index])
        remedy = "verify the dataset (`sh verify_dataset.sh`), and prepare it again if it is damaged"
        try:
            waveform, rate_hz = soundfile.read(os.fsencode(path), dtype="float32")
        except (soundfile.LibsndfileError, OSError) as error:
            raise UserError(f"cannot read the audio ({reason(error)})", where=path, remedy=remedy) from None
        if rate_hz != SAMPLE_RATE_HZ or waveform.ndim != 1:
            raise UserError(f"expected mono audio at {SAMPLE_RATE_HZ} Hz", where=path, remedy=remedy)
        if len(waveform) != self.samples[index]:
            found_s, expected_s = len(waveform) / rate_hz, self.samples[index] / rate_hz
            raise UserError(
                f"the audio lasts {found_s:.3f} s, the manifest says {expected_s:.3f} s", where=path, remedy=remedy
            )
        return waveform


@dataclass(frozen=True)
class _Share:
    """This rank's share of one global batch: positions, lengths and draws, longest utterance first."""

    epoch: int
    indices: list[int]
    lengths: list[int]
    draws: list[Draw]
    longest: int
    global_utterances: int
    present: bool


class _ChunkSampler(Sampler):
    """Distributes an order to the data loader's workers, in chunks of several batches."""

    def __init__(self, order: Order, batches: int) -> None:
        self._order, self._batches = order, batches

    def __iter__(self) -> Iterator[list[Item]]:
        return self._order.chunks(self._batches)


class _BatchDataset(Dataset):
    """Runs in the workers: turns chunks of an order into lists of batches, with waveforms in `slots` where they fit."""

    def __init__(self, recordings: Recordings, slots: Slots | None) -> None:
        self._recordings, self._slots = recordings, slots

    def __getitems__(self, items: list[Item]) -> list[Batch | SharedBatch | UserError]:
        """The batches of a chunk, or a UserError in their place: raised, DataLoader would wrap it in a traceback."""
        taken: list[int | None] = []

        def allocate(rows: int, columns: int) -> np.ndarray:
            fits = self._slots is not None and 4 * rows * columns <= self._slots.slot_bytes
            slot = self._slots.take() if self._slots and fits else None
            taken.append(slot)
            if self._slots is None or slot is None:
                return np.empty((rows, columns), np.float32)
            return self._slots.matrix(slot, rows, columns)

        try:
            batches = self._recordings.batches(items, allocate)
        except UserError as error:
            for slot in taken:
                if self._slots and slot is not None:
                    self._slots.release(slot)
            return [error]
        return [
            batch if self._slots is None or slot is None else SharedBatch.of(batch, self._slots, slot)
            for batch, slot in zip(batches, taken, strict=True)
        ]


class Batches:
    """Each pass yields an Order's batches, or a UserError in place of those read together with it; see `loader`."""

    def __init__(self, recordings: Recordings, order: Order, workers: int, pin: bool) -> None:
        self._recordings, self._order, self._workers, self._pin = recordings, order, workers, pin
        self._loader: DataLoader | None = None

    def __iter__(self) -> Iterator[Batch | UserError]:
        # Workers are forked at the first pass, when the order is known, and with it the memory that a batch needs.
        if self._loader is None:
            self._loader = self._create_loader()
        for chunk in self._loader:
            yield from chunk

    def _create_loader(self) -> DataLoader:
        workers, slots, batches_per_chunk = self._workers, None, 1
        if workers:
            rows = self._order.largest_share
            batches_per_chunk = max(1, UTTERANCES_PER_CHUNK // rows)
            slot_bytes = 4 * rows * self._recordings.max_augmented_samples
            slots = Slots((PREFETCHED + 1) * workers * batches_per_chunk, slot_bytes)
        return DataLoader(
            _BatchDataset(self._recordings, slots),
            batch_sampler=_ChunkSampler(self._order, batches_per_chunk),
            collate_fn=list,
            num_workers=workers,
            pin_memory=self._pin,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCHED if workers else None,
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=keep_freed_memory,
        )


def worker_bytes(recordings: Recordings, *shares: int) -> int:
    """Total memory of one worker of each of several loaders, whose batches have `shares` utterances per rank.

    It counts a worker's slots and as much as one slot for its work: 332 MiB were measured where this gives 345.
    """
    rows = sum(max(share, UTTERANCES_PER_CHUNK) for share in shares)
    return len(shares) * limits.WORKER_BYTES + (PREFETCHED + 2) * rows * 4 * recordings.max_augmented_samples


def default_workers(device: torch.device, each_bytes: int = limits.WORKER_BYTES) -> int:
    """Workers, of `each_bytes` of memory, per trainer process; 0 on a CPU, where training needs the cores."""
    if device.type == "cpu":
        return 0
    if not limits.has_semaphores():
        print(
            "warning: no data loader workers: /dev/shm cannot be written - see `python -m benchmark doctor`",
            file=sys.stderr,
        )
        return 0
    return max(1, min(16, limits.workers(each_bytes) // max(1, torch.cuda.device_count()) - 1))


def loader(recordings: Recordings, order: Order, workers: int, pin: bool) -> Batches:
    """Batches of `order`, built in `workers` processes (0: in this one), which stay alive from epoch to epoch.

    `pin` copies them into page-locked memory, for a GPU.
    """
    return Batches(recordings, order, workers, pin)
