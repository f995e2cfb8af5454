"""Writes a dataset's normalised tar to a file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from common.errors import UserError, one_line
from common.progress import Progress
from datasets.checksums.posix_cksum import crc_of, posix_cksum
from datasets.checksums.tarball import absolute, stream
from datasets.dataset import TreeDigest

MEGABYTE = 1_000_000


def check_target(folder: Path, path: Path) -> None:
    """Raise UserError if a tar of `folder` cannot be written to `path`, before hours of reading."""
    target = absolute(path)
    if folder in target.parents:
        raise UserError("the tar cannot be in the folder that it contains", where=path, remedy="choose another place")
    if not target.parent.is_dir():
        raise UserError("no such folder", where=target.parent, remedy="create it, or choose another place for the tar")


def write_tarball(folder: Path, path: Path, digest: TreeDigest) -> None:
    """Write the tar of `folder`, which has `digest`, to `path`; UserError if there is too little disk space."""
    target = absolute(path)
    free = shutil.disk_usage(target.parent).free
    if free < digest.tar_bytes:
        raise UserError(
            f"the tar has {digest.tar_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            where=target.parent,
            remedy="choose another place",
        )
    part = target.with_name(target.name + ".part")
    crc, length = 0xFFFFFFFF, 0
    try:
        with (
            open(part, "wb", buffering=0) as file,
            Progress(f"writing {target.name}", -(-digest.tar_bytes // MEGABYTE), "MB") as bar,
        ):
            for piece in stream(folder):
                view = memoryview(piece)
                crc, length = crc_of(view, crc), length + len(view)
                while view:
                    view = view[file.write(view) :]
                bar.update(-(-length // MEGABYTE))
            os.fsync(file.fileno())
        if (posix_cksum(crc, length), length) != (digest.tar_cksum, digest.tar_bytes):
            raise UserError("the dataset changed while the tar was written", where=folder, remedy="start again")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    print(f"wrote   {one_line(str(target))}")
