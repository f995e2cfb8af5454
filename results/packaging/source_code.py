"""Reads the code that ran from git: the files of the record's commit, as bytes."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

from benchmark.record import CodeVersion
from common.errors import UserError

FILES = (".", ":(exclude)results/published", ":(exclude)tests/data")
"""Git pathspecs of the code: without published results and third-party test data, which has its own licences."""


def code_files(root: Path, code: CodeVersion, *, allow_dirty: bool) -> dict[str, tuple[bytes, bool]]:
    """{path: (content, executable)} of the commit in `code`, from the checkout at `root`; symbolic links are omitted.

    With `allow_dirty` and a modified checkout: the files as they are now, since what ran was never committed.
    """
    if code.clean or not allow_dirty:
        return _archive(root, str(code.commit))
    names = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *FILES).split(b"\0")
    files = {}
    for name in sorted(filter(None, names)):
        path = root / os.fsdecode(name)
        if path.is_file() and not path.is_symlink():
            files[os.fsdecode(name)] = (path.read_bytes(), os.access(path, os.X_OK))
    return files


def _archive(root: Path, commit: str) -> dict[str, tuple[bytes, bool]]:
    data = _git(root, "archive", "--format=tar", commit, "--", *FILES)
    files: dict[str, tuple[bytes, bool]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            if member.isfile():
                content = tar.extractfile(member)
                assert content is not None
                files[member.name] = (content.read(), bool(member.mode & 0o100))
    return files


def _git(root: Path, *arguments: str) -> bytes:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(root), "-c", "safe.directory=*", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
    except FileNotFoundError:
        raise UserError("git is not installed, so the code that ran cannot be packaged", where=root) from None
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise UserError(
            f"git cannot give the code that ran ({lines[-1]})",
            where=root,
            remedy="package from a checkout that has the runs' commit",
        )
    return done.stdout
