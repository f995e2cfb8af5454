"""A folder as one normalised tar: the same bytes for the same contents, independent of owners and modification times.

The bytes are those that GNU tar writes in the parent of the folder NAME for

    tar --sort=name --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rw,go=r,a+X -cf - NAME

so that anyone can check the checksums with tar and cksum. Files that such a tar cannot hold (a name too long for ustar,
a file of 8 GiB) and files that a dataset must not hold (symbolic links, devices) are errors that name the file.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError

BLOCK = 512
RECORD = 20 * BLOCK
"""GNU tar ends an archive with two blocks of zeros and pads it with zeros to a multiple of this many bytes."""

NAME_LENGTH, PREFIX_LENGTH = 100, 155
LARGEST_FILE = 8**11 - 1
"""The largest size in bytes that the size field of a ustar header (11 octal digits) can hold."""

READ_BYTES = 1 << 18


class Member(NamedTuple):
    """One entry of the tar (a tuple, which is created and sent to another process much faster than a dataclass).

    `path` is relative to the folder (empty for the folder itself), `size` in bytes (0 for all but plain files), `mode`
    as in the header, `link` the path of the earlier member that this is a hard link to, else None. `mtime_ns`,
    `ctime_ns` and `inode` are not in the tar; they show whether a file was modified since it was last read.
    """

    path: bytes
    is_folder: bool
    size: int
    mode: int
    link: bytes | None
    mtime_ns: int
    ctime_ns: int
    inode: int


def absolute(folder: Path | str) -> Path:
    """`folder` as an absolute path whose last part is its name (also for `.` or `a/..`); links are not resolved."""
    return Path(os.path.abspath(folder))


def members(folder: Path | str) -> Iterator[Member]:
    """The members of the folder's tar in the tar's order: each folder before its contents, names in byte order.

    `folder` itself may be a symbolic link; a link inside it is an error. Memory holds one folder's listing per level,
    and the inodes of hard-linked files.
    """
    root = os.fsencode(absolute(folder))
    try:
        status = os.stat(root)
    except FileNotFoundError:
        raise UserError("no such folder", where=folder) from None
    if not stat.S_ISDIR(status.st_mode):
        raise UserError("not a folder", where=folder)
    yield _member(b"", status, None)
    first_names: dict[tuple[int, int], bytes] = {}
    yield from _members_below(root, b"", first_names)


def _members_below(root: bytes, prefix: bytes, first_names: dict[tuple[int, int], bytes]) -> Iterator[Member]:
    with os.scandir(os.path.join(root, prefix) if prefix else root) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        path = prefix + entry.name
        status = entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            yield _member(path, status, None)
            yield from _members_below(root, path + b"/", first_names)
        elif kind == stat.S_IFREG:
            link = None
            if status.st_nlink > 1:
                # GNU tar stores a file once, and its other names inside the tree as links to the first one.
                link = first_names.setdefault((status.st_dev, status.st_ino), path)
            yield _member(path, status, None if link == path else link)
        else:
            what = "a symbolic link" if kind == stat.S_IFLNK else "neither a plain file nor a folder"
            remedy = "replace it by a copy of the file" if kind == stat.S_IFLNK else "remove it"
            raise UserError(f"{what}, which a dataset may not hold", where=display_path(root, path), remedy=remedy)


def _member(path: bytes, status: os.stat_result, link: bytes | None) -> Member:
    is_folder = stat.S_ISDIR(status.st_mode)
    # `--mode=u=rw,go=r,a+X`: files are not executable; for a folder chmod's `=` keeps the set-id bits.
    mode = 0o755 | (status.st_mode & 0o6000) if is_folder else 0o644
    size = 0 if is_folder or link is not None else status.st_size
    return Member(path, is_folder, size, mode, link, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def display_path(root: bytes | Path | str, path: bytes) -> str:
    """The full path of a member, for messages."""
    return os.fsdecode(os.path.join(os.fsencode(root), path))


def padded(size: int) -> int:
    """`size` bytes rounded up to whole tar blocks."""
    return -size % BLOCK + size


def trailing_zeros(bytes_so_far: int) -> int:
    """How many zero bytes end a tar whose members take `bytes_so_far` bytes."""
    return 2 * BLOCK + -(bytes_so_far + 2 * BLOCK) % RECORD


def tree_size(folder: Path | str) -> tuple[int, int]:
    """The number of files in the folder, and the size of its tar in bytes. Reads no file."""
    files = length = 0
    for member in members(folder):
        files += not member.is_folder
        length += BLOCK + padded(member.size)
    return files, length + trailing_zeros(length)


def tar_bytes(folder: Path | str) -> int:
    """The size of the folder's tar in bytes. Reads no file."""
    return tree_size(folder)[1]


def header(name: bytes, member: Member) -> bytes:
    """The 512-byte ustar header that GNU tar writes for a member of the folder called `name`.

    UserError for a name or a file that is too long for ustar.
    """
    full = name + b"/" + member.path
    if member.is_folder and member.path:
        full += b"/"
    prefix, last = _split_name(full)
    link = b"" if member.link is None else name + b"/" + member.link
    if len(link) > NAME_LENGTH:
        raise UserError(
            f"a hard link to a file whose name is longer than the {NAME_LENGTH} bytes that a ustar tar can hold",
            where=os.fsdecode(full),
            remedy="replace it by a copy of the file",
        )
    if member.size > LARGEST_FILE:
        raise UserError("larger than the 8 GiB that a ustar tar can hold", where=os.fsdecode(full))
    kind = b"1" if link else b"5" if member.is_folder else b"0"
    mode, size = b"%07o" % member.mode, b"%011o" % member.size
    # NULs add nothing to the sum and the fixed fields are constant: summing only the rest saves most of the time.
    checksum = b"%06o\0 " % (_SUM_OF_FIXED_FIELDS + sum(last + mode + size + kind + link + prefix))
    return _packed(last, mode, size, checksum, kind, link, prefix)


def _packed(name: bytes, mode: bytes, size: bytes, checksum: bytes, kind: bytes, link: bytes, prefix: bytes) -> bytes:
    """The fields of a ustar header, padded with NULs; owner, time and device are zero."""
    zero = b"0000000"
    return _HEADER.pack(
        name, mode, zero, zero, size, b"00000000000", checksum, kind, link, b"ustar\00000", b"", zero, zero, prefix
    )


_HEADER = struct.Struct("100s 8s 8s 8s 12s 12s 8s s 100s 8s 64s 8s 8s 155s 12x")
"""name, mode, owner, group, size, mtime, checksum, kind, link, magic, owner and group names, device numbers, prefix"""

_SUM_OF_FIXED_FIELDS = sum(_packed(b"", b"", b"", b" " * 8, b"", b"", b""))
"""The checksum field counts as spaces in the sum."""


def _split_name(full: bytes) -> tuple[bytes, bytes]:
    """Prefix and name, split where GNU tar splits them: at the last slash that leaves a prefix of 155 bytes or less."""
    if len(full) <= NAME_LENGTH:
        return b"", full
    where = os.fsdecode(full)
    if len(full) <= PREFIX_LENGTH + NAME_LENGTH + 1:
        end = PREFIX_LENGTH + 1 if len(full) > PREFIX_LENGTH + 1 else len(full.rstrip(b"/"))
        slash = full.rfind(b"/", 1, end)
        if slash > 0 and 0 < len(full) - slash - 1 <= NAME_LENGTH:
            return full[:slash], full[slash + 1 :]
    raise UserError(
        f"the name ({len(full)} bytes with its folders) does not fit into a ustar tar: at most {NAME_LENGTH} bytes, or "
        f"{PREFIX_LENGTH} of folders, a slash and {NAME_LENGTH}",
        where=where,
        remedy="shorten the names",
    )


def file_pieces(root: bytes, member: Member, buffer: bytearray) -> Iterator[memoryview]:
    """Read a plain file's contents through `buffer`; UserError if it is not the file that was listed, or it changes."""
    path = os.path.join(root, member.path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        left = member.size
        view = memoryview(buffer)
        while left > 0 and (count := os.readv(descriptor, [buffer])):
            left -= count
            yield view[:count]
        after = os.fstat(descriptor)
        if left or (after.st_size, after.st_mtime_ns, after.st_ino) != (member.size, member.mtime_ns, member.inode):
            raise UserError(
                "the file changed while it was read",
                where=os.fsdecode(path),
                remedy="start again when nothing writes to the dataset",
            )
    finally:
        os.close(descriptor)


def stream(folder: Path | str) -> Iterator[bytes | memoryview]:
    """The tar in pieces; each piece is valid only until the next one is requested."""
    root = absolute(folder)
    name, path = os.fsencode(root.name), os.fsencode(root)
    buffer = bytearray(READ_BYTES)
    length = 0
    for member in members(root):
        yield header(name, member)
        length += BLOCK + padded(member.size)
        if member.size:
            yield from file_pieces(path, member, buffer)
            yield bytes(-member.size % BLOCK)
    yield bytes(trailing_zeros(length))
