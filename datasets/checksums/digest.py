"""Checksums of a folder: the POSIX cksum of its normalised tar (which is never written), and a SHA-256 of its files.

CRCs are linear: crc(A + B) follows from crc(A), crc(B) and the length of B. So the members are read in batches, in
parallel on all cores, and each batch's CRC is combined with those before it. Memory holds the names and SHA-256 sums of
all files and a few batches, regardless of the files' sizes.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

from common import limits
from common.errors import UserError
from common.files import sha256_of, write_atomically
from datasets.checksums.posix_cksum import combine, crc_of, multiply, posix_cksum, power_of_x
from datasets.checksums.tarball import (
    BLOCK,
    READ_BYTES,
    Member,
    absolute,
    file_pieces,
    header,
    members,
    padded,
    trailing_zeros,
)
from datasets.dataset import TreeDigest, sibling_path

BATCH_FILES, BATCH_BYTES = 256, 16 << 20
"""A batch ends with the member that reaches either limit."""


@dataclass(frozen=True, slots=True)
class BatchSums:
    """The checksums of a batch of members: its CRC and length as part of the tar, and a `sha256sum` line per file.

    `plain_crc` is the CRC without the folders' set-id bits.
    """

    crc: int
    plain_crc: int
    length: int
    lines: tuple[bytes, ...]


@dataclass(frozen=True)
class TreeSums:
    """The result of reading a folder once.

    `lines` are those of `sha256sum`, in byte order of the paths (empty if SHA-256 was not requested). `plain_cksum` is
    `digest.tar_cksum` of the same folder without set-id bits: folders created in a cluster's shared folders inherit
    these bits, which changes the tar but not the contents.
    """

    digest: TreeDigest
    plain_cksum: int
    lines: list[bytes]


class Cache(Protocol):
    """A cache of the checksums of batches, with which an interrupted reading resumes where it stopped."""

    def get(self, key: bytes) -> BatchSums | None:
        """The checksums stored under `key`, or None."""

    def put(self, key: bytes, sums: BatchSums) -> None:
        """Store `sums` under `key`."""


def digest_tree(
    folder: Path | str, processes: int | None = None, progress: Callable[[int], object] | None = None
) -> TreeDigest:
    """The digest of everything under `folder`.

    `processes` is the number of parallel readers (None: `limits.workers`). `progress` is called with the bytes of the
    tar that are done, out of `tarball.tar_bytes(folder)`. UserError for links, special files, names that a ustar tar
    cannot hold, and files that change while being read.
    """
    return sum_tree(folder, processes, progress).digest


def digest_and_write_sums(
    folder: Path, processes: int | None = None, progress: Callable[[int], object] | None = None
) -> TreeDigest:
    """`digest_tree`, and write the files' checksums to `sums_path(folder)`, to identify damaged files later."""
    sums = sum_tree(folder, processes, progress)
    write_atomically(sums_path(folder), b"".join(sums.lines))
    return sums.digest


def sums_path(folder: Path) -> Path:
    """The path of the `sha256sum` lines of the folder's files: check them with `sha256sum -c` in the folder."""
    return sibling_path(folder, ".sha256sums")


def sum_tree(
    folder: Path | str,
    processes: int | None = None,
    progress: Callable[[int], object] | None = None,
    *,
    cache: Cache | None = None,
    sha256: bool = True,
) -> TreeSums:
    """Read everything under `folder` once (see `digest_tree`). Without `sha256` the digest's `tree_sha256` is empty."""
    root = absolute(folder)
    crc = plain_crc = 0xFFFFFFFF
    length = files = 0
    lines: list[bytes] = []
    for sums, batch in _in_order(root, processes or limits.workers(), cache, sha256):
        crc = combine(crc, sums.crc, sums.length)
        plain_crc = combine(plain_crc, sums.plain_crc, sums.length)
        length += sums.length
        files += sum(not member.is_folder for member in batch)
        lines += sums.lines
        if progress:
            progress(length)
    tar_bytes, cksum = _finish_tar(crc, length)
    if progress:
        progress(tar_bytes)
    lines.sort(key=path_of_line)
    digest = TreeDigest(_hash_lines(lines) if sha256 else "", cksum, tar_bytes, files)
    return TreeSums(digest, _finish_tar(plain_crc, length)[1], lines)


def _finish_tar(crc: int, length: int) -> tuple[int, int]:
    """The tar's length with its trailing zeros, and its POSIX cksum, from the CRC and length of its members."""
    zeros = bytes(trailing_zeros(length))
    length += len(zeros)
    return length, posix_cksum(crc_of(zeros, crc), length)


def _hash_lines(lines: Iterable[bytes]) -> str:
    sha256 = hashlib.sha256()
    for line in lines:
        sha256.update(line)
    return sha256.hexdigest()


def sum_line(sha256: str, path: bytes) -> bytes:
    """The line that `sha256sum` prints for a file: backslashes and line breaks are escaped, and such lines marked."""
    escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != path else b"") + sha256.encode() + b"  " + escaped + b"\n"


def path_of_line(line: bytes) -> bytes:
    """The path in a line made by `sum_line`."""
    if not line.startswith(b"\\"):
        return line[66:-1]
    parts = line[67:-1].split(b"\\\\")
    return b"\\".join(part.replace(b"\\n", b"\n").replace(b"\\r", b"\r") for part in parts)


def _in_order(
    root: Path, processes: int, cache: Cache | None, sha256: bool
) -> Iterator[tuple[BatchSums, list[Member]]]:
    """The checksums of all batches in the tar's order; a few more batches than readers are in flight."""
    waiting: deque[tuple[Future[BatchSums] | BatchSums, list[Member], bytes]] = deque()
    batches = _batches(members(root))
    first = list(_take_until_large(batches))
    executor = _executor(processes, small=len(first) <= 4)
    try:
        for batch in chain(first, batches):
            key = _key(batch, sha256) if cache is not None else b""
            known = cache.get(key) if cache is not None else None
            waiting.append((known or executor.submit(sum_batch, str(root), batch, sha256), batch, key))
            if len(waiting) > 2 * processes + 2:
                yield _next(waiting, cache)
        while waiting:
            yield _next(waiting, cache)
    finally:
        executor.shutdown(cancel_futures=True)


def _next(waiting: deque, cache: Cache | None) -> tuple[BatchSums, list[Member]]:
    pending, batch, key = waiting.popleft()
    if isinstance(pending, BatchSums):
        return pending, batch
    try:
        sums = pending.result()
    except BrokenExecutor:
        raise UserError("a worker process was killed", remedy="free some memory, or use fewer processes") from None
    if cache is not None:
        cache.put(key, sums)
    return sums, batch


def _take_until_large(batches: Iterator[list[Member]]) -> Iterator[list[Member]]:
    for _, batch in zip(range(5), batches, strict=False):
        yield batch


def _executor(processes: int, small: bool) -> Executor:
    """Processes, because small files spend much time in Python; threads for small datasets or without semaphores."""
    if processes == 1 or small or not limits.has_semaphores():
        return ThreadPoolExecutor(processes)
    from concurrent.futures import ProcessPoolExecutor  # Imported here: it takes as long as reading a small dataset.
    from multiprocessing import get_context

    # Forking takes milliseconds, but is safe only if no other thread can hold a lock.
    method = "fork" if sys.platform == "linux" and threading.active_count() == 1 else "spawn"
    return ProcessPoolExecutor(processes, mp_context=get_context(method))


def _batches(all_members: Iterable[Member]) -> Iterator[list[Member]]:
    batch: list[Member] = []
    size = 0
    for member in all_members:
        batch.append(member)
        size += member.size
        if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _key(batch: list[Member], sha256: bool) -> bytes:
    """A cache key that changes when any of the batch's files is modified."""
    facts = [(m.path, m.size, m.mode, m.link, m.mtime_ns, m.ctime_ns, m.inode) for m in batch]
    return hashlib.sha256(repr((sha256, facts)).encode()).digest()


def sum_batch(root: str, batch: list[Member], sha256: bool) -> BatchSums:
    """Read the files of a batch and compute their checksums."""
    folder = os.fsencode(root)
    name = os.path.basename(folder)
    buffer = bytearray(READ_BYTES)
    crc, length = 0xFFFFFFFF, 0
    set_id_bits = 0  # the difference that the set-id bits of the folders so far make in the CRC
    lines = []
    for member in batch:
        start = header(name, member)
        crc = crc_of(start, crc)
        if member.size:
            crc, file_sum = _sum_contents(folder, member, buffer, crc, sha256)
        elif member.link is not None and sha256:
            file_sum = sha256_of(os.path.join(folder, member.path))
        else:
            file_sum = _EMPTY_SHA256
        if sha256 and not member.is_folder:
            lines.append(sum_line(file_sum, member.path))
        member_length = BLOCK + padded(member.size)
        length += member_length
        if set_id_bits:
            set_id_bits = multiply(set_id_bits, power_of_x(8 * member_length))
        if member.mode & 0o6000:
            set_id_bits ^= crc_of(start) ^ crc_of(header(name, member._replace(mode=0o755)))
    return BatchSums(crc, crc ^ set_id_bits, length, tuple(lines))


def _sum_contents(folder: bytes, member: Member, buffer: bytearray, crc: int, sha256: bool) -> tuple[int, str]:
    file_sum = hashlib.sha256()
    for piece in file_pieces(folder, member, buffer):
        crc = crc_of(piece, crc)
        if sha256:
            file_sum.update(piece)
    return crc_of(bytes(-member.size % BLOCK), crc), file_sum.hexdigest()


_EMPTY_SHA256 = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True)
class FileSum:
    """A file's checksums: `path` in its folder, `size` in bytes, SHA-256, and its `crc` as a member of the tar.

    `crc` covers the contents and the zeros that pad their last tar block.
    """

    path: str
    size: int
    sha256: str
    crc: int


def sum_of(path: str, data: bytes) -> FileSum:
    """The checksums of a file's contents."""
    crc = crc_of(bytes(-len(data) % BLOCK), crc_of(data))
    return FileSum(path, len(data), hashlib.sha256(data).hexdigest(), crc)


def derive_digest(name: str, files: Iterable[FileSum]) -> tuple[TreeDigest, list[bytes]]:
    """The digest and the `sha256sum` lines of a folder called `name` that holds exactly `files`.

    Reads no file: this is the result that reading the undamaged folder must give.
    """
    by_path = {os.fsencode(file.path): file for file in files}
    folders = {b""}
    for path in by_path:
        while path := path.rpartition(b"/")[0]:
            folders.add(path)
    crc, length = 0xFFFFFFFF, 0
    encoded_name = os.fsencode(name)
    # A tar lists a folder before its contents, and these by name: sort the paths as lists of names.
    for path in sorted(folders | by_path.keys(), key=lambda path: path.split(b"/") if path else []):
        file = by_path.get(path)
        size = file.size if file else 0
        member = Member(path, file is None, size, 0o755 if file is None else 0o644, None, 0, 0, 0)
        crc = crc_of(header(encoded_name, member), crc)
        if file and size:
            crc = combine(crc, file.crc, padded(size))
        length += BLOCK + padded(size)
    tar_bytes, cksum = _finish_tar(crc, length)
    lines = [sum_line(by_path[path].sha256, path) for path in sorted(by_path)]
    return TreeDigest(_hash_lines(lines), cksum, tar_bytes, len(lines)), lines
