"""Refuse a .venv that set-up did not make, or through which it would change files elsewhere.

Set-up empties and overwrites .venv. Through a link (to another checkout's environment, to a larger disk), a mount or
another user's folder it would destroy files that do not belong to this checkout.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import NoReturn

from common.errors import UserError
from script.pip_install import ROOT, STATE, VENV

MOUNTS = Path("/proc/self/mountinfo")


def check_ownership() -> None:
    """Raise UserError unless .venv is absent or a folder that set-up may change. Changes nothing."""
    if VENV.is_symlink():
        target = os.path.realpath(VENV)
        _refuse(f"is a link to {target}, and set-up does not follow links", "remove the link", target)
    if not VENV.is_dir():
        return
    _refuse_another_users()
    _refuse_other_origins()
    _refuse_links_and_mounts_inside()


def _refuse(what: str, remedy: str, environment: object = VENV) -> NoReturn:
    raise UserError(
        f".venv {what}",
        where=VENV,
        remedy=f"{remedy} and start again, or set PYTHON={environment}/bin/python to use that environment as it is",
    )


def _refuse_another_users() -> None:
    owner = VENV.stat().st_uid
    if owner == os.geteuid():
        return
    # Some file systems show the same owner for every file: compare with the owner of a new file.
    try:
        with tempfile.TemporaryFile(dir=ROOT) as probe:
            own = os.fstat(probe.fileno()).st_uid
    except OSError:
        own = None
    if owner != own:
        _refuse(f"belongs to another user (uid {owner})", "start as that user, or move it away")


def _refuse_other_origins() -> None:
    """set-up writes its lock before anything else; and another checkout's environment may be mounted here."""
    if not (STATE / "lock").exists() and any(entry != STATE for entry in VENV.iterdir()):
        _refuse("was not made by set-up", "move it away")
    try:
        home = (STATE / "home").read_text(encoding="utf-8").partition("\n")[0]
        shared = home != str(ROOT) and VENV.samefile(Path(home) / VENV.name)
    except OSError:
        return
    if shared:
        _refuse(f"is the environment of the checkout {home}", "unmount it", Path(home) / VENV.name)


def _refuse_links_and_mounts_inside() -> None:
    """pip follows links to folders. It replaces links to files, but set-up writes through those in .venv and .venv/setup."""
    for folder, folders, files in os.walk(VENV):
        for name in folders + (files if Path(folder) in (VENV, STATE) else []):
            entry = os.path.join(folder, name)
            if os.path.islink(entry) and not Path(os.path.realpath(entry)).is_relative_to(VENV):
                _refuse(f"contains a link to a place outside it ({os.path.relpath(entry, VENV)})", "move .venv away")
    for mount in _mounts():
        if VENV in mount.parents:
            _refuse(f"contains a mount ({mount.relative_to(VENV)})", "unmount it")


def _mounts() -> list[Path]:
    """All mount points: the fifth field of each line, in which spaces and the like are octal escapes."""
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    fields = [line.split()[4] for line in lines]
    return [
        Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), field))) for field in fields
    ]
