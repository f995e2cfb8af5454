"""`python -m datasets pack`: a dataset's audio decoded once into a few files of 16-bit samples, to be memory-mapped.

The shards are in NAME.packed next to the folder NAME, so that the folder's digest does not change. A shard holds the
samples of consecutive utterances of a split's manifest as contiguous little-endian int16: an utterance's offset follows
from the lengths in the manifest. index.json lists the shards and the digests of the folder and the manifests that they
were made from. The packed folder appears under its name in one rename, so that an interrupted pack never looks
finished; the next start keeps the complete shards.

The rules allow it: "reformatting is untimed". The samples are those of the files, bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import orjson

from common import limits
from common.cli import HelpFormatter
from common.errors import EXIT_FAILED, EXIT_OK, UserError
from common.files import sha256_of, write_atomically
from common.formats import PACKED, decode
from common.progress import Progress
from datasets.command_options import add_folder, add_processes, default_folder
from datasets.dataset import Dataset, read_dataset, sibling_path
from datasets.manifest import SAMPLE_RATE_HZ, Manifest
from datasets.staging import check_disk_space, staging
from datasets.synthesis.workers import map_in_fresh_processes

SHARD_SAMPLES = 1 << 29
"""Samples of a full shard: 1 GiB, which makes 105 files of LibriSpeech's 960 h."""
SAMPLE = np.dtype("<i2")


@dataclass(frozen=True)
class Shard:
    """One file: `utterances` of the manifest from position `first` on, `samples` in total, and the file's SHA-256."""

    file: str
    first: int
    utterances: int
    samples: int
    sha256: str


@dataclass(frozen=True)
class _Split:
    """A split's shards, and the SHA-256 of the manifest whose utterances they hold."""

    manifest_sha256: str
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class _Index:
    """The contents of index.json: the digest of the dataset that was packed, and its splits by name."""

    tree_sha256: str
    sample_rate_hz: int
    splits: dict[str, _Split]


@dataclass(frozen=True)
class _Task:
    """The work of one process: (audio path, samples) of consecutive utterances, to be packed into `path`."""

    path: Path
    first: int
    audio: tuple[tuple[str, int], ...]


class PackedAudio:
    """The packed audio of one split. Files are memory-mapped on first read, in the process that reads them."""

    def __init__(self, folder: Path, shards: tuple[Shard, ...], samples: np.ndarray) -> None:
        self._folder, self._shards = folder, shards
        starts = np.concatenate([[0], np.cumsum(samples)])
        self._firsts = np.array([shard.first for shard in shards])
        shard_of = np.searchsorted(self._firsts, np.arange(len(samples)), side="right") - 1
        self._shard_of, self._lengths = shard_of, samples
        self._offsets = starts[:-1] - starts[self._firsts[shard_of]]
        self._mapped: dict[int, np.ndarray] = {}

    def read(self, position: int) -> np.ndarray:
        """Utterance `position` of the manifest as float32 (samples,) in [-1, 1]: the same values as in its file."""
        number = int(self._shard_of[position])
        if number not in self._mapped:
            self._mapped[number] = np.memmap(self._folder / self._shards[number].file, SAMPLE, mode="r")
        start = int(self._offsets[position])
        return np.multiply(
            self._mapped[number][start : start + int(self._lengths[position])], np.float32(2**-15), dtype=np.float32
        )


def packed_path(folder: Path) -> Path:
    """The folder of the packed audio of the dataset in `folder`."""
    return sibling_path(folder, ".packed")


def open_packed(dataset: Dataset, split: str, manifest: Manifest) -> PackedAudio | None:
    """The packed audio of a split with this `manifest`, or None if the dataset was not packed.

    UserError if it was packed from other contents than the dataset has now, or a shard is missing or truncated: packed
    audio that does not match is never silently ignored.
    """
    if not packed_path(dataset.folder).exists():
        return None
    index = _read_index(dataset)
    if split not in index or index[split].manifest_sha256 != sha256_of(dataset.folder / dataset.splits[split].manifest):
        raise _stale(dataset, f"the packed audio is of another manifest of {split!r}")
    shards = index[split].shards
    _check_order(dataset, shards, len(manifest))
    for shard in shards:
        path = packed_path(dataset.folder) / shard.file
        size = path.stat().st_size if path.is_file() else 0
        if size != shard.samples * SAMPLE.itemsize:
            raise UserError(
                f"a packed shard is missing or truncated ({size:,} bytes of {shard.samples * SAMPLE.itemsize:,})",
                where=path,
                remedy=_remedy(dataset),
            )
    samples = np.array([_samples(utterance.duration_s) for utterance in manifest])
    return PackedAudio(packed_path(dataset.folder), shards, samples)


def pack(dataset: Dataset, processes: int | None = None, shard_samples: int = SHARD_SAMPLES) -> Path:
    """Pack every split of `dataset` and return the folder; does nothing if it is already packed.

    `processes` shards are packed in parallel (default: `limits.workers`). UserError if audio cannot be read, is not
    16-bit mono at 16 kHz, or differs in length from the manifest.
    """
    target = packed_path(dataset.folder)
    if target.exists():
        _read_index(dataset)
        print(f"{dataset.name}: already packed in {target}", file=sys.stderr)
        return target
    with staging(target) as part:
        tree, done = _prepare_staging(part, dataset)
        tasks = {split: list(_tasks(dataset.manifest(split), split, tree, shard_samples)) for split in dataset.splits}
        every = [task for each in tasks.values() for task in each]
        _check_space(every, part)
        left = [task for task in every if _finished(task, done) is None]
        total = sum(len(task.audio) for task in every)
        packed = total - sum(len(task.audio) for task in left)
        with Progress(f"packing {dataset.name}", total, "utterances") as progress:
            progress.update(packed)
            for count in map_in_fresh_processes(
                partial(_write_shard, done), left, processes or limits.workers(), preload=__name__
            ):
                packed += count
                progress.update(packed)
        splits = {
            split: _Split(
                sha256_of(dataset.folder / dataset.splits[split].manifest),
                tuple(shard for task in each if (shard := _finished(task, done))),
            )
            for split, each in tasks.items()
        }
        index = asdict(_Index(dataset.digest.tree_sha256, SAMPLE_RATE_HZ, splits))
        write_atomically(tree / "index.json", orjson.dumps(PACKED.with_version(index), option=orjson.OPT_INDENT_2))
        os.replace(tree, target)
        shutil.rmtree(part)
    return target


def damaged_shards(dataset: Dataset) -> list[Path]:
    """The shards that are missing or whose SHA-256 differs from the one in the index."""
    paths = []
    for split in _read_index(dataset).values():
        for shard in split.shards:
            path = packed_path(dataset.folder) / shard.file
            if not path.is_file() or sha256_of(path) != shard.sha256:
                paths.append(path)
    return paths


# ---------------------------------------------------------------------------------------------------------------------
# Making


def _prepare_staging(part: Path, dataset: Dataset) -> tuple[Path, Path]:
    """The folders of the shards and of the entries of finished ones; emptied if an earlier run packed other data."""
    marker, tree, done = part / "tree_sha256", part / "tree", part / "done"
    expected = f"{PACKED.version} {dataset.digest.tree_sha256}"
    if not (marker.is_file() and marker.read_text() == expected):
        for folder in (tree, done):
            shutil.rmtree(folder, ignore_errors=True)
        write_atomically(marker, expected.encode())
    tree.mkdir(exist_ok=True)
    done.mkdir(exist_ok=True)
    return tree, done


def _tasks(manifest: Manifest, split: str, tree: Path, shard_samples: int) -> Iterator[_Task]:
    audio: list[tuple[str, int]] = []
    held = first = number = 0
    for position, utterance in enumerate(manifest):
        samples = _samples(utterance.duration_s)
        if audio and held + samples > shard_samples:
            yield _Task(tree / f"{split}-{number:04d}.i16", first, tuple(audio))
            audio, held, first, number = [], 0, position, number + 1
        audio.append((str(manifest.audio_path(utterance)), samples))
        held += samples
    yield _Task(tree / f"{split}-{number:04d}.i16", first, tuple(audio))


def _check_space(tasks: list[_Task], part: Path) -> None:
    needed = sum(samples for task in tasks for _, samples in task.audio) * SAMPLE.itemsize
    present = sum(path.stat().st_size for path in (part / "tree").iterdir())
    check_disk_space(part, needed - present, "train from the files as they are")


def _write_shard(done: Path, task: _Task) -> int:
    """Decode and write one shard, then its index entry; returns its number of utterances. Runs in a worker process."""
    import soundfile

    unfinished = task.path.with_suffix(".part")
    sha256 = hashlib.sha256()
    with open(unfinished, "wb") as file:
        for audio, samples in task.audio:
            remedy = "verify the dataset (`sh verify_dataset.sh`), and prepare it again if it is damaged"
            try:
                with soundfile.SoundFile(os.fsencode(audio)) as opened:
                    kind = (opened.samplerate, opened.channels, opened.subtype)
                    found = opened.read(dtype="int16")
            except (soundfile.LibsndfileError, OSError) as error:
                raise UserError(f"cannot read the audio ({error})", where=audio, remedy=remedy) from None
            if kind != (SAMPLE_RATE_HZ, 1, "PCM_16"):
                raise UserError(f"expected 16-bit mono audio at {SAMPLE_RATE_HZ} Hz, not {kind}", where=audio)
            if len(found) != samples:
                raise UserError(
                    f"the audio has {len(found)} samples, the manifest says {samples}", where=audio, remedy=remedy
                )
            data = found.astype(SAMPLE, copy=False).tobytes()
            sha256.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, task.path)
    shard = Shard(
        task.path.name, task.first, len(task.audio), sum(samples for _, samples in task.audio), sha256.hexdigest()
    )
    write_atomically(done / f"{task.path.stem}.json", orjson.dumps(asdict(shard)))
    return shard.utterances


def _finished(task: _Task, done: Path) -> Shard | None:
    """The task's shard if an earlier run completed it, else None."""
    entry = done / f"{task.path.stem}.json"
    if not entry.is_file() or not task.path.is_file():
        return None
    try:
        shard = decode(Shard, orjson.loads(entry.read_bytes()))
    except (ValueError, UserError):
        return None
    same = (shard.first, shard.utterances) == (task.first, len(task.audio))
    return shard if same and task.path.stat().st_size == shard.samples * SAMPLE.itemsize else None


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def _read_index(dataset: Dataset) -> dict[str, _Split]:
    """The packed splits by name; UserError if the index is damaged, of a newer version or of other contents."""
    path = packed_path(dataset.folder) / "index.json"
    try:
        tree = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"the index of the packed audio cannot be read ({error})", where=path, remedy=_remedy(dataset)
        ) from None
    index = PACKED.read(_Index, tree, path, _remedy(dataset))
    if index.sample_rate_hz != SAMPLE_RATE_HZ:
        raise _stale(dataset, f"the packed audio has {index.sample_rate_hz} samples a second, not {SAMPLE_RATE_HZ}")
    if index.tree_sha256 != dataset.digest.tree_sha256:
        raise _stale(dataset, "the packed audio was made from other contents than the dataset has now")
    return index.splits


def _check_order(dataset: Dataset, shards: tuple[Shard, ...], utterances: int) -> None:
    """UserError unless the shards hold all utterances of a split, one after another."""
    place = 0
    for shard in shards:
        if shard.first != place or shard.utterances < 1:
            raise _stale(
                dataset, f"the index of the packed audio is damaged: {shard.file} does not follow the one before"
            )
        place += shard.utterances
    if place != utterances:
        raise _stale(dataset, f"the index of the packed audio is damaged: {place} of {utterances} utterances are in it")


def _stale(dataset: Dataset, what: str) -> UserError:
    return UserError(what, where=packed_path(dataset.folder), remedy=_remedy(dataset))


def _remedy(dataset: Dataset) -> str:
    return f"remove it (rm -r {packed_path(dataset.folder)}); then pack again if you want"


def _samples(duration_s: float) -> int:
    return round(duration_s * SAMPLE_RATE_HZ)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command `pack`."""
    parser = commands.add_parser(
        "pack",
        help="decode the audio once, into a few files that training memory-maps",
        description="Decode a prepared dataset's audio once, into NAME.packed next to it. Training then reads that, "
        "with the same result. Needs 115 MB per hour of speech. An interrupted pack resumes where it stopped.",
        epilog="examples:\n  python -m datasets pack data/mini\n  python -m datasets pack data/mini --verify",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_folder(parser)
    add_processes(parser, "files")
    parser.add_argument("--verify", action="store_true", help="check the packed audio instead: exit 1 if it is damaged")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    limits.check_processes(options.processes)
    dataset = read_dataset(options.folder or default_folder())
    if options.verify:
        paths = damaged_shards(dataset)
        for path in paths:
            print(f"damaged: {path}", file=sys.stderr)
        print(f"{dataset.name}: packed audio {'is damaged' if paths else 'is intact'}")
        return EXIT_FAILED if paths else EXIT_OK
    print(pack(dataset, options.processes))
    return EXIT_OK
