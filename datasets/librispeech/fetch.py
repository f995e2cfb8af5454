"""Download a file over HTTP with resume, retries and several mirrors, and check its SHA-256.

Received bytes are kept in `NAME.part` next to the target, even if the process is killed or the disk is full, and the
next call resumes from there. A file is renamed to its final name only if its size and SHA-256 are
correct. `NAME.ok` records that, so that the file is not read again.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from common.errors import UserError
from common.files import write_atomically

CHUNK_BYTES = 1 << 20
STALL_TIMEOUT_S = 30.0
"""A connection that delivers nothing for this long is closed and opened again."""

MAX_ROUNDS_WITHOUT_PROGRESS = 5
"""Give up after trying all mirrors this many times in a row without receiving a byte."""

MAX_PAUSE_S = 60.0


@dataclass(frozen=True)
class RemoteFile:
    """A published file: `name`, size in `bytes` and `sha256` (lower-case hex)."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class FetchEvents:
    """Callbacks of a download: `received(count)` per piece of `count` bytes, `report(line)` for messages to the user.

    The caller sets `stopped` to cancel the download.
    """

    received: Callable[[int], object]
    report: Callable[[str], object]
    stopped: threading.Event


class Stopped(Exception):
    """The caller cancelled the work; received bytes are kept."""


class _MirrorError(Exception):
    """This mirror cannot deliver the file now; `permanent`: retrying is useless; `wait_s`: Retry-After."""

    def __init__(self, what: str, permanent: bool, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.permanent, self.wait_s = permanent, wait_s


def fetch(wanted: RemoteFile, mirrors: Sequence[str], folder: Path, events: FetchEvents, pause_s: float = 1.0) -> Path:
    """Download `wanted` into `folder` and return its path; nothing is fetched if a valid copy is already there.

    `mirrors` are base URLs ending in a slash, tried in turn; `pause_s` is the first pause between rounds, doubled each
    time. An invalid file under this name is renamed to `NAME.wrong`. UserError if no mirror delivers the file; OSError
    (full disk, read-only folder) with the received bytes kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / wanted.name
    if is_valid(target, wanted, events):
        return target
    last_errors: dict[str, str] = {}
    excluded: set[str] = set()
    rounds_without_progress = 0
    while True:
        before = _size(part_path(target))
        wait_s = 0.0
        for mirror in mirrors:
            if mirror in excluded:
                continue
            try:
                _download(mirror + wanted.name, target, wanted, events)
                return target
            except _MirrorError as error:
                last_errors[mirror] = str(error)
                wait_s = max(wait_s, error.wait_s)
                if error.permanent:
                    excluded.add(mirror)
                events.report(f"{wanted.name}: {mirror}: {error}")
        rounds_without_progress = 0 if _size(part_path(target)) > before else rounds_without_progress + 1
        if len(excluded) == len(set(mirrors)) or rounds_without_progress >= MAX_ROUNDS_WITHOUT_PROGRESS:
            errors = "; ".join(f"{mirror} ({error})" for mirror, error in last_errors.items())
            raise UserError(
                f"no mirror delivered the archive: {errors}",
                where=wanted.name,
                remedy="check the network and start again: received data is kept. Or provide the archives "
                "(--from-dir DIR), or use another server (--base-url URL)",
            )
        if events.stopped.wait(min(max(wait_s, pause_s * 2**rounds_without_progress), MAX_PAUSE_S)):
            raise Stopped


def part_path(target: Path) -> Path:
    """The path of the received bytes of `target` until it is complete."""
    return target.with_name(target.name + ".part")


def missing_bytes(wanted: RemoteFile, folder: Path) -> int:
    """How many bytes of `wanted` still have to be fetched into `folder`, according to file sizes."""
    target = folder / wanted.name
    if _size(target) == wanted.bytes:
        return 0
    return max(0, wanted.bytes - _size(part_path(target)))


def is_valid(target: Path, wanted: RemoteFile, events: FetchEvents) -> bool:
    """Whether `target` is the wanted file; an invalid one is renamed. It is read only if no check is recorded."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return False
    if status.st_size == wanted.bytes:
        if _read_marker(target) == [wanted.sha256, status.st_size, status.st_mtime_ns]:
            return True
        events.report(f"{wanted.name}: already downloaded, checking it")
        if _sha256(target, status.st_size, events.stopped).hexdigest() == wanted.sha256:
            _write_marker(target, wanted)
            return True
        what = "has the right size but not the published SHA-256"
    else:
        what = f"has {status.st_size:,} bytes, not {wanted.bytes:,}"
    set_aside(target, what, events)
    return False


def set_aside(target: Path, what: str, events: FetchEvents) -> None:
    """Rename an invalid `target` to `NAME.wrong` (or `.wrong2`, ...) and report it."""
    number = 1
    while (renamed := target.with_name(f"{target.name}.wrong{number if number > 1 else ''}")).exists():
        number += 1
    os.rename(target, renamed)
    _marker_path(target).unlink(missing_ok=True)
    events.report(f"{target}: {what}; renamed to {renamed.name}, fetching it again")


def remove(target: Path) -> None:
    """Delete a fetched file and the record that it is valid."""
    _marker_path(target).unlink(missing_ok=True)
    target.unlink()


def _download(url: str, target: Path, wanted: RemoteFile, events: FetchEvents) -> None:
    """One connection: append the received bytes to the part file; return once the target is complete and valid."""
    part = part_path(target)
    with open(part, "ab") as file:
        have = file.tell()
        if have > wanted.bytes:
            file.truncate(have := 0)
        digest = _sha256(part, have, events.stopped)
        if have < wanted.bytes:
            with _open(url, have, wanted) as (response, start):
                if start != have:
                    file.truncate(0)
                    events.report(f"{wanted.name}: the server cannot resume, starting again from the first byte")
                    digest, have = hashlib.sha256(), 0
                have = _receive(response, file, have, wanted, digest, events)
        file.flush()
        os.fsync(file.fileno())
    if have < wanted.bytes:
        raise _MirrorError(f"the connection ended after {have:,} of {wanted.bytes:,} bytes", permanent=False)
    if digest.hexdigest() != wanted.sha256:
        # The wrong bytes cannot be identified, so all are discarded. They may be from the resumed part, so this mirror
        # may be tried again.
        part.unlink()
        raise _MirrorError("the received file does not have the published SHA-256 and was deleted", permanent=False)
    os.replace(part, target)
    _write_marker(target, wanted)


@contextlib.contextmanager
def _open(url: str, start: int, wanted: RemoteFile):
    """Request the bytes from `start` on; yields the response and the position at which it actually starts."""
    headers = {"User-Agent": "deepspeech2-benchmark", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=STALL_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            busy = error.code in (408, 416, 425, 429) or error.code >= 500
            wait_s = _retry_after_s(error.headers.get("Retry-After"))
            raise _MirrorError(f"HTTP {error.code} {error.reason}", permanent=not busy, wait_s=wait_s) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _MirrorError(f"cannot be reached ({reason})", permanent=False) from None
    except ValueError as error:
        raise _MirrorError(f"invalid URL ({error})", permanent=True) from None
    with response:
        total, first = _size_and_start(response)
        if total is not None and total != wanted.bytes:
            raise _MirrorError(f"the file there has {total:,} bytes, not {wanted.bytes:,}", permanent=True)
        yield response, first


def _size_and_start(response: http.client.HTTPResponse) -> tuple[int | None, int]:
    """The complete file's size (None: unknown) and the position of the response's first byte, from its headers."""
    if response.status == 206:
        content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not content_range:
            raise _MirrorError("a partial response without a valid Content-Range", permanent=False)
        return None if content_range[2] == "*" else int(content_range[2]), int(content_range[1])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None, 0


def _receive(
    response: http.client.HTTPResponse,
    file: BinaryIO,
    have: int,
    wanted: RemoteFile,
    digest: hashlib._Hash,
    events: FetchEvents,
) -> int:
    """Append the body to `file`; returns the new number of bytes. _MirrorError if the connection breaks."""
    while have < wanted.bytes:
        if events.stopped.is_set():
            raise Stopped
        try:
            chunk = response.read1(min(CHUNK_BYTES, wanted.bytes - have))
        except (OSError, http.client.HTTPException) as error:
            raise _MirrorError(f"the connection broke after {have:,} bytes ({error})", permanent=False) from None
        if not chunk:
            break
        file.write(chunk)
        digest.update(chunk)
        have += len(chunk)
        events.received(len(chunk))
    return have


def _retry_after_s(value: str | None) -> float:
    """Retry-After in seconds; servers send a number or a date."""
    if not value:
        return 0.0
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _sha256(path: Path, length: int, stopped: threading.Event) -> hashlib._Hash:
    """SHA-256 of the first `length` bytes of a file."""
    digest = hashlib.sha256()
    if length:
        with open(path, "rb", buffering=0) as file:
            while length and (chunk := file.read(min(CHUNK_BYTES, length))):
                digest.update(chunk)
                length -= len(chunk)
                if stopped.is_set():
                    raise Stopped
    return digest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _marker_path(target: Path) -> Path:
    return target.with_name(target.name + ".ok")


def _read_marker(target: Path) -> object:
    try:
        return orjson.loads(_marker_path(target).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None


def _write_marker(target: Path, wanted: RemoteFile) -> None:
    status = target.stat()
    write_atomically(_marker_path(target), orjson.dumps([wanted.sha256, status.st_size, status.st_mtime_ns]))
