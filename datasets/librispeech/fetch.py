"""Fetch a file over HTTP to the last right byte: resumed, retried, from one mirror after another, checked by SHA-256.

What has arrived stays in `NAME.part` beside the target, through kills and full disks, and the next call goes on from
there. Only a file whose size and SHA-256 are right gets its name. `NAME.ok` notes that, so that it need not be read again.
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
from datasets.manifest import write_atomically

CHUNK_BYTES = 1 << 20
STALLED_AFTER_S = 30.0
"""A connection that brings nothing for so long is given up and made anew."""

FRUITLESS_ROUNDS = 5
"""How often all mirrors are tried in a row without one new byte before giving up."""

LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True)
class Wanted:
    """A file as it was published: `name`, `bytes` and `sha256` (lower-case hex)."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Reports:
    """Who hears how it goes: `arrived(count)` for each piece of `count` bytes, `say(line)` for what a user should know.

    `stopped` is set from outside to end the work early.
    """

    arrived: Callable[[int], object]
    say: Callable[[str], object]
    stopped: threading.Event


class Stopped(Exception):
    """The work was ended from outside; what has arrived is kept."""


class _MirrorFails(Exception):
    """This mirror does not give the file now; `lasting` where asking again would not help, `wait_s` where it asks for patience."""

    def __init__(self, what: str, lasting: bool, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.lasting, self.wait_s = lasting, wait_s


def fetch(wanted: Wanted, mirrors: Sequence[str], folder: Path, reports: Reports, pause_s: float = 1.0) -> Path:
    """Bring `wanted` into `folder` and return its path; nothing is fetched where it is already there and right.

    `mirrors` are base addresses ending in a slash, tried in turn; `pause_s` is the first pause between rounds, doubled
    each time. A wrong file under the right name is moved aside to `NAME.wrong`. Raises UserError when no mirror has the
    file, and OSError (full disk, read-only folder) with what has arrived kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / wanted.name
    if is_right(target, wanted, reports):
        return target
    last_words: dict[str, str] = {}
    dead: set[str] = set()
    fruitless = 0
    while True:
        before = _size(part_path(target))
        wait_s = 0.0
        for mirror in mirrors:
            if mirror in dead:
                continue
            try:
                _download(mirror + wanted.name, target, wanted, reports)
                return target
            except _MirrorFails as failure:
                last_words[mirror] = str(failure)
                wait_s = max(wait_s, failure.wait_s)
                if failure.lasting:
                    dead.add(mirror)
                reports.say(f"{wanted.name}: {mirror}: {failure}")
        fruitless = 0 if _size(part_path(target)) > before else fruitless + 1
        if len(dead) == len(set(mirrors)) or fruitless >= FRUITLESS_ROUNDS:
            said = "; ".join(f"{mirror} ({words})" for mirror, words in last_words.items())
            raise UserError(
                f"no mirror gave the archive: {said}",
                where=wanted.name,
                remedy="check the network and start again: what has arrived is kept. Or bring the archives yourself "
                "(--from-dir DIR), or name another server (--base-url URL)",
            )
        if reports.stopped.wait(min(max(wait_s, pause_s * 2**fruitless), LONGEST_PAUSE_S)):
            raise Stopped


def part_path(target: Path) -> Path:
    """Where the bytes of `target` that have arrived lie until it is whole."""
    return target.with_name(target.name + ".part")


def missing_bytes(wanted: Wanted, folder: Path) -> int:
    """How many bytes of `wanted` have still to be fetched into `folder`, judged by sizes alone."""
    target = folder / wanted.name
    if _size(target) == wanted.bytes:
        return 0
    return max(0, wanted.bytes - _size(part_path(target)))


def is_right(target: Path, wanted: Wanted, reports: Reports) -> bool:
    """Whether `target` is the wanted file; a wrong one is moved aside. It is read only if it was never found right."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return False
    if status.st_size == wanted.bytes:
        if _mark(target) == [wanted.sha256, status.st_size, status.st_mtime_ns]:
            return True
        reports.say(f"{wanted.name}: already there, checking it")
        if _sha256(target, status.st_size, reports.stopped).hexdigest() == wanted.sha256:
            _write_mark(target, wanted)
            return True
        what = "has the right size but not the published SHA-256"
    else:
        what = f"has {status.st_size:,} bytes, not {wanted.bytes:,}"
    move_aside(target, what, reports)
    return False


def move_aside(target: Path, what: str, reports: Reports) -> None:
    """Rename a wrong `target` to `NAME.wrong` (or `.wrong2`, ...) and say so."""
    number = 1
    while (aside := target.with_name(f"{target.name}.wrong{number if number > 1 else ''}")).exists():
        number += 1
    os.rename(target, aside)
    _mark_path(target).unlink(missing_ok=True)
    reports.say(f"{target}: {what}; moved aside to {aside.name}, fetching it anew")


def remove(target: Path) -> None:
    """Delete a fetched file and the note that it was right."""
    _mark_path(target).unlink(missing_ok=True)
    target.unlink()


def _download(url: str, target: Path, wanted: Wanted, reports: Reports) -> None:
    """One connection: append what comes to the part file; return once the target is whole and right."""
    part = part_path(target)
    with open(part, "ab") as file:
        have = file.tell()
        if have > wanted.bytes:
            file.truncate(have := 0)
        digest = _sha256(part, have, reports.stopped)
        if have < wanted.bytes:
            with _open(url, have, wanted) as (response, start):
                if start != have:
                    file.truncate(0)
                    reports.say(f"{wanted.name}: the server cannot resume, starting at its first byte")
                    digest, have = hashlib.sha256(), 0
                have = _receive(response, file, have, wanted, digest, reports)
        file.flush()
        os.fsync(file.fileno())
    if have < wanted.bytes:
        raise _MirrorFails(f"the connection ended after {have:,} of {wanted.bytes:,} bytes", lasting=False)
    if digest.hexdigest() != wanted.sha256:
        # Which byte is wrong cannot be known, so none is kept; the mirror may only have relayed what a resumed part
        # had wrong, so it may be asked again.
        part.unlink()
        raise _MirrorFails("what arrived does not have the published SHA-256 and was thrown away", lasting=False)
    os.replace(part, target)
    _write_mark(target, wanted)


@contextlib.contextmanager
def _open(url: str, start: int, wanted: Wanted):
    """Ask for the bytes from `start` on; yields the response and where it really starts."""
    headers = {"User-Agent": "deepspeech2-benchmark", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=STALLED_AFTER_S)
    except urllib.error.HTTPError as error:
        with error:
            busy = error.code in (408, 416, 425, 429) or error.code >= 500
            wait_s = _retry_after_s(error.headers.get("Retry-After"))
            raise _MirrorFails(f"HTTP {error.code} {error.reason}", lasting=not busy, wait_s=wait_s) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _MirrorFails(f"cannot be reached ({reason})", lasting=False) from None
    except ValueError as error:
        raise _MirrorFails(f"not an address that can be asked ({error})", lasting=True) from None
    with response:
        total, begins = _announced(response)
        if total is not None and total != wanted.bytes:
            raise _MirrorFails(f"the file there has {total:,} bytes, not {wanted.bytes:,}", lasting=True)
        yield response, begins


def _announced(response: http.client.HTTPResponse) -> tuple[int | None, int]:
    """The whole file's size and the first byte's position, as far as the answer's header says."""
    if response.status == 206:
        said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not said:
            raise _MirrorFails("a partial answer that does not say which part", lasting=False)
        return None if said[2] == "*" else int(said[2]), int(said[1])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None, 0


def _receive(
    response: http.client.HTTPResponse,
    file: BinaryIO,
    have: int,
    wanted: Wanted,
    digest: hashlib._Hash,
    reports: Reports,
) -> int:
    """Append the body to `file`; the number of bytes there are then. A broken connection only ends it early."""
    while have < wanted.bytes:
        if reports.stopped.is_set():
            raise Stopped
        try:
            chunk = response.read1(min(CHUNK_BYTES, wanted.bytes - have))
        except (OSError, http.client.HTTPException) as error:
            raise _MirrorFails(f"the connection broke after {have:,} bytes ({error})", lasting=False) from None
        if not chunk:
            break
        file.write(chunk)
        digest.update(chunk)
        have += len(chunk)
        reports.arrived(len(chunk))
    return have


def _retry_after_s(value: str | None) -> float:
    """Retry-After in seconds, which a server gives as a number or a date."""
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


def _mark_path(target: Path) -> Path:
    return target.with_name(target.name + ".ok")


def _mark(target: Path) -> object:
    try:
        return orjson.loads(_mark_path(target).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None


def _write_mark(target: Path, wanted: Wanted) -> None:
    status = target.stat()
    write_atomically(_mark_path(target), orjson.dumps([wanted.sha256, status.st_size, status.st_mtime_ns]))
