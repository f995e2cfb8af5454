"""The work behind script/setup.sh: make the environment in .venv, or mend it; with the standard library alone.

`python3 -m script.set_up [test]`, from the checkout's root, with the Python that the environment is to be made from.
`.venv/setup/` keeps the state of it:

    lock                     held (flock) while one set-up works, by its pip too; never stale, the system frees it
    unfinished               there while packages are being changed: what an interruption leaves cannot be trusted
    requirements[-test].lock the lock files as installed
    home                     root of the checkout and kind of Python; written last, so it means "finished"
    log                      what pip said

script/setup.sh reads these files itself, and comes here only when something is to be done.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import fcntl
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import FrameType

from datasets.errors import COULD_NOT, HELD, UserError, one_line, run_door
from datasets.progress import clock

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STATE = VENV / "setup"
PYTHON = VENV / "bin" / "python"
RUNTIME_LOCK, TEST_LOCK = "requirements.lock", "requirements-test.lock"

# Measured on Linux with the locks of torch 2.11.0: what .venv takes in the end, and the wheels while they are unpacked.
ENVIRONMENT_GB, WHEELS_GB = 5.6, 2.9

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


def main() -> int:
    """Make the environment and print its interpreter's path, or (`--check`) only check the interpreter that runs this."""
    parser = argparse.ArgumentParser(prog="script/setup.sh", allow_abbrev=False)
    parser.add_argument("extras", nargs="?", choices=["test"], help="install the tools of the tests too")
    parser.add_argument("--check", action="store_true", help="install nothing; check that this Python has everything")
    options = parser.parse_args()
    test = options.extras == "test"
    if options.check:
        check_interpreter(test)
        return HELD
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    make_environment(test)
    print(PYTHON)
    return HELD


def check_interpreter(test: bool) -> None:
    """Raise UserError if this interpreter lacks a distribution that pyproject.toml names. Nothing is imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + (project["optional-dependencies"]["test"] if test else [])
    missing = []
    for requirement in wanted:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        lock = TEST_LOCK if test else RUNTIME_LOCK
        raise UserError(
            f"PYTHON lacks {', '.join(missing)}",
            where=sys.executable,
            remedy=f"install {lock} into it, or unset PYTHON and the environment is made in .venv",
        )


def make_environment(test: bool) -> None:
    """Bring .venv to what the lock files say, whatever state it is in. One set-up works at a time, others wait for it."""
    try:
        STATE.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(
                f"the environment cannot be made: {error.strerror}",
                where=VENV,
                remedy=f"make the checkout writable once, {OWN_PYTHON}",
            ) from error
        raise
    with _full_disk_explained(), _one_at_a_time() as lock:
        if is_right(test):
            return
        started_s = time.monotonic()
        why = _unusable()
        if why:
            _say(f"{why}: starting anew")
            _clear()
        (STATE / "home").unlink(missing_ok=True)
        (STATE / TEST_LOCK).unlink(missing_ok=True)
        new = not PYTHON.exists()
        if new:
            _announce(test)
            (STATE / "unfinished").touch()
            _create(lock)
        else:
            _say(f"bringing .venv to what {TEST_LOCK if test else RUNTIME_LOCK} says")
        _install(TEST_LOCK if test else RUNTIME_LOCK, lock)
        for name in [RUNTIME_LOCK, TEST_LOCK] if test else [RUNTIME_LOCK]:
            _write(STATE / name, (ROOT / name).read_bytes())
        _write(STATE / "home", f"{ROOT}\n{_tag(PYTHON)}\n".encode())
        _say(f"ready after {clock(time.monotonic() - started_s)}")


def is_right(test: bool) -> bool:
    """Whether .venv is finished, was made here by the same kind of Python, and holds what the lock files say."""
    try:
        home = (STATE / "home").read_text(encoding="utf-8").splitlines()
        names = [RUNTIME_LOCK, TEST_LOCK] if test else [RUNTIME_LOCK]
        same = all((STATE / name).read_bytes() == (ROOT / name).read_bytes() for name in names)
    except FileNotFoundError:
        return False
    return same and not (STATE / "unfinished").exists() and home == [str(ROOT), _tag(PYTHON)]


def _unusable() -> str | None:
    """Why what lies in .venv must not be built upon, or None if it may (or nothing is there)."""
    if (STATE / "unfinished").exists():
        return "an earlier set-up was interrupted"
    if not os.path.lexists(PYTHON):
        return None
    tag = _tag(PYTHON)
    if tag is None or subprocess.run([PYTHON, "-I", "-m", "pip", "--version"], capture_output=True).returncode:
        return "the Python in .venv does not work any more"
    try:
        home = (STATE / "home").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    if home[0] != str(ROOT):
        return f"the checkout has moved (.venv was made in {home[0]})"
    if home[1:] != [tag]:
        return f"Python has changed ({', '.join(home[1:])} to {tag})"
    return None


def _tag(python: Path) -> str | None:
    """The kind of Python, such as `cpython-311`; None if the interpreter does not run."""
    command = [str(python), "-I", "-S", "-c", "import sys; print(sys.implementation.cache_tag)"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _clear() -> None:
    """Remove everything in .venv but the set-up's own state."""
    for entry in VENV.iterdir():
        if entry == STATE:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    shutil.rmtree(STATE / "tmp", ignore_errors=True)
    (STATE / "unfinished").unlink(missing_ok=True)


def _announce(test: bool) -> None:
    free_gb = shutil.disk_usage(VENV).free / 1e9
    _say(
        f"making the Python environment{' with the test tools' if test else ''} in {VENV}, once: "
        f"{ENVIRONMENT_GB} GB, some minutes (Python {sys.version.split()[0]})"
    )
    if free_gb < ENVIRONMENT_GB + WHEELS_GB:
        _say(f"warning: {free_gb:.1f} GB are free here, {ENVIRONMENT_GB + WHEELS_GB:.1f} GB may be needed on the way")


def _create(lock: int) -> None:
    command = [sys.executable, "-I", "-m", "venv", str(VENV)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=[lock])
    (STATE / "log").write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        _explain(done.stdout.splitlines(), "the virtual environment could not be made")


def _install(lock_name: str, lock: int) -> None:
    """Let pip install the lock file: every package pinned, hashed and as a wheel, so no package's code is run."""
    command = [str(PYTHON), "-I", "-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--no-input", "--progress-bar", "off", "--no-warn-script-location", "--disable-pip-version-check"]
    command += ["-r", str(ROOT / lock_name)]
    # A user's settings choose the index, never the place: PIP_USER or PIP_TARGET would put the packages elsewhere.
    elsewhere = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_LOG", "PIP_QUIET", "PIP_VERBOSE", "PIP_DRY_RUN"}
    environment = {key: value for key, value in os.environ.items() if key not in elsewhere}
    environment |= {"PIP_USER": "0", "PIP_ROOT_USER_ACTION": "ignore", "PYTHONUNBUFFERED": "1"}
    if "TMPDIR" not in environment:
        # The wheels are gigabytes, and /tmp is often a small disk in memory.
        environment["TMPDIR"] = str(STATE / "tmp")
        (STATE / "tmp").mkdir(exist_ok=True)
    tail: collections.deque[str] = collections.deque(maxlen=200)
    progress = PipProgress()
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
        _explain(list(tail), f"pip ended with status {status}")


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

    def __init__(self) -> None:
        self.installing = False
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
            text = f"fetching, {self._fetched} packages so far ({self._fetched_mb:,.0f} MB)"
            text += f", {clock(now_s - self._started_s)}{self._note}"
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[2K{one_line('set-up: ' + text)[:width]}", end="", file=sys.stderr, flush=True)
        else:
            _say(text)

    def _read(self, line: str) -> None:
        if line.startswith("Installing collected packages:"):
            self.installing = True
            self._total = line.count(",") + 1
        elif found := re.match(r"(?:Using cached|Downloading) (\S+?)-.*\(([\d.]+) ([kMG])i?B\)", line):
            self._fetched += 1
            self._fetched_mb += float(found[2]) * {"k": 1e-3, "M": 1.0, "G": 1e3}[found[3]]
            self._note = f", now {found[1]} ({found[2]} {found[3]}B)"
        elif "Retrying (" in line:
            self._note = ", the package index does not answer, trying again"

    def close(self) -> None:
        """Wipe the terminal's line."""
        if self._terminal:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def _explain(output: list[str], otherwise: str) -> None:
    """Raise the UserError that says why pip or venv failed, from what it printed."""
    text = "\n".join(output)
    log = STATE / "log"
    if DISK_FULL.search(text):
        raise _disk_full()
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
        version = ".".join(map(str, sys.version_info[:2]))
        raise UserError(
            f"the package index has no {found[1]} for Python {version} on {sys.platform}",
            where=log,
            remedy=f"use another Python 3.11 to 3.14 or another index (PIP_INDEX_URL), {OWN_PYTHON}",
        )
    errors = [line for line in output if line.startswith("ERROR:")] or [line for line in output if line.strip()]
    raise UserError(
        f"{otherwise}: {errors[-1] if errors else 'no message'}", where=log, remedy=f"see the log, {OWN_PYTHON}"
    )


def _disk_full() -> UserError:
    free_gb = shutil.disk_usage(VENV).free / 1e9
    return UserError(
        f"the disk is full ({free_gb:.1f} GB free, the set-up needs up to {ENVIRONMENT_GB + WHEELS_GB:.1f} GB)",
        where=VENV,
        remedy="free some space, or move the checkout to a larger disk, and start again",
    )


@contextlib.contextmanager
def _full_disk_explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full() from error
        raise


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[int]:
    """Hold the set-up's lock; yields its descriptor, for children to inherit.

    A pip that outlives a killed set-up keeps the lock until it ends, so nobody clears the folder under its feet.
    """
    with (STATE / "lock").open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            _say(f"another set-up is at work here (process {lock.read().strip() or 'unknown'}), waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EBADF):
                raise
            _say("warning: this file system has no locks; do not start two set-ups at once")
        lock.truncate(0)
        print(os.getpid(), file=lock, flush=True)
        yield lock.fileno()


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is either complete or not there."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def _say(text: str) -> None:
    print(f"set-up: {one_line(text)}", file=sys.stderr, flush=True)


def _stop(number: int, frame: FrameType | None) -> None:
    """Ended from outside: leave by way of the `finally` clauses, which take pip along."""
    print(f"error: the set-up was ended by signal {number} - start again, it goes on by itself", file=sys.stderr)
    sys.exit(COULD_NOT)


if __name__ == "__main__":
    sys.exit(run_door(main))
