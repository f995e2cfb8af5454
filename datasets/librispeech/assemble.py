"""Assemble LibriSpeech from its published archives: fetch, unpack, merge, write manifests and description.

Each archive is fetched and unpacked separately, several in parallel, into `LibriSpeech_dataset.parts`, where marker
files record the complete parts (see unpack.py). Then the parts' folders are moved, not copied, into their splits'
folders, the manifests are written, and last the description, whose digests are derived from the streams of the hashed
archives. Every step can be killed at any point and repeated; until the description is written, the dataset counts as
absent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from common import limits
from common.errors import UserError
from common.files import sha256_of, write_atomically
from common.progress import Progress
from datasets import flac
from datasets.checksums.digest import FileSum, derive_digest, sum_of, sums_path
from datasets.dataset import (
    LIBRISPEECH,
    Dataset,
    Split,
    delete_stamp,
    description_path,
    failed_verification,
    is_prepared,
    looks_complete,
    read_dataset,
    write_description,
)
from datasets.file_list import check_complete, contents_match, recorded_lines, reject_extra_files
from datasets.librispeech import fetch
from datasets.librispeech.archives import MIRRORS, Archive
from datasets.librispeech.transfer_progress import TransferProgress
from datasets.librispeech.unpack import DamagedArchive, Part, marker_path, read_part, unpack
from datasets.manifest import Manifest, Utterance, write_csv, write_jsonl
from datasets.staging import preparation_lock

NAME = LIBRISPEECH
WAV_BYTES_PER_HOUR = 16_000 * 2 * 3_600
SPARE_BYTES = 256 << 20
"""Disk space for manifests, marker files and folders, in addition to the audio."""


@dataclass(frozen=True)
class Options:
    """How to prepare: the archives are in `from_dir` (nothing is fetched), or are fetched from `mirrors` in turn.

    `layout` is `flac` or `wav`, `parallel` the number of archives processed in parallel, `deep` whether the audio's MD5
    sums are checked, `delete_archives` whether each fetched archive is deleted once it is unpacked.
    """

    mirrors: Sequence[str] = MIRRORS
    from_dir: Path | None = None
    layout: str = "flac"
    parallel: int = 4
    deep: bool = False
    delete_archives: bool = False


def prepare(archives: Sequence[Archive], table: Sequence[Archive], data_dir: Path, options: Options) -> Dataset:
    """Prepare `archives` in `data_dir / NAME`, in addition to the archives of `table` that are already part of it.

    UserError for every problem that the user can fix; completed work is kept.
    """
    folder, work = data_dir / NAME, data_dir / f"{NAME}.parts"
    before = _existing_dataset(folder, options.layout)
    intact = before is not None and _is_intact(before, work)
    verify_contents = before is not None and failed_verification(folder)
    requested = {a.name: a.sha256 for a in archives}
    if before and intact and requested.items() <= _archive_hashes(before).items():
        if options.deep:
            _check_deep(before)
        return before
    work.mkdir(parents=True, exist_ok=True)
    _check_target(folder, work)
    with preparation_lock(work, folder):
        known = {a.name for a in archives} | set(_archive_hashes(before) if before else ())
        chosen = [a for a in table if a.name in known or marker_path(work, a.name).exists()]
        parts = {a.name: p for a in chosen if (p := _complete_part(folder, work, a, options.layout, verify_contents))}
        _get_parts([a for a in chosen if a.name not in parts], parts, data_dir, work, options)
        return _assemble(folder, work, [(a, parts[a.name]) for a in chosen], options)


def _existing_dataset(folder: Path, layout: str) -> Dataset | None:
    if not is_prepared(folder):
        return None
    dataset = read_dataset(folder)
    if dataset.layout != layout:
        raise UserError(
            f"the existing dataset has the layout {dataset.layout}, not {layout}",
            where=folder,
            remedy="choose another --data-dir, or remove the folder first",
        )
    return dataset


def _is_intact(dataset: Dataset, work: Path) -> bool:
    """Whether there is nothing to repair; UserError if the folder holds files that do not belong to the dataset."""
    if looks_complete(dataset):
        return True
    lines = recorded_lines(dataset.folder, dataset.digest.tree_sha256)
    if lines is not None:
        reject_extra_files(dataset.folder, lines)
    if not failed_verification(dataset.folder) or all(marker_path(work, a).exists() for a in _archive_hashes(dataset)):
        return False
    # Without the markers every archive would be fetched again, although the damage may have been repaired by hand.
    if not contents_match(dataset):
        return False
    delete_stamp(dataset.folder)
    return True


def _check_target(folder: Path, work: Path) -> None:
    """UserError if the parts cannot be moved into the folder: checked before hours of fetching."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(
            "the dataset's place is taken by something that is not a folder",
            where=folder,
            remedy="move it away, or choose another --data-dir",
        )
    if folder.is_dir() and os.stat(folder).st_dev != os.stat(work).st_dev:
        raise UserError(
            "the folder is on another disk than the data directory, where the archives are unpacked",
            where=folder,
            remedy="choose a --data-dir on that disk",
        )


def _archive_hashes(dataset: Dataset) -> dict[str, str]:
    archives = dataset.provenance.get("archives")
    return dict(archives) if isinstance(archives, dict) else {}


def _complete_part(folder: Path, work: Path, archive: Archive, layout: str, verify_contents: bool) -> Part | None:
    """The part if it has a marker and all its files are in its own folder or in the split's.

    Compares sizes, and with `verify_contents` (a verification found the dataset damaged) also hashes.
    """
    part = read_part(work, archive, layout)
    if part:
        folders = (work / archive.name, folder / archive.split)
        with ThreadPoolExecutor(limits.cores()) as pool:
            missing = len(part.files) - sum(pool.map(lambda file: _is_in(file, verify_contents, *folders), part.files))
        if not missing:
            return part
        print(f"{archive.name}: {missing:,} of its files are missing or changed; unpacking it again", file=sys.stderr)
    marker_path(work, archive.name).unlink(missing_ok=True)
    return None


def _is_in(file: FileSum, verify_contents: bool, *folders: Path) -> bool:
    for folder in folders:
        with contextlib.suppress(OSError):
            path = f"{folder}/{file.path}"
            if os.stat(path).st_size == file.size:
                return not verify_contents or sha256_of(path) == file.sha256
    return False


def _get_parts(
    missing: Sequence[Archive], parts: dict[str, Part], data_dir: Path, work: Path, options: Options
) -> None:
    """Fetch and unpack the missing parts in parallel; the first failure cancels the others."""
    if not missing:
        return
    store = data_dir / "LibriSpeech_archives"
    _check_space(missing, store, data_dir, options)
    stopped = threading.Event()
    to_fetch = _bytes_to_fetch(missing, store, options)
    with (
        TransferProgress("LibriSpeech", to_fetch + sum(a.bytes for a in missing)) as progress,
        ThreadPoolExecutor(options.parallel) as pool,
    ):
        jobs = {pool.submit(_get_part, a, store, work, options, progress, stopped): a.name for a in missing}
        try:
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            _raise_first(done)
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
        parts.update({name: job.result() for job, name in jobs.items()})


def _raise_first(jobs: set[Future[Part]]) -> None:
    for job in jobs:
        if error := job.exception():
            raise error


def _bytes_to_fetch(missing: Sequence[Archive], store: Path, options: Options) -> int:
    return 0 if options.from_dir else sum(fetch.missing_bytes(a.remote_file, store) for a in missing)


def _check_space(missing: Sequence[Archive], store: Path, data_dir: Path, options: Options) -> None:
    """UserError unless the archives and their contents fit on the disk; FLAC files take as much as their archive."""
    unpacked = sum(a.bytes if options.layout == "flac" else int(a.hours * WAV_BYTES_PER_HOUR * 1.02) for a in missing)
    to_fetch = _bytes_to_fetch(missing, store, options)
    if options.delete_archives:
        # Each archive is deleted once unpacked: at most those processed in parallel are on the disk with their
        # contents.
        to_fetch = min(to_fetch, sum(sorted((a.bytes for a in missing), reverse=True)[: options.parallel]))
    free = shutil.disk_usage(data_dir).free
    needed = unpacked + to_fetch + SPARE_BYTES
    if free < needed:
        saving = "" if options.delete_archives or options.from_dir else ", add --delete-archives"
        raise UserError(
            f"too little disk space: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed "
            f"({to_fetch / 1e9:.1f} GB of archives, {unpacked / 1e9:.1f} GB unpacked)",
            where=data_dir,
            remedy=f"free some disk space{saving}, or choose another --data-dir",
        )


def _get_part(
    archive: Archive, store: Path, work: Path, options: Options, progress: TransferProgress, stopped: threading.Event
) -> Part:
    """Fetch one archive (unless it is local) and unpack it; if it turns out damaged, fetch it once more."""
    counter = progress.counter(f"fetching {archive.name}", fetching=True)
    events = fetch.FetchEvents(counter, progress.print_line, stopped)
    unpacked = progress.counter(f"unpacking {archive.name}")
    if options.from_dir:
        return unpack(_local_archive(archive, options.from_dir), archive, work, options.layout, unpacked, stopped)
    path = fetch.fetch(archive.remote_file, options.mirrors, store, events)
    try:
        part = unpack(path, archive, work, options.layout, unpacked, stopped)
    except DamagedArchive as error:
        fetch.set_aside(path, error.what, events)
        path = fetch.fetch(archive.remote_file, options.mirrors, store, events)
        part = unpack(path, archive, work, options.layout, unpacked, stopped)
    if options.delete_archives:
        fetch.remove(path)
    return part


def _local_archive(archive: Archive, folder: Path) -> Path:
    path = folder / archive.remote_file.name
    if not path.is_file():
        raise UserError("this archive is missing", where=path, remedy="put it there, or omit --from-dir to fetch it")
    if path.stat().st_size != archive.bytes:
        raise UserError(
            f"this is not the published archive: it has {path.stat().st_size:,} bytes, not {archive.bytes:,}",
            where=path,
            remedy="replace it by an intact copy",
        )
    return path


def _assemble(folder: Path, work: Path, parts: list[tuple[Archive, Part]], options: Options) -> Dataset:
    """Merge the parts into their splits and write the manifests, the checksums and the description."""
    description_path(folder).unlink(missing_ok=True)
    delete_stamp(folder)
    folder.mkdir(exist_ok=True)
    files: list[FileSum] = []
    by_split: dict[str, list[tuple[Archive, Part]]] = {}
    for archive, part in parts:
        if (work / archive.name).exists():
            _merge(work / archive.name, folder / archive.split)
        files += [FileSum(f"{archive.split}/{f.path}", f.size, f.sha256, f.crc) for f in part.files]
        by_split.setdefault(archive.split, []).append((archive, part))
    splits: dict[str, Split] = {}
    for split, members in by_split.items():
        splits[split] = _write_manifests(folder, split, split, members, files)
        # Results are usually quoted per subset, so each subset of a merged evaluation split is also a split of its own.
        for archive, part in members if split != "train" and len(members) > 1 else ():
            splits[archive.name] = _write_manifests(folder, archive.name, split, [(archive, part)], files)
    digest, lines = derive_digest(NAME, files)
    write_atomically(sums_path(folder), b"".join(lines))
    provenance: dict[str, object] = {
        "corpus": "LibriSpeech (OpenSLR SLR12, CC BY 4.0)",
        "archives": {archive.name: archive.sha256 for archive, _ in parts},
    }
    dataset = Dataset(folder, NAME, options.layout, splits, digest, provenance)
    if options.deep:
        _check_deep(dataset)
    check_complete(dataset, lines)
    os.sync()
    write_description(dataset)
    return dataset


def _merge(source: Path, target: Path) -> None:
    """Move all of `source` into `target`, whole folders where possible; repeatable after an interruption."""
    if source.is_dir() and target.is_dir():
        for entry in list(os.scandir(source)):
            _merge(Path(entry.path), target / entry.name)
        source.rmdir()
    else:
        target.parent.mkdir(exist_ok=True)
        os.replace(source, target)


def _write_manifests(
    folder: Path, split: str, audio_split: str, members: list[tuple[Archive, Part]], files: list[FileSum]
) -> Split:
    """Write a split's two manifests, whose audio is in the folder `audio_split`, and add their checksums to `files`."""
    utterances = Manifest.of(
        folder,
        (
            Utterance(u.id, f"{audio_split}/{u.audio}", u.duration_s, u.text)
            for _, part in members
            for u in part.utterances
        ),
    )
    jsonl, csv = f"libri_{split}_manifest.jsonl", f"libri_{split}_manifest.csv"
    write_jsonl(utterances, folder / jsonl)
    write_csv(((u.audio, _transcript_of(u)) for u in utterances), folder / csv)
    files += [sum_of(name, (folder / name).read_bytes()) for name in (jsonl, csv)]
    speakers = len({u.id.partition("-")[0] for u in utterances})
    return Split(jsonl, csv, len(utterances), utterances.duration_s, speakers)


def _transcript_of(utterance: Utterance) -> str:
    """The utterance's transcript file: its own in the wav layout, its chapter's otherwise."""
    if utterance.audio.endswith(".wav"):
        split, _, name = utterance.audio.split("/")
        return f"{split}/txt/{name.removesuffix('.wav')}.txt"
    return utterance.audio.rpartition("-")[0] + ".trans.txt"


def _check_deep(dataset: Dataset) -> None:
    """Decode every utterance and compare it with the MD5 in its FLAC header (WAV files were checked on conversion)."""
    if dataset.layout != "flac":
        return
    paths = [dataset.folder / u.audio for split in ("train", "val", "test") if split in dataset.splits
             for u in dataset.manifest(split)]  # fmt: skip
    with Progress("checking the audio", len(paths), "files") as bar, ThreadPoolExecutor(limits.cores()) as pool:
        for done, _ in enumerate(pool.map(_check_audio, paths), 1):
            bar.update(done)


def _check_audio(path: Path) -> None:
    data = path.read_bytes()
    flac.decode(data, flac.read_info(data, path), path)
