"""Install a lock file into .venv with pip, and turn pip's failures into one line with a remedy."""

from __future__ import annotations

import collections
import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from common import progress
from common.errors import UserError, one_line

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STATE = VENV / "setup"
PYTHON = VENV / "bin" / "python"
RUNTIME_LOCK, TEST_LOCK = "requirements.lock", "requirements-test.lock"

# Measured on Linux with the locks of torch 2.11.0: the finished .venv, and the wheels while they are unpacked.
ENVIRONMENT_GB, WHEELS_GB = 5.5, 2.7

OWN_PYTHON = "or set PYTHON to an interpreter that has every package"

# Patterns in pip's errors and warnings. raise_pip_error tries them in this order; the first match is the cause.
DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|Errno 28\b|Errno 122\b")
WRONG_HASH = re.compile(r"DO NOT MATCH THE HASHES")
NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Connection(Reset|Refused|)Error|Max retries"
    r"|Temporary failure in name resolution|Network is unreachable|Connection (broken|refused|aborted)|timed out"
)
NO_WHEEL = re.compile(r"No matching distribution found for (\S+)")
CHANGED_FILE = re.compile(r"from file://\S*?([^/\s]+\.whl)")
RETRY = re.compile(r"Retrying \(")


def wheel_folder() -> Path | None:
    """The folder named by WHEELS, which becomes the only source of packages; None without it. Raises UserError without wheels."""
    name = os.environ.get("WHEELS")
    if not name:
        return None
    folder = Path(os.path.expanduser(name))
    if not folder.is_dir() or not any(folder.glob("*.whl")):
        raise UserError(
            "WHEELS is not a folder" if not folder.is_dir() else "WHEELS is a folder without wheels (*.whl)",
            where=folder,
            remedy="name the folder with the downloaded wheels (docs/setup.md), or unset WHEELS to use the network",
        )
    return folder


def install(lock_name: str, lock: int, wheels: Path | None = None) -> None:
    """Run pip on the lock file: every package is pinned, hashed and a wheel, so no package's own build code runs.

    pip's progress goes to stderr, its errors and warnings only to the log. `lock` is the descriptor of the set-up's lock, which pip
    inherits. With `wheels`, that folder is the only source. Raises UserError.
    """
    log = STATE / "log"
    log.unlink(missing_ok=True)
    command = [str(PYTHON), "-I", "-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--no-input", "--no-warn-script-location", "--disable-pip-version-check", "--log", str(log)]
    command += ["--progress-bar", "on" if sys.stderr.isatty() else "off", "-r", str(ROOT / lock_name)]
    # The user's settings may choose the index but not the destination: PIP_USER or PIP_TARGET would install elsewhere.
    ignored = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_LOG", "PIP_QUIET", "PIP_VERBOSE", "PIP_DRY_RUN"}
    environment = {key: value for key, value in os.environ.items() if key not in ignored}
    if wheels:
        # Nor may they name a source other than the folder.
        command += ["--no-index", "--find-links", str(wheels)]
        environment = {key: value for key, value in environment.items() if not key.startswith("PIP_")}
        environment["PIP_CONFIG_FILE"] = os.devnull
    environment |= {"PIP_USER": "0", "PIP_ROOT_USER_ACTION": "ignore", "PYTHONUNBUFFERED": "1"}
    if "TMPDIR" not in environment:
        # The wheels are gigabytes, and /tmp is often a small disk in memory.
        environment["TMPDIR"] = str(STATE / "tmp")
        (STATE / "tmp").mkdir(exist_ok=True)
    before = _installed()
    (STATE / "unfinished").touch()
    # stdout is reserved for the interpreter's path.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, errors="replace",
        env=environment, pass_fds=[lock],
    )  # fmt: skip
    try:
        assert process.stderr is not None
        errors = _read_errors(process.stderr)
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        shutil.rmtree(STATE / "tmp", ignore_errors=True)
    if status == 0 or _installed() == before:
        # Either everything is installed, or pip failed before it changed a package.
        (STATE / "unfinished").unlink()
    if status:
        if wheels:
            _raise_wheel_error(errors, wheels, lock_name)
        raise_pip_error(errors, f"pip failed with exit status {status}")


def _read_errors(lines: Iterable[str]) -> str:
    """The last 200 lines of pip's stderr, read as they come: the first retry is reported at once, since retries take minutes."""
    tail: collections.deque[str] = collections.deque(maxlen=200)
    retried = False
    for line in lines:
        tail.append(line)
        if not retried and RETRY.search(line):
            retried = True
            print_status("the package index does not answer, trying again")
    return "".join(tail)


def _installed() -> set[tuple[str, int]]:
    """Name and time of change of everything in site-packages."""
    return {(entry.name, entry.lstat().st_mtime_ns) for entry in VENV.glob("lib/python*/site-packages/*")}


def _raise_wheel_error(errors: str, wheels: Path, lock_name: str) -> None:
    """Raise the UserError that names the missing or damaged wheel of the folder; return if the cause is another one."""
    remedy = (
        "on a machine with a network, this processor architecture and this Python: `python3 -m pip download -d FOLDER "
        f"--no-deps --require-hashes --only-binary :all: -r {lock_name}` (docs/setup.md)"
    )
    if mismatch := WRONG_HASH.search(errors):
        file = CHANGED_FILE.search(errors, mismatch.start())
        raise UserError(
            "the hash of a wheel differs from the lock file: the wheel is truncated or changed",
            where=wheels / urllib.parse.unquote(file[1]) if file else wheels,
            remedy=f"delete it and download it again, {remedy}",
        )
    if found := NO_WHEEL.search(errors):
        raise UserError(
            f"there is no wheel of {found[1]} for {_this_python()}", where=wheels, remedy=f"download it, {remedy}"
        )


def _this_python() -> str:
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"


def raise_pip_error(errors: str, otherwise: str) -> NoReturn:
    """Raise the UserError that names why pip or venv failed, from its error output; `otherwise` if no cause is recognised."""
    log = STATE / "log"
    if DISK_FULL.search(errors):
        raise disk_full()
    if WRONG_HASH.search(errors):
        raise UserError(
            "the hash of a downloaded package differs from the lock file",
            where=log,
            remedy="start again; if it persists, the package index or a cache is damaged (`pip cache purge`)",
        )
    if NO_NETWORK.search(errors):
        raise UserError(
            "the package index cannot be reached",
            where=log,
            remedy=f"check the network, or name a reachable index in PIP_INDEX_URL, and start again; {OWN_PYTHON}",
        )
    if found := NO_WHEEL.search(errors):
        unreachable = ", or it cannot be reached" if "from versions: none" in errors else ""
        raise UserError(
            f"the package index has no {found[1]} for {_this_python()}{unreachable}",
            where=log,
            remedy=f"check the network, use another Python 3.11 to 3.14 or another index (PIP_INDEX_URL), {OWN_PYTHON}",
        )
    lines = [line for line in errors.splitlines() if line.strip()]
    lines = [line for line in lines if line.startswith("ERROR:")] or lines
    raise UserError(
        f"{otherwise}: {lines[-1] if lines else 'no message'}", where=log, remedy=f"read the log, {OWN_PYTHON}"
    )


def disk_full() -> UserError:
    """The error that reports how much disk space is free and how much the set-up needs."""
    free_gb = shutil.disk_usage(VENV).free / 1e9
    return UserError(
        f"the disk is full ({free_gb:.1f} GB free, the set-up needs up to {ENVIRONMENT_GB + WHEELS_GB:.1f} GB)",
        where=VENV,
        remedy="free some space, or move the checkout to a larger disk, and start again",
    )


def print_status(text: str) -> None:
    """Print `text` on stderr as one line of the set-up."""
    progress.print_status(f"set-up: {one_line(text)}")
