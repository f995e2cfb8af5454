"""File locks, on file systems with `flock` and on those without."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.errors import UserError
from common.locks import FileLock
from datasets.dataset import is_prepared
from tests.conftest import ROOT
from tests.support import fake_library
from tests.support.harness import Bench, finish

NO_LOCKS = {"Lustre without flock": errno.ENOSYS, "NFS without lockd": errno.ENOLCK, "user space": errno.EOPNOTSUPP}
BUSY = UserError("another process is running", where="here")
HOLD = """
import sys, time
from pathlib import Path
from common.errors import run_cli
from common.locks import FileLock

def main():
    with FileLock(Path(sys.argv[1]), lambda: print("waiting", flush=True)):
        print("held", flush=True)
        sys.stdin.read()
    return 0

sys.exit(run_cli(main))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return fake_library.build("fake_flock.c", tmp_path_factory.mktemp("library") / "flock.so")


@pytest.fixture(params=["with locks", *NO_LOCKS])
def environment(request) -> dict[str, str]:
    """The environment of a process on such a file system."""
    if request.param == "with locks":
        return {}
    library = request.getfixturevalue("library")
    return {"LD_PRELOAD": str(library), "FLOCK_ERRNO": str(NO_LOCKS[request.param])}


@pytest.fixture
def holder(tmp_path, environment):
    """Starts processes that hold the lock on one file until their stdin ends."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
        process = subprocess.Popen(command, env=os.environ | environment, cwd=ROOT, text=True, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_second_process_waits_until_the_first_has_ended(holder):
    first = holder()
    assert first.stdout.readline() == "held\n"
    second = holder()
    assert second.stdout.readline() == "waiting\n"
    first.kill()
    assert second.stdout.readline() == "held\n"
    second.communicate("")
    assert second.returncode == 0


def test_a_file_system_without_locks_is_reported_once(holder, environment, tmp_path):
    process = holder()
    _, printed = process.communicate("")
    assert process.returncode == 0
    lines = printed.splitlines()
    if not environment:
        assert lines == []
        return
    reason = os.strerror(int(environment["FLOCK_ERRNO"]))
    assert len(lines) == 1
    assert lines[0].startswith(f"warning: {tmp_path / 'lock'}: this file system has no locks ({reason}) - ")
    assert "from another machine" in lines[0]


def test_a_lock_that_is_held_raises_the_error_and_can_be_taken_later(tmp_path):
    with FileLock(tmp_path / "lock", BUSY), pytest.raises(UserError, match="another process is running"):
        FileLock(tmp_path / "lock", BUSY)
    FileLock(tmp_path / "lock", BUSY).close()


def test_a_child_that_inherits_the_lock_holds_it_after_its_parent(holder, tmp_path, environment):
    parent = f"""
import os, subprocess, sys
from pathlib import Path
from common.locks import FileLock
lock = FileLock(Path({str(tmp_path / "lock")!r}), lambda: None)
child = subprocess.Popen(["sleep", "300"], pass_fds=[lock.fd], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
os._exit(0)
"""
    command = [sys.executable, "-c", parent]
    child = int(subprocess.check_output(command, env=os.environ | environment, cwd=ROOT, stderr=subprocess.DEVNULL))
    other = holder()
    assert other.stdout.readline() == "waiting\n"
    os.kill(child, signal.SIGKILL)
    assert other.stdout.readline() == "held\n"


def test_a_corpus_is_imported_without_locks(library, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    (tmp_path / "words.txt").write_text("HELLO")
    for split in ("train", "val"):
        soundfile.write(tmp_path / f"{split}.wav", noise, 16000)
        (tmp_path / f"{split}.csv").write_text(f"{split}.wav,words.txt\n")
    out = tmp_path / "data" / "own"
    command = [sys.executable, "-m", "datasets", "import", "--out", str(out), "--processes", "1"]
    command += ["--train", str(tmp_path / "train.csv"), "--val", str(tmp_path / "val.csv")]
    environment = os.environ | {"LD_PRELOAD": str(library), "FLOCK_ERRNO": str(errno.ENOSYS)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("has no locks") == 1
    assert is_prepared(out)


def test_a_running_run_is_not_resumed_without_locks(library, tmp_path):
    bench = Bench(tmp_path)
    environment = {"LD_PRELOAD": str(library), "FLOCK_ERRNO": str(errno.ENOLCK)}
    process = bench.hanging(at=3, env=environment)
    (folder,) = bench.folders()
    refused = bench.run("--resume", str(folder), env=environment)
    assert refused.status == 2 and "this run is still in progress" in refused.last_line
    finish(process, signal.SIGTERM)
    done = bench.run("--resume", str(folder), env=environment)
    assert done.status == 0, done.stderr
    assert done.stderr.count("has no locks") == 1
