"""Unpack one LibriSpeech archive in one pass: hash it, write its files, and collect their checksums, lengths and texts.

Only files whose names have the corpus's form are written, so an archive cannot write outside the folder; an archive
that tries is rejected completely. The files are written to `NAME.unfinished`, which is renamed to `NAME` if everything
is valid. The marker file `NAME.jsonl`, written last, records that the part is complete and lists its files with their
checksums.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import tarfile
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from common import limits
from common.errors import UserError
from common.files import write_atomically
from datasets import flac
from datasets.checksums.digest import FileSum, sum_of
from datasets.librispeech.archives import Archive
from datasets.librispeech.fetch import Stopped
from datasets.manifest import SAMPLE_RATE_HZ, Utterance, check_text, normalise_text

READ_BYTES = 1 << 20
BYTES_IN_FLIGHT = 64 << 20
"""How much unpacked audio may be queued for writing."""

LAYOUTS = ("flac", "wav")

_MEMBER = re.compile(
    r"(?:\./)?LibriSpeech/(?P<subset>[a-z0-9-]+)/(?P<speaker>\d+)/(?P<chapter>\d+)/"
    r"(?P<file>(?P=speaker)-(?P=chapter)(?:-(?P<number>\d+)\.flac|\.trans\.txt))"
)


class DamagedArchive(UserError):
    """The archive is not the published one: truncated, changed, or another file."""


@dataclass(frozen=True)
class Part:
    """One archive's files, paths relative to their split's folder, and its utterances (audio paths likewise)."""

    archive: str
    sha256: str
    layout: str
    files: list[FileSum]
    utterances: list[Utterance]


def marker_path(work: Path, name: str) -> Path:
    """The path of the marker file of a complete part."""
    return work / f"{name}.jsonl"


def read_part(work: Path, archive: Archive, layout: str) -> Part | None:
    """The part if it was completely unpacked from the archive in the table, else None."""
    files, utterances = [], []
    try:
        with open(marker_path(work, archive.name), "rb") as marker:
            if orjson.loads(next(marker)) != {"archive": archive.name, "sha256": archive.sha256, "layout": layout}:
                return None
            for line in marker:
                row = orjson.loads(line)
                utterance = row.pop("utterance", None)
                files.append(FileSum(**row))
                if utterance:
                    utterances.append(Utterance(audio=row["path"], **utterance))
    except (FileNotFoundError, StopIteration, orjson.JSONDecodeError, TypeError):
        return None  # The marker is missing or incomplete: the part is unpacked again.
    return Part(archive.name, archive.sha256, layout, files, utterances)


def unpack(
    path: Path, archive: Archive, work: Path, layout: str, progress: Callable[[int], object], stopped: threading.Event
) -> Part:
    """Unpack the archive at `path` into `work / archive.name` and mark it complete; `progress` gets the bytes read.

    DamagedArchive if the file is not the published one. UserError if its contents are inconsistent (a member outside
    the corpus's tree, a link, audio without transcript or transcript without audio, a truncated FLAC, another number of
    utterances than published). Nothing is left in either case.
    """
    unfinished, folder = work / f"{archive.name}.unfinished", work / archive.name
    for old in (unfinished, folder):
        shutil.rmtree(old, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with open(path, "rb", buffering=0) as file:
            reader = _HashedGzip(file, progress, stopped)
            try:
                contents = _write_members(reader, archive, unfinished, layout, path)
            except (UserError, zlib.error, tarfile.TarError, EOFError) as error:
                _check_hash(reader, archive, path, error)
                raise
            _check_hash(reader, archive, path, None)
        part = _pair_audio_and_text(contents, archive, unfinished, layout, path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    os.sync()  # After a power failure the marker must not exist without the files.
    os.rename(unfinished, folder)
    _write_marker(work, part)
    return part


class _HashedGzip:
    """The unpacked bytes of a gzip file, and the SHA-256 of the compressed ones."""

    def __init__(self, file, progress: Callable[[int], object], stopped: threading.Event) -> None:  # noqa: ANN001
        self.file, self.progress, self.stopped = file, progress, stopped
        self.sha256 = hashlib.sha256()
        self._unzip = zlib.decompressobj(wbits=31)
        self._packed = b""

    def read(self, size: int) -> bytes:
        """At most `size` unpacked bytes; none at the end."""
        while True:
            if self._unzip.eof:
                self._packed = self._unzip.unused_data or self._raw()
                if not self._packed.startswith(b"\x1f"):  # No further gzip member: padding, or the end.
                    return b""
                self._unzip = zlib.decompressobj(wbits=31)
            if not self._packed and not (packed := self._raw()):
                raise EOFError("it ends in the middle")
            elif not self._packed:
                self._packed = packed
            data = self._unzip.decompress(self._packed, size)
            self._packed = self._unzip.unconsumed_tail
            if data:
                return data

    def hexdigest(self) -> str:
        """The SHA-256 of the complete file, which is read to its end."""
        while self._raw():
            pass
        return self.sha256.hexdigest()

    def _raw(self) -> bytes:
        if self.stopped.is_set():
            raise Stopped
        data = self.file.read(READ_BYTES)
        self.sha256.update(data)
        self.progress(len(data))
        return data


@dataclass
class _Contents:
    """An archive's contents: checksums by path, seconds by utterance id, and (text, chapter file) by utterance id."""

    sums: dict[str, FileSum]
    durations_s: dict[str, float]
    texts: dict[str, tuple[str, str]]


def _check_hash(reader: _HashedGzip, archive: Archive, path: Path, cause: Exception | None) -> None:
    if reader.hexdigest() != archive.sha256:
        reason = f" ({cause.what if isinstance(cause, UserError) else cause})" if cause else ""
        raise DamagedArchive(
            f"this is not the published archive: its SHA-256 differs{reason}",
            where=path,
            remedy="fetch it again, or replace it by an intact copy",
        ) from None
    if cause and not isinstance(cause, UserError):
        raise UserError(f"not a tar.gz archive ({cause})", where=path) from None


def _write_members(reader: _HashedGzip, archive: Archive, folder: Path, layout: str, path: Path) -> _Contents:
    contents = _Contents({}, {}, {})
    waiting: deque[tuple[int, Future]] = deque()
    in_flight = 0
    with ThreadPoolExecutor(limits.cores()) as pool:
        try:
            for name, data in _members(reader, archive, path):
                waiting.append((len(data), pool.submit(_write_member, folder, name, data, layout, path)))
                in_flight += len(data)
                while waiting and (in_flight > BYTES_IN_FLIGHT or waiting[0][1].done()):
                    size, done = waiting.popleft()
                    in_flight -= size
                    _collect(contents, done.result(), path)
            while waiting:
                _collect(contents, waiting.popleft()[1].result(), path)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return contents


def _members(reader: _HashedGzip, archive: Archive, path: Path) -> Iterator[tuple[re.Match[str], bytes]]:
    """The corpus's files in the archive, without its README and speaker lists; any suspicious member is a UserError."""
    with tarfile.open(fileobj=reader, mode="r|", bufsize=READ_BYTES) as tar:  # type: ignore[call-overload]
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # otherwise all members stay in memory
            name = member.name
            fault = None
            if name.startswith("/") or ".." in name.split("/"):
                fault = "is outside the folder"
            elif not (member.isreg() or member.isdir()):
                fault = "is a link" if member.issym() or member.islnk() else "is a device or pipe"
            found = _MEMBER.fullmatch(name)
            if found and found["subset"] != archive.name:
                fault = f"does not belong to {archive.name}"
            if fault:
                raise UserError(
                    f"the archive was rejected and nothing of it kept: its member {name!r} {fault}",
                    where=path,
                    remedy="get the archive from a source that you trust",
                )
            if found and member.isreg():
                source = tar.extractfile(member)
                assert source is not None  # because it is a regular file
                data = source.read()
                if len(data) != member.size:
                    raise EOFError("it ends in the middle")
                yield found, data


@dataclass(frozen=True)
class _Written:
    """One member: the file written from it (None for a chapter's transcripts in the wav layout) and its contents."""

    path: str
    sum: FileSum | None
    id: str | None
    duration_s: float
    texts: dict[str, str]


def _write_member(folder: Path, name: re.Match[str], data: bytes, layout: str, archive_path: Path) -> _Written:
    chapter = f"{name['speaker']}/{name['chapter']}"
    inside = f"{chapter}/{name['file']}"
    where = f"{archive_path}: {name[0]}"
    if name["number"] is None:
        texts = _read_transcript(data, where)
        return _Written(inside, None if layout == "wav" else _write(folder, inside, data), None, 0.0, texts)
    info = flac.read_info(data, where)
    if (info.sample_rate_hz, info.channels, info.bits) != (SAMPLE_RATE_HZ, 1, 16):
        raise UserError(f"the audio is not {SAMPLE_RATE_HZ} Hz, mono, 16 bits", where=where)
    utterance_id = name["file"].removesuffix(".flac")
    if layout == "wav":
        inside, data = f"wav/{utterance_id}.wav", wav_bytes(flac.decode(data, info, where).astype("<i2").tobytes())
    else:
        flac.check_complete(data, info, where)
    return _Written(inside, _write(folder, inside, data), utterance_id, info.duration_s, {})


def wav_bytes(samples: bytes) -> bytes:
    """A WAV file of 16-bit little-endian mono samples, with the 44-byte header that sox writes."""
    return (
        struct.pack(
            "<4sI8sIHHIIHH",
            b"RIFF",
            36 + len(samples),
            b"WAVEfmt ",
            16,
            1,
            1,
            SAMPLE_RATE_HZ,
            2 * SAMPLE_RATE_HZ,
            2,
            16,
        )
        + struct.pack("<4sI", b"data", len(samples))
        + samples
    )


def _write(folder: Path, inside: str, data: bytes) -> FileSum:
    path = folder / inside
    try:
        file = open(path, "xb", buffering=0)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "xb", buffering=0)
    except FileExistsError:
        raise UserError("the archive contains a file twice", where=inside) from None
    with file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
    return sum_of(inside, data)


def _read_transcript(data: bytes, where: str) -> dict[str, str]:
    texts = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        utterance_id, _, words = line.strip().partition(" ")
        if utterance_id:
            check_text(text := normalise_text(words), f"{where}:{number}")
            texts[utterance_id] = text
    return texts


def _collect(contents: _Contents, written: _Written, path: Path) -> None:
    if written.sum:
        contents.sums[written.path] = written.sum
    if written.id:
        contents.durations_s[written.id] = written.duration_s
    contents.texts.update({key: (text, written.path) for key, text in written.texts.items()})


def _pair_audio_and_text(contents: _Contents, archive: Archive, folder: Path, layout: str, path: Path) -> Part:
    """Pair each audio file with its text; UserError unless both are complete and as many as published."""
    _check_complete(set(contents.durations_s) - set(contents.texts), "audio without a transcript", path)
    _check_complete(set(contents.texts) - set(contents.durations_s), "transcripts without their audio", path)
    if len(contents.texts) != archive.utterances:
        raise UserError(
            f"{archive.name} has {len(contents.texts):,} utterances, not the published {archive.utterances:,}",
            where=path,
        )
    files = list(contents.sums.values())
    utterances = []
    for utterance_id in sorted(contents.texts):
        text, chapter_file = contents.texts[utterance_id]
        if layout == "wav":
            audio = f"wav/{utterance_id}.wav"
            files.append(_write(folder, f"txt/{utterance_id}.txt", text.encode()))
        else:
            audio = f"{chapter_file.rpartition('/')[0]}/{utterance_id}.flac"
        utterances.append(Utterance(utterance_id, audio, contents.durations_s[utterance_id], text))
    return Part(archive.name, archive.sha256, layout, files, utterances)


def _check_complete(ids: set[str], what: str, path: Path) -> None:
    if ids:
        shown = ", ".join(sorted(ids)[:5]) + (", ..." if len(ids) > 5 else "")
        raise UserError(
            f"the archive contains {what}: {len(ids)} ({shown})", where=path, remedy="get the archive again"
        )


def _write_marker(work: Path, part: Part) -> None:
    utterances = {u.audio: {"id": u.id, "duration_s": u.duration_s, "text": u.text} for u in part.utterances}
    lines = [orjson.dumps({"archive": part.archive, "sha256": part.sha256, "layout": part.layout})]
    for file in part.files:
        row: dict[str, object] = asdict(file)
        if file.path in utterances:
            row["utterance"] = utterances[file.path]
        lines.append(orjson.dumps(row))
    write_atomically(marker_path(work, part.archive), b"\n".join(lines) + b"\n")
