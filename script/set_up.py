"""The work behind script/setup.sh: make the environment in .venv, or mend it; with the standard library alone.

`python3 -m script.set_up [test]`, from the checkout's root, with the Python that the environment is to be made from.
`.venv/setup/` keeps the state of it:

    lock                     held while one set-up works, by its pip too (common/locks.py); its text is who holds it
    unfinished               there while packages are being changed: what an interruption leaves cannot be trusted
    requirements[-test].lock the lock files as installed
    home                     root of the checkout and kind of Python; written last, so it means "finished"
    log                      what pip said

script/setup.sh reads these files itself, and comes here only when something is to be done. A .venv that was not made
here is never changed (script/venv_guard.py).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
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

from common.errors import EXIT_ERROR, EXIT_OK, UserError, run_cli
from common.locks import FileLock
from common.progress import clock
from script.pip_install import (
    ENVIRONMENT_GB,
    OWN_PYTHON,
    PYTHON,
    ROOT,
    RUNTIME_LOCK,
    STATE,
    TEST_LOCK,
    VENV,
    WHEELS_GB,
    disk_full,
    explain,
    install,
    say,
    wheel_folder,
)
from script.venv_guard import refuse_what_is_not_ours

OLDEST_TORCH = (2, 5)
"""The oldest PyTorch that has what reference_model calls, read off the files of its releases on PyPI: torch.serialization's
`safe_globals` (checkpoint_file.py) is in 2.5.0 and not in 2.4.0. Fused SGD and AdamW on a CPU (optim.py) and
torch.OutOfMemoryError (train.py) are in 2.4.0 and not in 2.3.1."""
LASTING_TORCHAUDIO = (2, 11)
"""torchaudio from here on works with later releases of PyTorch too, before with that of its own number alone: torchaudio's
compatibility matrix, https://docs.pytorch.org/audio/2.11.0/installation.html."""
BF16_GRU_TORCH = (2, 11)
"""PyTorch's builds give cuDNN a GRU in bf16 from here on; before, GRUs are computed in fp32 instead."""

_OR_VENV = "or unset PYTHON and the environment is made in .venv"


def main() -> int:
    """Make the environment and print its interpreter's path, or (`--check`) only check the interpreter that runs this."""
    parser = argparse.ArgumentParser(prog="script/setup.sh", allow_abbrev=False)
    parser.add_argument("extras", nargs="?", choices=["test"], help="install the tools of the tests too")
    parser.add_argument("--check", action="store_true", help="install nothing; check that this Python has everything")
    options = parser.parse_args()
    test = options.extras == "test"
    if options.check:
        check_interpreter(test)
        return EXIT_OK
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    make_environment(test)
    print(PYTHON)
    return EXIT_OK


def check_interpreter(test: bool) -> None:
    """Raise UserError if this interpreter lacks a distribution that pyproject.toml names, or if its PyTorch cannot work.

    Warns of a PyTorch other than the pinned one. Nothing is imported.
    """
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
            remedy=f"install {lock} into it, {_OR_VENV}",
        )
    _check_torch()


def _check_torch() -> None:
    """Refuse a torch that is too old, or that its torchaudio cannot be loaded into; warn of versions that are not pinned."""
    lock = (ROOT / RUNTIME_LOCK).read_text(encoding="utf-8")
    pins = {name: version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE)}
    versions = {name: metadata.version(name) or "" for name in ("torch", "torchaudio") if name in pins}
    # A local part, as in 2.11.0+cu130, says how it was built, not which version it is.
    versions = {name: version.partition("+")[0] for name, version in versions.items()}
    releases = {name: _release(version) for name, version in versions.items()}
    torch, torchaudio = releases.get("torch"), releases.get("torchaudio")
    if torch and torch < OLDEST_TORCH:
        raise UserError(
            f"torch {versions['torch']} is too old: the trainer needs {'.'.join(map(str, OLDEST_TORCH))} or newer",
            where=sys.executable,
            remedy=f"install torch and torchaudio as in {RUNTIME_LOCK} into it, {_OR_VENV}",
        )
    if torch and torchaudio and torch != torchaudio and not torch > torchaudio >= LASTING_TORCHAUDIO:
        raise UserError(
            f"torch {versions['torch']} and torchaudio {versions['torchaudio']} do not work together",
            where=sys.executable,
            remedy=f"install torchaudio {'.'.join(map(str, min(torch, LASTING_TORCHAUDIO)))} into it, {_OR_VENV}",
        )
    for name, version in versions.items():
        if version == pins[name]:
            continue
        fp32 = name == "torch" and torch and torch < BF16_GRU_TORCH
        say(
            f"warning: PYTHON has {name} {version or 'of no version'}, not the pinned {pins[name]}: its figures are not comparable "
            "with those of runs made with the pinned one (each run's record names the version)"
            + (
                "; GRUs in bf16 may not run in cuDNN and are then computed in fp32 (the log's gru_dtype says so)"
                if fp32
                else ""
            )
        )


def _release(version: str) -> tuple[int, int] | None:
    """`(2, 11)` of `2.11.0`; None where the version is no such number."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def make_environment(test: bool) -> None:
    """Bring .venv to what the lock files say, whatever state it is in. One set-up works at a time, others wait for it."""
    refuse_what_is_not_ours()
    wheels = wheel_folder()
    try:
        STATE.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise UserError(
                f"the environment cannot be made: {error.strerror}",
                where=VENV,
                remedy=f"make it a folder that can be written, {OWN_PYTHON}",
            ) from error
        raise
    with _full_disk_explained(), _one_at_a_time() as lock:
        if is_right(test):
            return
        started_s = time.monotonic()
        why = _unusable()
        if why:
            say(f"{why}: starting anew")
            _clear()
        (STATE / "home").unlink(missing_ok=True)
        (STATE / TEST_LOCK).unlink(missing_ok=True)
        new = not PYTHON.exists()
        if new:
            _announce(test, wheels)
            (STATE / "unfinished").touch()
            _create(lock)
        else:
            say(f"bringing .venv to what {TEST_LOCK if test else RUNTIME_LOCK} says")
        install(TEST_LOCK if test else RUNTIME_LOCK, lock, wheels)
        for name in [RUNTIME_LOCK, TEST_LOCK] if test else [RUNTIME_LOCK]:
            _write(STATE / name, (ROOT / name).read_bytes())
        _write(STATE / "home", f"{ROOT}\n{_tag(PYTHON)}\n".encode())
        say(f"ready after {clock(time.monotonic() - started_s)}")


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


def _announce(test: bool, wheels: Path | None) -> None:
    free_gb = shutil.disk_usage(VENV).free / 1e9
    needed_gb = ENVIRONMENT_GB + (0 if wheels else WHEELS_GB)
    say(
        f"making the Python environment{' with the test tools' if test else ''} in {VENV}, once: "
        f"{ENVIRONMENT_GB} GB, some minutes (Python {sys.version.split()[0]}{f', wheels from {wheels}' if wheels else ''})"
    )
    if free_gb < needed_gb:
        say(f"warning: {free_gb:.1f} GB are free here, {needed_gb:.1f} GB may be needed on the way")


def _create(lock: int) -> None:
    # Started from an activated .venv, sys.executable lies in what has just been emptied.
    command = [sys._base_executable, "-I", "-m", "venv", str(VENV)]  # type: ignore[attr-defined]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=[lock])
    (STATE / "log").write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        explain(done.stdout.splitlines(), "the virtual environment could not be made")


@contextlib.contextmanager
def _full_disk_explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full() from error
        raise


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[int]:
    """Hold the set-up's lock; yields its descriptor, for children to inherit.

    A pip that outlives a killed set-up keeps the lock until it ends, so nobody clears the folder under its feet.
    """
    path = STATE / "lock"

    def busy() -> None:
        holder = path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
        say(f"another set-up is at work here (process {holder}), waiting for it")

    with FileLock(path, busy) as lock:
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield lock.fd


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is either complete or not there."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def _stop(number: int, frame: FrameType | None) -> None:
    """Ended from outside: leave by way of the `finally` clauses, which take pip along."""
    print(f"error: the set-up was ended by signal {number} - start again, it goes on by itself", file=sys.stderr)
    sys.exit(EXIT_ERROR)


if __name__ == "__main__":
    sys.exit(run_cli(main))
