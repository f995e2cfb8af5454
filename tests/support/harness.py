"""Runs `python -m benchmark run` as its users do, with the fake trainer and a dataset of nine made-up files."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmark.__main__ import main
from benchmark.harness import run, series  # noqa: F401 - imported once here, and not once for each run
from benchmark.mllog import read_log
from benchmark.params import load_variant
from benchmark.record import RunRecord, read_record
from common.errors import run_cli
from datasets.checksums.digest import digest_tree
from datasets.dataset import Dataset, Split, write_description
from datasets.manifest import Manifest, Utterance, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 200.0
"""Longer than any run takes on a busy machine, shorter than pytest's own limit."""

TRAINER = "tests.support.fake_trainer"

EPOCH = ["epoch_start", "epoch_stop", "tracked_stats", "eval_start", "eval_accuracy", "eval_stop"]
"""The keys of one epoch in a log."""


def make_dataset(data_dir: Path, name: str = "tiny", lasting_s: float = 1.0) -> Path:
    """A dataset whose audio files are not audio: complete as long as nothing decodes them.

    By its manifest, its shortest utterances last `lasting_s`.
    """
    folder = data_dir / name
    splits = {}
    for split, count in (("train", 6), ("val", 3)):
        (folder / split).mkdir(parents=True)
        utterances = []
        for number in range(count):
            (folder / split / f"{number}.flac").write_bytes(bytes(100 + number))
            utterances.append(
                Utterance(f"{split}-{number}", f"{split}/{number}.flac", (1 + number) * lasting_s, "HELLO WORLD")
            )
        manifest = Manifest.of(folder, utterances)
        write_jsonl(manifest, folder / f"{name}_{split}_manifest.jsonl")
        splits[split] = Split(
            f"{name}_{split}_manifest.jsonl", f"{name}_{split}_manifest.csv", count, manifest.duration_s, 1
        )
    write_description(Dataset(folder, name, "test", splits, digest_tree(folder, 1), {}))
    return folder


def make_params(path: Path, *, folder: str = "tiny", max_epochs: int = 5, target_wer: float = 23.0) -> Path:
    """A parameter file for that dataset."""
    mini = load_variant("mini")
    params = replace(
        mini,
        variant="tiny",
        data=replace(mini.data, folder=folder),
        train=replace(mini.train, max_epochs=max_epochs, target_wer=target_wer),
    )
    path.write_text(params.dump())
    return path


class Bench:
    """One checkout's worth of a user's files: DATA_DIR, RESULTS_DIR and a parameter file, all under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_dataset(folder / "data")
        self.params = make_params(folder / "tiny.yaml")
        self.environment = {
            "DATA_DIR": str(folder / "data"),
            "RESULTS_DIR": str(folder / "runs"),
            "DROP_CACHES": "0",
            "DEVICE": "cpu",
            "SEED": "7",
            "PYTHONPATH": str(ROOT),
        }

    def start(
        self,
        *arguments: str,
        plan: dict | None = None,
        trainer: str | None = TRAINER,
        new_interpreter: bool = False,
        **options,
    ) -> subprocess.Popen[bytes]:
        """Start `python -m benchmark run` with a trainer module (None: without the option).

        `plan` is the fake trainer's. Options go to Popen; `env` adds to the environment. `new_interpreter`: what the
        test is about happens while Python starts; otherwise the process is forked from this one, which saves its
        imports.
        """
        added = options.pop("env", {})
        environment = os.environ | self.environment | {"FAKE_TRAINER": json.dumps(plan or {})} | added
        command = [*(arguments or ("--params", str(self.params)))] + (["--trainer-module", trainer] if trainer else [])
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        if new_interpreter or any(name.startswith("LD_") for name in added):
            command = [sys.executable, "-m", "benchmark", "run", *command]
            return subprocess.Popen(command, env=environment, cwd=self.folder, **options)
        return fork(lambda: main(["run", *command]), environment, cwd=self.folder, **options)

    def run(self, *arguments: str, plan: dict | None = None, **options) -> Finished:
        """Start a run and wait for its end."""
        process = self.start(*arguments, plan=plan, **options)
        stdout, stderr = process.communicate(timeout=WAIT_S)
        return Finished(process.returncode, (stdout or b"").decode(), (stderr or b"").decode())

    def hanging(self, fault: str = "hang", at: int = 2, **options) -> subprocess.Popen[bytes]:
        """Start a run whose trainer hangs in epoch `at`, and wait until it does."""
        self.pids, ready = self.folder / "pids", self.folder / "ready"
        ready.unlink(missing_ok=True)
        self.pids.unlink(missing_ok=True)
        plan = {"fault": fault, "at": at, "pids": str(self.pids), "ready": str(ready)}
        process = self.start(plan=plan, **options)
        wait_for(lambda: ready.exists() or process.poll() is not None)
        assert ready.exists(), process.communicate()
        return process

    def folders(self) -> list[Path]:
        """The run folders, by name."""
        return sorted(self.folder.glob("runs/*/*"))

    def record(self) -> RunRecord:
        """The record of the only run."""
        (folder,) = self.folders()
        return read_record(folder)

    def log(self) -> str:
        """The log of the only run."""
        (folder,) = self.folders()
        return (folder / "result.txt").read_text()

    def none_left(self) -> bool:
        """Whether every process that wrote its id into `pids` is gone."""
        return not any(alive(int(pid)) for pid in self.pids.read_text().split())


def fork(
    command: Callable[[], int],
    environment: dict[str, str],
    preexec_fn: Callable[[], object] = lambda: None,
    **options,
) -> subprocess.Popen[bytes]:
    """A child of this process that calls `command` as `python -m` would, without the start of an interpreter.

    Results that functions cached in this process (`functools.cache`, module globals) are inherited by the child.
    Popen makes the pipes and forks; `child` then stays in its `preexec_fn` until it exits, so nothing is ever executed.
    """

    def child() -> None:
        status = 1
        try:
            gc.freeze()  # No file object of the parent's is collected: its descriptor may be another one's by then.
            os.closerange(3, 1 << 12)
            for number, handler in {
                signal.SIGINT: signal.default_int_handler,
                signal.SIGTERM: signal.SIG_DFL,
                signal.SIGHUP: signal.SIG_DFL,
                signal.SIGPIPE: signal.SIG_IGN,
                signal.SIGXFSZ: signal.SIG_IGN,
            }.items():
                signal.signal(number, handler)
            os.environ.clear()
            os.environ.update(environment)
            sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
            sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
            preexec_fn()
            status = run_cli(command)
        except SystemExit as error:
            if isinstance(error.code, int):
                status = error.code
            elif error.code is None:
                status = 0
            else:
                print(error.code, file=sys.stderr)  # As Python does; the status stays 1.
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            if "coverage" in sys.modules and (measured := sys.modules["coverage"].Coverage.current()):
                measured.save()
            os._exit(status)

    return subprocess.Popen([sys.executable], preexec_fn=child, **options)


class Finished:
    """How a command ended."""

    def __init__(self, status: int, stdout: str, stderr: str) -> None:
        self.status, self.stdout, self.stderr = status, stdout, stderr

    @property
    def last_line(self) -> str:
        """The last line on stderr."""
        return self.stderr.rstrip("\n").rpartition("\n")[2]


def finish(process: subprocess.Popen[bytes], number: int | None = None) -> Finished:
    """Send a signal (None: none) and wait for the end."""
    if number is not None:
        process.send_signal(signal.Signals(number))
    stdout, stderr = process.communicate(timeout=WAIT_S)
    return Finished(process.returncode, (stdout or b"").decode(), (stderr or b"").decode())


def wait_for(holds, timeout_s: float = WAIT_S) -> None:
    """Wait until `holds()`; fail where it never does."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "the condition never became true"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def members(group: int) -> list[int]:
    """The processes of a process group that still run: a container's first process may never collect its zombies."""
    return [pid for pid in psutil.pids() if alive(pid) and _group_of(pid) == group]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """Mount a file system of `size`, for a test that is marked `root`; skips if even root may not mount."""
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        reason = mounted.stderr.decode(errors="replace").partition("\n")[0]
        pytest.skip(f"needs the right to mount a file system: {reason}")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def keys(log: str) -> list[str]:
    """The keys of a log's lines, in order; every line must be a log line."""
    return [json.loads(line.removeprefix(":::MLLOG "))["key"] for line in log.splitlines()]


def ends_aborted(bench: Bench) -> str:
    """Whether the log ends with an aborted run_stop; the reason it gives."""
    events, bad = read_log(bench.folders()[0] / "result.txt")
    assert not bad
    by_key = {event.key: event for event in events}
    assert by_key["run_stop"].metadata["status"] == "aborted"
    assert [event.key for event in events].count("run_stop") == 1
    return by_key["run_aborted_reason"].value
