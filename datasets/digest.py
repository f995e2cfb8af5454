"""Checksums of a folder: POSIX cksum of its normalised tar, never written, and a SHA-256 digest of its files.

The tar's CRC is linear: crc(A + B) follows from crc(A), crc(B) and the length of B. So the members are read in batches,
side by side on all cores, and each batch's CRC is combined with those before it. Memory holds the names and the SHA-256
sums of the files and a few batches, whatever the files' sizes.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from fastcrc import crc32

from .dataset import TreeDigest
from .tarball import BLOCK, READ_BYTES, Member, absolute, ending, file_pieces, header, members, padded

BATCH_FILES, BATCH_BYTES = 256, 16 << 20
"""A batch ends with the member that brings it to either."""

POLYNOMIAL = 0x104C11DB7
"""The generator of POSIX cksum's CRC (IEEE Std 1003.1, `cksum`), highest power first."""


def crc_of(data: bytes | bytearray | memoryview, crc: int = 0xFFFFFFFF) -> int:
    """CRC-32/CKSUM of `data` appended to what gave `crc`; that of nothing is 0xFFFFFFFF."""
    return crc32.cksum(data, crc)


def combine(crc_a: int, crc_b: int, length_b: int) -> int:
    """The CRC of A followed by B, from the CRCs of both and B's length in bytes: A x^(8 length) + B modulo the generator."""
    return _multiply(crc_a ^ 0xFFFFFFFF, _power_of_x(8 * length_b)) ^ crc_b


def posix_cksum(crc: int, length: int) -> int:
    """What `cksum` prints: the CRC taken on over the length, least significant byte first, without leading zeros."""
    return crc_of(length.to_bytes((length.bit_length() + 7) // 8, "little"), crc)


def _multiply(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a >> 32:
            a ^= POLYNOMIAL
        b >>= 1
    return product


def _power_of_x(exponent: int) -> int:
    result = 1
    for bit in range(exponent.bit_length()):
        if bit == len(_SQUARES):
            _SQUARES.append(_multiply(_SQUARES[-1], _SQUARES[-1]))
        if exponent >> bit & 1:
            result = _multiply(result, _SQUARES[bit])
    return result


_SQUARES = [2]
"""x^(2^i) modulo the generator, grown when needed."""


@dataclass(frozen=True, slots=True)
class BatchSums:
    """The sums of one batch of members: its CRC and length as part of the tar, and a `sha256sum` line for each file.

    `plain_crc` is the CRC with the folders' set-id bits left out.
    """

    crc: int
    plain_crc: int
    length: int
    lines: tuple[bytes, ...]


@dataclass(frozen=True)
class TreeSums:
    """All that one reading of a folder tells.

    `lines` are those of `sha256sum`, in byte order of the paths (none where SHA-256 was not asked for). `plain_cksum` is
    `digest.tar_cksum` for the same folder without set-id bits: a cluster's shared folders hand those down to all that
    is made in them, which changes the tar and means nothing.
    """

    digest: TreeDigest
    plain_cksum: int
    lines: list[bytes]


class Cache(Protocol):
    """Where the sums of batches are kept, so that an interrupted reading goes on where it was."""

    def get(self, key: bytes) -> BatchSums | None:
        """The sums kept under `key`, or None."""

    def put(self, key: bytes, sums: BatchSums) -> None:
        """Keep `sums` under `key`."""


def digest_tree(
    folder: Path | str, processes: int | None = None, progress: Callable[[int], object] | None = None
) -> TreeDigest:
    """The digest of everything under `folder`.

    `processes` readers work side by side (None: one for each core this process may use). `progress` is called with the
    bytes of the tar that are done, of `tarball.tar_bytes(folder)` in all. Raises UserError for links, special files,
    names that no ustar tar can hold, and files that change meanwhile.
    """
    return sum_tree(folder, processes, progress).digest


def sum_tree(
    folder: Path | str,
    processes: int | None = None,
    progress: Callable[[int], object] | None = None,
    *,
    cache: Cache | None = None,
    sha256: bool = True,
) -> TreeSums:
    """Read everything under `folder` once; see `digest_tree`. Without `sha256` the digest's `tree_sha256` is empty."""
    root = absolute(folder)
    crc = plain_crc = 0xFFFFFFFF
    length = files = 0
    lines: list[bytes] = []
    for sums, batch in _in_order(root, processes or available_cores(), cache, sha256):
        crc = combine(crc, sums.crc, sums.length)
        plain_crc = combine(plain_crc, sums.plain_crc, sums.length)
        length += sums.length
        files += sum(not member.is_folder for member in batch)
        lines += sums.lines
        if progress:
            progress(length)
    zeros = bytes(ending(length))
    length += len(zeros)
    if progress:
        progress(length)
    lines.sort(key=path_of_line)
    tree = hashlib.sha256()
    for line in lines:
        tree.update(line)
    digest = TreeDigest(
        tree_sha256=tree.hexdigest() if sha256 else "",
        tar_cksum=posix_cksum(crc_of(zeros, crc), length),
        tar_bytes=length,
        files=files,
    )
    return TreeSums(digest, posix_cksum(crc_of(zeros, plain_crc), length), lines)


def available_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sum_line(sha256: str, path: bytes) -> bytes:
    """The line that `sha256sum` prints for a file; it escapes backslashes and line ends, and marks such lines."""
    escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != path else b"") + sha256.encode() + b"  " + escaped + b"\n"


def path_of_line(line: bytes) -> bytes:
    """The path in a line made by `sum_line`."""
    if not line.startswith(b"\\"):
        return line[66:-1]
    parts = line[67:-1].split(b"\\\\")
    return b"\\".join(part.replace(b"\\n", b"\n").replace(b"\\r", b"\r") for part in parts)


def file_cksum(path: Path | str, progress: Callable[[int], object] | None = None) -> tuple[int, int]:
    """POSIX cksum and size in bytes of one file."""
    crc, length = 0xFFFFFFFF, 0
    buffer = bytearray(READ_BYTES)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc = crc_of(memoryview(buffer)[:count], crc)
            length += count
            if progress:
                progress(length)
    return posix_cksum(crc, length), length


def _in_order(
    root: Path, processes: int, cache: Cache | None, sha256: bool
) -> Iterator[tuple[BatchSums, list[Member]]]:
    """The sums of all batches in the tar's order; a few more batches than there are readers are on their way."""
    waiting: deque[tuple[Future[BatchSums] | BatchSums, list[Member], bytes]] = deque()
    batches = _batches(members(root))
    first = list(_take_until_large(batches))
    executor = _executor(processes, small=len(first) <= 4)
    try:
        for batch in chain(first, batches):
            key = _key(batch, sha256) if cache else b""
            known = cache.get(key) if cache else None
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
    sums = pending.result()
    if cache:
        cache.put(key, sums)
    return sums, batch


def _take_until_large(batches: Iterator[list[Member]]) -> Iterator[list[Member]]:
    for _, batch in zip(range(5), batches, strict=False):
        yield batch


def _executor(processes: int, small: bool) -> Executor:
    """Processes, because much of the work on small files is Python's own; threads where starting them costs more."""
    if processes == 1 or small:
        return ThreadPoolExecutor(processes)
    # Forking takes milliseconds, but is safe only while no other thread can hold a lock.
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
    """What stays the same while nobody touches the batch's files."""
    facts = [(m.path, m.size, m.mode, m.link, m.mtime_ns, m.ctime_ns, m.inode) for m in batch]
    return hashlib.sha256(repr((sha256, facts)).encode()).digest()


def sum_batch(root: str, batch: list[Member], sha256: bool) -> BatchSums:
    """Read the files of a batch and sum them up."""
    folder = os.fsencode(root)
    name = os.path.basename(folder)
    buffer = bytearray(READ_BYTES)
    crc, length = 0xFFFFFFFF, 0
    set_id_bits = 0  # what the set-id bits of the folders so far change in the CRC
    lines = []
    for member in batch:
        start = header(name, member)
        crc = crc_of(start, crc)
        if member.size:
            crc, file_sum = _sum_contents(folder, member, buffer, crc, sha256)
        elif member.link is not None and sha256:
            with open(os.path.join(folder, member.path), "rb") as file:
                file_sum = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            file_sum = _SHA256_OF_NOTHING
        if sha256 and not member.is_folder:
            lines.append(sum_line(file_sum, member.path))
        member_length = BLOCK + padded(member.size)
        length += member_length
        if set_id_bits:
            set_id_bits = _multiply(set_id_bits, _power_of_x(8 * member_length))
        if member.mode & 0o6000:
            set_id_bits ^= crc_of(start) ^ crc_of(header(name, replace(member, mode=0o755)))
    return BatchSums(crc, crc ^ set_id_bits, length, tuple(lines))


def _sum_contents(folder: bytes, member: Member, buffer: bytearray, crc: int, sha256: bool) -> tuple[int, str]:
    file_sum = hashlib.sha256()
    for piece in file_pieces(folder, member, buffer):
        crc = crc_of(piece, crc)
        if sha256:
            file_sum.update(piece)
    return crc_of(bytes(-member.size % BLOCK), crc), file_sum.hexdigest()


_SHA256_OF_NOTHING = hashlib.sha256().hexdigest()
