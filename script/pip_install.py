"""Let pip install a lock file into .venv: show how far it has come, and turn its failures into one line with a remedy."""

from __future__ import annotations

import collections
import contextlib
import os
import platform
import re
import selectors
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from common.errors import UserError, one_line
from common.progress import clock

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STATE = VENV / "setup"
PYTHON = VENV / "bin" / "python"
RUNTIME_LOCK, TEST_LOCK = "requirements.lock", "requirements-test.lock"

# Measured on Linux with the locks of torch 2.11.0: what .venv takes in the end, and the wheels while they are unpacked.
ENVIRONMENT_GB, WHEELS_GB = 5.5, 2.7

PLAIN_INTERVAL_S = 15.0
OWN_PYTHON = "or set PYTHON to an interpreter that has everything"

# What pip says, in the order in which it is to be looked for: the first that fits names the cause.
DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|Errno 28\b|Errno 122\b")
WRONG_HASH = re.compile(r"DO NOT MATCH THE HASHES")
NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Connection(Reset|Refused|)Error|Max retries"
    r"|Temporary failure in name resolution|Network is unreachable|Connection (broken|refused|aborted)|timed out"
)
NO_BUILD = re.compile(r"No matching distribution found for (\S+)")
CHANGED_FILE = re.compile(r"from file://\S*?([^/\s]+\.whl)")


def wheel_folder() -> Path | None:
    """The folder that WHEELS names, from which alone is installed; None where it names none. Raises UserError without wheels."""
    name = os.environ.get("WHEELS")
    if not name:
        return None
    folder = Path(os.path.expanduser(name))
    if not folder.is_dir() or not any(folder.glob("*.whl")):
        raise UserError(
            "WHEELS is not a folder" if not folder.is_dir() else "WHEELS is a folder without wheels (*.whl)",
            where=folder,
            remedy="name the folder that the wheels were fetched into (docs/setup.md), or unset WHEELS to use the network",
        )
    return folder


def install(lock_name: str, lock: int, wheels: Path | None = None) -> None:
    """Let pip install the lock file: every package pinned, hashed and as a wheel, so no package's code is run.

    With `wheels`, from that folder alone. Raises UserError.
    """
    command = [str(PYTHON), "-I", "-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--no-input", "--progress-bar", "off", "--no-warn-script-location", "--disable-pip-version-check"]
    command += ["-r", str(ROOT / lock_name)]
    # A user's settings choose the index, never the place: PIP_USER or PIP_TARGET would put the packages elsewhere.
    elsewhere = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_LOG", "PIP_QUIET", "PIP_VERBOSE", "PIP_DRY_RUN"}
    environment = {key: value for key, value in os.environ.items() if key not in elsewhere}
    if wheels:
        # Nor may they name another source beside the folder.
        command += ["--no-index", "--find-links", str(wheels)]
        environment = {key: value for key, value in environment.items() if not key.startswith("PIP_")}
        environment["PIP_CONFIG_FILE"] = os.devnull
    environment |= {"PIP_USER": "0", "PIP_ROOT_USER_ACTION": "ignore", "PYTHONUNBUFFERED": "1"}
    if "TMPDIR" not in environment:
        # The wheels are gigabytes, and /tmp is often a small disk in memory.
        environment["TMPDIR"] = str(STATE / "tmp")
        (STATE / "tmp").mkdir(exist_ok=True)
    tail: collections.deque[str] = collections.deque(maxlen=200)
    progress = PipProgress("reading" if wheels else "fetching")
    (STATE / "unfinished").touch()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
        pass_fds=[lock],
    )  # fmt: skip
    try:
        with (STATE / "log").open("a", encoding="utf-8") as log:
            for line in _lines(process):
                if line is not None:
                    log.write(line + "\n")
                    tail.append(line)
                progress.update(line)
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        progress.close()
        shutil.rmtree(STATE / "tmp", ignore_errors=True)
    if status == 0 or not progress.installing:
        # Nothing was half done: either all is installed, or pip gave up before it touched a package.
        (STATE / "unfinished").unlink()
    if status:
        if wheels:
            _explain_wheels(list(tail), wheels, lock_name)
        explain(list(tail), f"pip ended with status {status}")


def _lines(process: subprocess.Popen) -> Iterator[str | None]:
    """The lines of the process's output as they come, and None about twice a second while there are none."""
    assert process.stdout is not None
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=0.5):
                yield None
                continue
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            *whole, pending = (pending + chunk).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace").rstrip()
    if pending:
        yield pending.decode("utf-8", "replace").rstrip()


class PipProgress:
    """How far pip has come: one line that redraws itself on a terminal, a plain line now and then anywhere else."""

    def __init__(self, doing: str = "fetching") -> None:
        self.installing = False
        self._doing = doing
        self._fetched, self._fetched_mb, self._total, self._note = 0, 0.0, 0, ""
        self._terminal = sys.stderr.isatty()
        self._started_s = self._shown_s = time.monotonic()

    def update(self, line: str | None) -> None:
        """Take one line of pip's output (None: time has passed) and show the state of things when it is due."""
        if line is not None:
            self._read(line.strip())
        now_s = time.monotonic()
        if now_s - self._shown_s < (0.5 if self._terminal else PLAIN_INTERVAL_S):
            return
        self._shown_s = now_s
        if self.installing:
            packages = next(iter(VENV.glob("lib/python*/site-packages")))
            done = sum(1 for _ in packages.glob("*.dist-info"))
            text = f"installing, {min(done, self._total)} of {self._total} packages, {clock(now_s - self._started_s)}"
        else:
            text = f"{self._doing}, {self._fetched} packages so far ({self._fetched_mb:,.0f} MB)"
            text += f", {clock(now_s - self._started_s)}{self._note}"
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[2K{one_line('set-up: ' + text)[:width]}", end="", file=sys.stderr, flush=True)
        else:
            say(text)

    def _read(self, line: str) -> None:
        if line.startswith("Installing collected packages:"):
            self.installing = True
            self._total = line.count(",") + 1
        elif found := re.match(r"(?:Using cached|Downloading) (\S+?)-.*\(([\d.]+) ([kMG])i?B\)", line):
            self._fetched += 1
            self._fetched_mb += float(found[2]) * {"k": 1e-3, "M": 1.0, "G": 1e3}[found[3]]
            self._note = f", now {found[1]} ({found[2]} {found[3]}B)"
        elif found := re.match(r"Processing (.+\.whl)", line):
            self._fetched += 1
            with contextlib.suppress(OSError):
                self._fetched_mb += Path(found[1]).stat().st_size / 1e6
            self._note = f", now {Path(found[1]).name}"
        elif "Retrying (" in line:
            self._note = ", the package index does not answer, trying again"

    def close(self) -> None:
        """Wipe the terminal's line."""
        if self._terminal:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def _explain_wheels(output: list[str], wheels: Path, lock_name: str) -> None:
    """Raise the UserError that says which wheel of the folder is missing or damaged; return where it is neither."""
    text = "\n".join(output)
    remedy = (
        "on a machine with a network, this kind of processor and this Python: `python3 -m pip download -d FOLDER --no-deps "
        f"--require-hashes --only-binary :all: -r {lock_name}` (docs/setup.md)"
    )
    if mismatch := WRONG_HASH.search(text):
        file = CHANGED_FILE.search(text, mismatch.start())
        raise UserError(
            "a wheel is not the one that the lock file names (its hash differs): it was cut off or changed",
            where=wheels / urllib.parse.unquote(file[1]) if file else wheels,
            remedy=f"remove it and fetch it again, {remedy}",
        )
    if found := NO_BUILD.search(text):
        raise UserError(
            f"there is no wheel of {found[1]} for {_this_python()}", where=wheels, remedy=f"fetch it, {remedy}"
        )


def _this_python() -> str:
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"


def explain(output: list[str], otherwise: str) -> NoReturn:
    """Raise the UserError that says why pip or venv failed, from what it printed."""
    text = "\n".join(output)
    log = STATE / "log"
    if DISK_FULL.search(text):
        raise disk_full()
    if WRONG_HASH.search(text):
        raise UserError(
            "a downloaded package is not the one that the lock file names (its hash differs)",
            where=log,
            remedy="start again; if it stays, the package index or a cache on the way is damaged (`pip cache purge`)",
        )
    if NO_NETWORK.search(text):
        raise UserError(
            "the package index cannot be reached",
            where=log,
            remedy=f"check the network, or name an index that can be reached in PIP_INDEX_URL, and start again; {OWN_PYTHON}",
        )
    if found := NO_BUILD.search(text):
        unreachable = ", or it cannot be reached" if "from versions: none" in text else ""
        raise UserError(
            f"the package index has no {found[1]} for {_this_python()}{unreachable}",
            where=log,
            remedy=f"check the network, use another Python 3.11 to 3.14 or another index (PIP_INDEX_URL), {OWN_PYTHON}",
        )
    errors = [line for line in output if line.startswith("ERROR:")] or [line for line in output if line.strip()]
    raise UserError(
        f"{otherwise}: {errors[-1] if errors else 'no message'}", where=log, remedy=f"see the log, {OWN_PYTHON}"
    )


def disk_full() -> UserError:
    """The error that says how much room there is and how much is needed."""
    free_gb = shutil.disk_usage(VENV).free / 1e9
    return UserError(
        f"the disk is full ({free_gb:.1f} GB free, the set-up needs up to {ENVIRONMENT_GB + WHEELS_GB:.1f} GB)",
        where=VENV,
        remedy="free some space, or move the checkout to a larger disk, and start again",
    )


def say(text: str) -> None:
    """One line on stderr."""
    print(f"set-up: {one_line(text)}", file=sys.stderr, flush=True)
