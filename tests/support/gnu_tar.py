"""A folder's normalised tar as written by GNU tar up to 1.34, with which the published checksums were made."""

from __future__ import annotations

import subprocess
from pathlib import Path

TAR = ["tar", "--sort=name", "--format=ustar", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]
TAR += ["--mode=u=rw,go=r,a+X", "-cf", "-"]
BLOCK = 512
ZEROS = b"0000000\0"


def gnu_tar(folder: Path) -> bytes:
    """The tar of `folder` by this machine's GNU tar."""
    return as_gnu_tar_1_34(
        subprocess.run([*TAR, folder.name], cwd=folder.parent, check=True, capture_output=True).stdout
    )


def as_gnu_tar_1_34(made: bytes) -> bytes:
    """A tar with the device number fields filled, which GNU tar 1.35 and later leave empty."""
    tar, position = bytearray(made), 0
    while any(tar[position : position + BLOCK]):
        header = tar[position : position + BLOCK]
        if not any(header[329:345]):  # devmajor, devminor
            header[329:345] = ZEROS * 2
            header[148:156] = b" " * 8  # the checksum field counts as spaces
            header[148:156] = b"%06o\0 " % sum(header)
            tar[position : position + BLOCK] = header
        size = int(header[124:135], 8)
        position += BLOCK * (1 + -(-size // BLOCK))
    return bytes(tar)


def gnu_cksum(folder: Path) -> tuple[int, int]:
    """The checksum and size in bytes that `cksum` prints for that tar."""
    done = subprocess.run(["cksum"], input=gnu_tar(folder), check=True, capture_output=True)
    crc, length = done.stdout.split()
    return int(crc), int(length)
