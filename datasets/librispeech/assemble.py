"""LibriSpeech from its published archives to a prepared data set: fetch, unpack, merge, list, describe.

Each archive is fetched and unpacked on its own, several side by side, into `LibriSpeech_dataset.parts`, where marks say
which parts are complete (see unpack.py). Then the parts' folders are moved, not copied, to their split's, the manifests
are written, and last the description, whose digests are derived from what was streamed out of the hashed archives. Every
step can be killed anywhere and repeated; before the description stands the set counts as absent.
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
from common.locks import FileLock
from common.progress import Progress
from common.sha256 import sha256_of
from datasets import flac
from datasets.checksums.digest import FileSum, derive_digest, sum_of, sums_path
from datasets.dataset import (
    LIBRISPEECH,
    Dataset,
    Split,
    description_path,
    failed_verification,
    forget_stamp,
    is_prepared,
    looks_whole,
    read_dataset,
    write_description,
)
from datasets.file_list import check_whole, contents_match, kept_lines, refuse_extra
from datasets.librispeech import fetch
from datasets.librispeech.archives import MIRRORS, Archive
from datasets.librispeech.transfer_progress import Meter
from datasets.librispeech.unpack import DamagedArchive, Part, mark_path, read_part, unpack
from datasets.manifest import Manifest, Utterance, write_atomically, write_csv, write_jsonl

NAME = LIBRISPEECH
WAV_BYTES_PER_HOUR = 16_000 * 2 * 3_600
SPARE_BYTES = 256 << 20
"""Room for manifests, marks and folders, beside the audio."""


@dataclass(frozen=True)
class Options:
    """How to prepare: `from_dir` holds the archives (nothing is fetched), or they come from `mirrors` in turn.

    `layout` is `flac` or `wav`, `parallel` the number of archives in work at once, `deep` whether the audio's MD5 sums
    are checked, `delete_archives` whether each fetched archive is deleted once it is unpacked.
    """

    mirrors: Sequence[str] = MIRRORS
    from_dir: Path | None = None
    layout: str = "flac"
    parallel: int = 4
    deep: bool = False
    delete_archives: bool = False


def prepare(archives: Sequence[Archive], table: Sequence[Archive], data_dir: Path, options: Options) -> Dataset:
    """Make `data_dir / NAME` hold `archives`, beside those of the `table` that it holds already.

    Raises UserError for everything a user can mend; whatever was finished before stays finished.
    """
    folder, work = data_dir / NAME, data_dir / f"{NAME}.parts"
    before = _already_there(folder, options.layout)
    whole = before is not None and _is_whole(before, work)
    mistrusted = before is not None and failed_verification(folder)
    asked_for = {a.name: a.sha256 for a in archives}
    if before and whole and asked_for.items() <= _archive_hashes(before).items():
        if options.deep:
            _check_deep(before)
        return before
    work.mkdir(parents=True, exist_ok=True)
    _check_place(folder, work)
    with _only_one(work):
        known = {a.name for a in archives} | set(_archive_hashes(before) if before else ())
        chosen = [a for a in table if a.name in known or mark_path(work, a.name).exists()]
        parts = {a.name: p for a in chosen if (p := _complete_part(folder, work, a, options.layout, mistrusted))}
        _get_parts([a for a in chosen if a.name not in parts], parts, data_dir, work, options)
        return _assemble(folder, work, [(a, parts[a.name]) for a in chosen], options)


def _already_there(folder: Path, layout: str) -> Dataset | None:
    if not is_prepared(folder):
        return None
    dataset = read_dataset(folder)
    if dataset.layout != layout:
        raise UserError(
            f"the data set there has the layout {dataset.layout}, not {layout}",
            where=folder,
            remedy="choose another --data-dir, or remove the folder first",
        )
    return dataset


def _is_whole(dataset: Dataset, work: Path) -> bool:
    """Whether nothing is to be mended; UserError where something lies in the folder that no archive could mend."""
    if looks_whole(dataset):
        return True
    lines = kept_lines(dataset.folder, dataset.digest.tree_sha256)
    if lines is not None:
        refuse_extra(dataset.folder, lines)
    if not failed_verification(dataset.folder) or all(mark_path(work, a).exists() for a in _archive_hashes(dataset)):
        return False
    # Without the marks every archive would be fetched, and what failed may have been put right by hand since.
    if not contents_match(dataset):
        return False
    forget_stamp(dataset.folder)
    return True


def _check_place(folder: Path, work: Path) -> None:
    """UserError where the parts could not be moved into the folder: said before hours of fetching, not after them."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(
            "something else lies in the data set's place",
            where=folder,
            remedy="move it away, or choose another --data-dir",
        )
    if folder.is_dir() and os.stat(folder).st_dev != os.stat(work).st_dev:
        raise UserError(
            "the folder lies on another disk than the data directory, where what it shall hold is unpacked",
            where=folder,
            remedy="name a --data-dir on that disk",
        )


def _archive_hashes(dataset: Dataset) -> dict[str, str]:
    archives = dataset.provenance.get("archives")
    return dict(archives) if isinstance(archives, dict) else {}


def _only_one(work: Path) -> FileLock:
    busy = UserError("another process is preparing this data set", where=work, remedy="wait until it has finished")
    return FileLock(work / "lock", busy)


def _complete_part(folder: Path, work: Path, archive: Archive, layout: str, mistrusted: bool) -> Part | None:
    """The part if its mark stands and all its files lie in its own folder or in the split's.

    Sizes are looked at, and contents too where they are `mistrusted`: a verification has found the set damaged.
    """
    part = read_part(work, archive, layout)
    if part:
        places = (work / archive.name, folder / archive.split)
        with ThreadPoolExecutor(limits.cores()) as pool:
            lacking = len(part.files) - sum(pool.map(lambda file: _lies_in(file, mistrusted, *places), part.files))
        if not lacking:
            return part
        print(f"{archive.name}: {lacking:,} of its files are missing or changed; it is unpacked again", file=sys.stderr)
    mark_path(work, archive.name).unlink(missing_ok=True)
    return None


def _lies_in(file: FileSum, mistrusted: bool, *folders: Path) -> bool:
    for folder in folders:
        with contextlib.suppress(OSError):
            path = f"{folder}/{file.path}"
            if os.stat(path).st_size == file.size:
                if not mistrusted:
                    return True
                return sha256_of(path) == file.sha256
    return False


def _get_parts(
    missing: Sequence[Archive], parts: dict[str, Part], data_dir: Path, work: Path, options: Options
) -> None:
    """Fetch and unpack the missing parts side by side; the first that fails ends the work of all."""
    if not missing:
        return
    store = data_dir / "LibriSpeech_archives"
    _check_space(missing, store, data_dir, options)
    stopped = threading.Event()
    to_fetch = 0 if options.from_dir else sum(fetch.missing_bytes(a.wanted, store) for a in missing)
    with (
        Meter("LibriSpeech", to_fetch + sum(a.bytes for a in missing)) as meter,
        ThreadPoolExecutor(options.parallel) as pool,
    ):
        jobs = {pool.submit(_get_part, a, store, work, options, meter, stopped): a.name for a in missing}
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


def _check_space(missing: Sequence[Archive], store: Path, data_dir: Path, options: Options) -> None:
    """Archives and what they hold must fit; FLAC takes what its archive takes, as it cannot be packed further."""
    unpacked = sum(a.bytes if options.layout == "flac" else int(a.hours * WAV_BYTES_PER_HOUR * 1.02) for a in missing)
    to_fetch = 0 if options.from_dir else sum(fetch.missing_bytes(a.wanted, store) for a in missing)
    if options.delete_archives:
        # Each one's place is freed when it is unpacked: at most those in work at once lie beside their contents.
        to_fetch = min(to_fetch, sum(sorted((a.bytes for a in missing), reverse=True)[: options.parallel]))
    free = shutil.disk_usage(data_dir).free
    needed = unpacked + to_fetch + SPARE_BYTES
    if free < needed:
        saving = "" if options.delete_archives or options.from_dir else ", add --delete-archives"
        raise UserError(
            f"{needed / 1e9:.1f} GB of free disk space are needed ({to_fetch / 1e9:.1f} GB of archives, "
            f"{unpacked / 1e9:.1f} GB unpacked), {free / 1e9:.1f} GB are free",
            where=data_dir,
            remedy=f"free some{saving}, or choose another --data-dir",
        )


def _get_part(
    archive: Archive, store: Path, work: Path, options: Options, meter: Meter, stopped: threading.Event
) -> Part:
    """One archive: fetch it unless the user brought it, unpack it; one found damaged only then is fetched once more."""
    reports = fetch.Reports(meter.reader(f"fetching {archive.name}", fetching=True), meter.say, stopped)
    unpacked = meter.reader(f"unpacking {archive.name}")
    if options.from_dir:
        return unpack(_brought(archive, options.from_dir), archive, work, options.layout, unpacked, stopped)
    path = fetch.fetch(archive.wanted, options.mirrors, store, reports)
    try:
        part = unpack(path, archive, work, options.layout, unpacked, stopped)
    except DamagedArchive as error:
        fetch.move_aside(path, error.what, reports)
        path = fetch.fetch(archive.wanted, options.mirrors, store, reports)
        part = unpack(path, archive, work, options.layout, unpacked, stopped)
    if options.delete_archives:
        fetch.remove(path)
    return part


def _brought(archive: Archive, folder: Path) -> Path:
    path = folder / archive.wanted.name
    if not path.is_file():
        raise UserError("this archive is missing", where=path, remedy="bring it, or leave --from-dir out to fetch it")
    if path.stat().st_size != archive.bytes:
        raise UserError(
            f"this is not the published archive: it has {path.stat().st_size:,} bytes, not {archive.bytes:,}",
            where=path,
            remedy="bring a good copy",
        )
    return path


def _assemble(folder: Path, work: Path, parts: list[tuple[Archive, Part]], options: Options) -> Dataset:
    """Merge the parts into their splits, list and describe them."""
    description_path(folder).unlink(missing_ok=True)
    forget_stamp(folder)
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
        # What evaluations quote is each subset's own error rate, so merged evaluation sets are also listed apart.
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
    check_whole(dataset, lines)
    os.sync()
    write_description(dataset)
    return dataset


def _merge(source: Path, target: Path) -> None:
    """Move all of `source` into `target`, whole folders where nothing is there yet; repeatable after an interruption."""
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
    """Write a split's two manifests, whose audio lies in the folder `audio_split`, and add their sums to `files`."""
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
    """The file with the utterance's words: its own in the wav layout, its chapter's otherwise."""
    if utterance.audio.endswith(".wav"):
        split, _, name = utterance.audio.split("/")
        return f"{split}/txt/{name.removesuffix('.wav')}.txt"
    return utterance.audio.rpartition("-")[0] + ".trans.txt"


def _check_deep(dataset: Dataset) -> None:
    """Decode every utterance and compare it with the MD5 in its FLAC header (WAV was compared when it was made)."""
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
