"""Runs the trainer on a tiny corpus: in this process, or in processes that need not import torch again.

Importing torch takes seconds. Processes are therefore forked by a server (multiprocessing's forkserver) that imports it
once; they run the command's `__main__` block like `python -m reference_model.train` does.
"""

from __future__ import annotations

import contextlib
import functools
import io
import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmark import mllog
from common.errors import run_cli
from reference_model import train as command
from tests.conftest import ROOT
from tests.support.corpus import tiny_params
from tests.support.harness import WAIT_S


@dataclass
class Finished:
    """How a training ended: exit status, log events, stderr. Nothing but log lines may be on stdout."""

    status: int | None
    stdout: str
    stderr: str

    @property
    def events(self) -> list[mllog.Event]:
        events = [mllog.parse_line(line.encode()) for line in self.stdout.splitlines()]
        assert all(isinstance(event, mllog.Event) for event in events), self.stdout
        return events  # type: ignore[return-value]

    @property
    def keys(self) -> list[str]:
        return [event.key for event in self.events]

    def values(self, key: str) -> list:
        return [event.value for event in self.events if event.key == key]

    @property
    def losses(self) -> list[float]:
        return [stats["train_loss"] for stats in self.values(mllog.TRACKED_STATS)]


def arguments(corpus: Path, run_dir: Path, *options: str, seed: int = 1, **changes: object) -> list[str]:
    """The trainer's command line for tiny_params with `changes`, which are written to `run_dir`."""
    run_dir.mkdir(parents=True, exist_ok=True)
    tiny_params(run_dir / "params.yaml", **changes)
    line = ["--params", run_dir / "params.yaml", "--data", corpus, "--run-dir", run_dir, "--seed", seed]
    return [*map(str, line), "--device", "cpu", *options]


@contextlib.contextmanager
def training_in_process() -> Iterator[None]:
    """Inside, one thread computes; afterwards what a training changes in this process is as before."""
    threads, hook = torch.get_num_threads(), sys.unraisablehook
    torch.set_num_threads(1)
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            sys.unraisablehook = hook


def train(argv: Sequence[str]) -> Finished:
    """Train in this process."""
    out, err = io.StringIO(), io.StringIO()
    with training_in_process(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_cli(lambda: command.main(list(argv)))
    return Finished(status, out.getvalue(), err.getvalue())


class Child:
    """A process forked by the server, whose stdout and stderr go to files."""

    def __init__(self, target: Callable[..., Any], *args: Any, folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = folder / "stdout", folder / "stderr"
        self.out.touch()
        variables = dict(os.environ) | {"OMP_NUM_THREADS": "1"} | environment
        self.process = _server().Process(target=_run, args=(target, args, variables, self.out, self.err))
        self.process.start()

    def wait(self) -> Finished:
        """Wait for its end. The status of a killed process is the signal's negative number."""
        self.process.join(WAIT_S)
        if self.process.is_alive():
            self.process.kill()
        return Finished(self.process.exitcode, self.out.read_text(), self.err.read_text())

    def wait_for_line(self, *words: str) -> None:
        """Wait until a line on stdout contains all `words`."""
        deadline_s = time.monotonic() + WAIT_S
        while not any(all(word in line for word in words) for line in self.out.read_text().splitlines()):
            assert self.process.is_alive() and time.monotonic() < deadline_s, self.err.read_text()
            time.sleep(0.01)


def start(argv: Sequence[str], folder: Path, **environment: str) -> Child:
    """Start the trainer in a process of its own."""
    return Child(_main, list(argv), folder=folder, **environment)


def start_ranks(argv: Sequence[str], size: int, folder: Path) -> list[Child]:
    """Start the trainer as `size` ranks, each with the environment that torchrun would set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start(argv, folder / f"rank{n}", RANK=str(n), LOCAL_RANK=str(n), **common) for n in range(size)]


@functools.cache
def _server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    # PyTorch imports the last two when a process first trains.
    ours = ["pytest", "tests.support.training", "reference_model.training.training_run"]
    context.set_forkserver_preload([*ours, "torch._dynamo", "torch.distributed.nn.functional"])
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with mock.patch.dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()
    return context


def _run(target: Callable[..., Any], args: Sequence[Any], variables: dict[str, str], out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(variables)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    # Another user of multiprocessing may have started the server first, without OMP_NUM_THREADS.
    torch.set_num_threads(1)
    target(*args)


def _main(argv: list[str]) -> None:
    sys.modules.pop(command.__name__, None)  # runpy warns about a module that was imported before
    sys.argv = ["train", *argv]
    runpy.run_module(command.__name__, run_name="__main__", alter_sys=True)
