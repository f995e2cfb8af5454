"""Create or repair the environment in .venv, for script/setup.sh, with the standard library alone.

Run `python3 -m script.set_up [test]` from the checkout's root, with the Python that the environment is to use.
`.venv/setup/` holds its state:

    lock                     held while a set-up and its pip run (common/locks.py); contains the holder's process id
    unfinished               exists while packages are being changed: an interrupted environment cannot be trusted
    requirements[-test].lock the lock files as installed
    home                     root of the checkout and kind of Python; written last, so it means "finished"
    log                      pip's log

script/setup.sh reads these files itself and starts this module only when there is something to do. A .venv that was
not made by set-up is never changed (script/venv_guard.py).
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

from common.errors import EXIT_OK, UserError, run_cli
from common.locks import FileLock
from common.progress import format_duration
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
    install,
    print_status,
    raise_pip_error,
    wheel_folder,
)
from script.venv_guard import check_ownership

OLDEST_TORCH = (2, 5)
"""The oldest PyTorch with every function that reference_model calls, according to the files of its releases on PyPI:
torch.serialization's `safe_globals` (training_state.py) is in 2.5.0 and not in 2.4.0. Fused SGD and AdamW on a CPU
(optim.py) and torch.OutOfMemoryError (training_run.py) are in 2.4.0 and not in 2.3.1."""
FORWARD_COMPATIBLE_TORCHAUDIO = (2, 11)
"""From this release on, torchaudio also works with later releases of PyTorch; earlier ones need the PyTorch of the same number:
torchaudio's compatibility matrix, https://docs.pytorch.org/audio/2.11.0/installation.html."""
BF16_GRU_TORCH = (2, 11)
"""From this release on, PyTorch's builds run a bf16 GRU in cuDNN; earlier ones compute GRUs in fp32."""

_UNSET_PYTHON = "or unset PYTHON to use an environment in .venv"


def main() -> int:
    """Make the environment and print its interpreter's path; with `--check`, only check the running interpreter."""
    parser = argparse.ArgumentParser(prog="script/setup.sh", allow_abbrev=False)
    parser.add_argument("extras", nargs="?", choices=["test"], help="install the test tools too")
    parser.add_argument(
        "--check", action="store_true", help="install nothing; check that this Python has every package"
    )
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
    """Raise UserError if this interpreter lacks a distribution listed in pyproject.toml, or if its PyTorch is incompatible.

    Warns about a PyTorch other than the pinned one. Imports none of the distributions.
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
            remedy=f"install {lock} into it, {_UNSET_PYTHON}",
        )
    _check_torch()


def _check_torch() -> None:
    """Raise UserError if torch is too old or incompatible with torchaudio; warn about versions that are not pinned."""
    lock = (ROOT / RUNTIME_LOCK).read_text(encoding="utf-8")
    pins = {name: version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE)}
    versions = {name: metadata.version(name) or "" for name in ("torch", "torchaudio") if name in pins}
    # A local version label, as in 2.11.0+cu130, names the build.
    versions = {name: version.partition("+")[0] for name, version in versions.items()}
    releases = {name: _release(version) for name, version in versions.items()}
    torch, torchaudio = releases.get("torch"), releases.get("torchaudio")
    if torch and torch < OLDEST_TORCH:
        raise UserError(
            f"torch {versions['torch']} is too old: the trainer needs {'.'.join(map(str, OLDEST_TORCH))} or newer",
            where=sys.executable,
            remedy=f"install torch and torchaudio as in {RUNTIME_LOCK} into it, {_UNSET_PYTHON}",
        )
    if torch and torchaudio and torch != torchaudio and not torch > torchaudio >= FORWARD_COMPATIBLE_TORCHAUDIO:
        raise UserError(
            f"torch {versions['torch']} and torchaudio {versions['torchaudio']} do not work together",
            where=sys.executable,
            remedy=f"install torchaudio {'.'.join(map(str, min(torch, FORWARD_COMPATIBLE_TORCHAUDIO)))} into it, {_UNSET_PYTHON}",
        )
    for name, version in versions.items():
        if version == pins[name]:
            continue
        fp32 = name == "torch" and torch and torch < BF16_GRU_TORCH
        print_status(
            f"warning: PYTHON has {name} {version or '(unknown version)'}, not the pinned {pins[name]}: its results are "
            "not comparable with runs on the pinned version (each run's record contains the version)"
            + ("; bf16 GRUs may not run in cuDNN and are then computed in fp32 (gru_dtype in the log)" if fp32 else "")
        )


def _release(version: str) -> tuple[int, int] | None:
    """Major and minor number: `2.11.0` gives `(2, 11)`; None if the version does not start with two numbers."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def make_environment(test: bool) -> None:
    """Make .venv match the lock files, whatever state it is in. Only one set-up runs at a time; others wait for it."""
    check_ownership()
    wheels = wheel_folder()
    try:
        STATE.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise UserError(
                f"the environment cannot be made: {error.strerror}",
                where=VENV,
                remedy=f"make it a writable folder, {OWN_PYTHON}",
            ) from error
        raise
    with _convert_disk_full(), _exclusive_lock() as lock:
        if is_up_to_date(test):
            return
        started_s = time.monotonic()
        why = _reason_to_rebuild()
        if why:
            print_status(f"{why}: starting from scratch")
            _clear()
        (STATE / "home").unlink(missing_ok=True)
        (STATE / TEST_LOCK).unlink(missing_ok=True)
        new = not PYTHON.exists()
        if new:
            _announce(test, wheels)
            (STATE / "unfinished").touch()
            _create(lock)
        else:
            print_status(f"updating .venv to {TEST_LOCK if test else RUNTIME_LOCK}")
        install(TEST_LOCK if test else RUNTIME_LOCK, lock, wheels)
        for name in [RUNTIME_LOCK, TEST_LOCK] if test else [RUNTIME_LOCK]:
            _write(STATE / name, (ROOT / name).read_bytes())
        _write(STATE / "home", f"{ROOT}\n{_tag(PYTHON)}\n".encode())
        print_status(f"ready after {format_duration(time.monotonic() - started_s)}")


def is_up_to_date(test: bool) -> bool:
    """Whether .venv is finished, was made in this checkout by the same Python version, and matches the lock files."""
    try:
        home = (STATE / "home").read_text(encoding="utf-8").splitlines()
        names = [RUNTIME_LOCK, TEST_LOCK] if test else [RUNTIME_LOCK]
        same = all((STATE / name).read_bytes() == (ROOT / name).read_bytes() for name in names)
    except FileNotFoundError:
        return False
    return same and not (STATE / "unfinished").exists() and home == [str(ROOT), _tag(PYTHON)]


def _reason_to_rebuild() -> str | None:
    """Why .venv must be rebuilt from scratch; None if it can be updated or does not exist."""
    if (STATE / "unfinished").exists():
        return "an earlier set-up was interrupted"
    if not os.path.lexists(PYTHON):
        return None
    tag = _tag(PYTHON)
    if tag is None or subprocess.run([PYTHON, "-I", "-m", "pip", "--version"], capture_output=True).returncode:
        return "the Python in .venv no longer works"
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
    """Implementation and version of an interpreter, such as `cpython-311`; None if it does not run."""
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
    print_status(
        f"making the Python environment{' with the test tools' if test else ''} in {VENV}, once: "
        f"{ENVIRONMENT_GB} GB, a few minutes (Python {sys.version.split()[0]}{f', wheels from {wheels}' if wheels else ''})"
    )
    if free_gb < needed_gb:
        print_status(f"warning: {free_gb:.1f} GB are free, the set-up may need {needed_gb:.1f} GB")


def _create(lock: int) -> None:
    # If started from an activated .venv, sys.executable is in the folder that was just emptied.
    command = [sys._base_executable, "-I", "-m", "venv", str(VENV)]  # type: ignore[attr-defined]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=[lock])
    (STATE / "log").write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        raise_pip_error(done.stdout, "the virtual environment could not be made")


@contextlib.contextmanager
def _convert_disk_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full() from error
        raise


@contextlib.contextmanager
def _exclusive_lock() -> Iterator[int]:
    """Hold the set-up's lock; yields its descriptor, for children to inherit.

    A pip that outlives a killed set-up keeps the lock until it ends, so no other set-up empties the folder meanwhile.
    """
    path = STATE / "lock"

    def busy() -> None:
        holder = path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
        print_status(f"another set-up is running here (process {holder}), waiting for it")

    with FileLock(path, busy) as lock:
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield lock.fd


def _write(path: Path, data: bytes) -> None:
    """Write a file atomically: it is either complete or absent."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def _stop(number: int, frame: FrameType | None) -> None:
    """Handle a signal: exit through the `finally` clauses, so that pip is terminated too.

    It may interrupt a print, which must not be entered again: the message is left to `run_cli`.
    """
    raise UserError(f"the set-up was stopped by signal {number}", remedy="start it again to continue")


if __name__ == "__main__":
    sys.exit(run_cli(main))
