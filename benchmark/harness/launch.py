"""Child processes: started so that they die with this one, their output read, and ended with all their descendants.

The trainer leads its own session, so that a Ctrl-C for the harness reaches only the harness, which then ends the
trainer in order. Linux kills the trainer when the harness dies (PR_SET_PDEATHSIG), and makes orphans of the trainer
children of the harness (PR_SET_CHILD_SUBREAPER), which ends them too.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmark import trainer_contract
from benchmark.settings import Settings

GRACE_S = 10.0
"""Seconds that a process may take to end after SIGTERM, before SIGKILL."""
DRAIN_S = 2.0
"""Seconds for which output is still read after the trainer's end."""
POLL_S = 0.2
MAX_LINE_BYTES = 1 << 20

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class Interrupted(KeyboardInterrupt):
    """A signal arrived before there was anything to record."""


class Stop:
    """A request to end the run early; `reason` is None until then. `signal_number` is set if a signal requested it.

    Until `deferred` is set, a signal raises Interrupted at once; afterwards it only sets the request.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.signal_number: int | None = None
        self.deferred = False

    def request(self, reason: str, signal_number: int | None = None) -> None:
        """Request the end; the first reason is kept."""
        if self.reason is None:
            self.reason, self.signal_number = reason, signal_number

    def on_signal(self, number: int, _frame: object) -> None:
        """Signal handler."""
        reason = f"interrupted by {signal.Signals(number).name}"
        self.request(reason, number)
        if not self.deferred:
            raise Interrupted(reason)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn SIGINT, SIGTERM and SIGHUP into a Stop while the block runs.

    A signal that was ignored (nohup) stays ignored.
    """
    stop = Stop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop.on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def child_environment() -> dict[str, str]:
    """The environment for a Python child that imports our packages from any working directory."""
    return os.environ | trainer_contract.variables(os.environ)


def trainer_command(
    settings: Settings, *, params_file: Path, data: Path, run_dir: Path, seed: int, resume: Path | None
) -> list[str]:
    """The command line of the trainer: a single process, or torchrun for several."""
    command = [sys.executable]
    if settings.uses_torchrun:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(settings.processes), "--max-restarts", "0"]
        if settings.nodes > 1:
            command += ["--nnodes", str(settings.nodes), "--node-rank", str(settings.node_rank)]
            command += ["--master-addr", str(settings.master_addr), "--master-port", str(settings.master_port)]
        else:
            command += ["--standalone"]
    options = trainer_contract.command_line(
        params=params_file, data=data, run_dir=run_dir, seed=seed, device=settings.device, resume=resume
    )
    return [*command, "-m", settings.trainer, *options]


def start(
    command: list[str],
    environment: Mapping[str, str] | None = None,
    *,
    stdout: int | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in its own session; Linux kills it when this process ends. Call it from the main thread only.

    The kernel ties the child's life to the thread that starts it, and no other thread should be running yet.
    """
    _become_subreaper()
    parent = os.getpid()
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=child_environment() if environment is None else environment,
        start_new_session=True,
        preexec_fn=lambda: _die_with(parent),
        stdout=stdout,
        stderr=stderr,
    )


def run_to_completion(command: list[str]) -> int:
    """Run a child with all its output on stderr; return its exit status.

    An exception, such as an interruption, ends the child and is raised again.
    """
    process = start(command, stdout=sys.stderr.fileno())
    try:
        return process.wait()
    except BaseException:
        end(process)
        raise


def read_output(
    process: subprocess.Popen[bytes],
    stop: Stop,
    on_output: Callable[[bytes], None],
    on_error: Callable[[bytes], None],
) -> int:
    """Pass each line of the child's stdout and stderr (without line break) to a callback, until it ends or `stop`
    ends it.

    Returns the exit status, negative for a signal. All descendants of the child are ended with it.
    """
    with selectors.DefaultSelector() as selector:
        for stream, take in ((process.stdout, on_output), (process.stderr, on_error)):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ, _Lines(take))
        deadline_s: float | None = None
        while not _has_ended(process):
            _pump(selector, POLL_S)
            if stop.reason is not None and deadline_s is None:
                _signal_group(process, signal.SIGTERM)
                deadline_s = time.monotonic() + GRACE_S
            elif deadline_s is not None and time.monotonic() > deadline_s:
                _signal_group(process, signal.SIGKILL)
        status = end(process)
        drained_s = time.monotonic() + DRAIN_S
        while selector.get_map() and time.monotonic() < drained_s:
            _pump(selector, POLL_S)
        for key in selector.get_map().values():
            key.data.finish()
    return status


def end(process: subprocess.Popen[bytes]) -> int:
    """End the child if it still runs, then all its descendants; return its exit status."""
    if not _has_ended(process):
        _signal_group(process, signal.SIGTERM)
        deadline_s = time.monotonic() + GRACE_S
        while not _has_ended(process) and time.monotonic() < deadline_s:
            time.sleep(0.02)
    # The dead leader is not reaped yet, so its process id cannot be another group's.
    _signal_group(process, signal.SIGKILL)
    status = process.wait()
    _end_orphans()
    return status


class _Lines:
    """Cuts a stream of bytes into lines; a line longer than MAX_LINE_BYTES is passed on in pieces."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) > MAX_LINE_BYTES:
            self.finish()

    def finish(self) -> None:
        if self._rest:
            rest, self._rest = self._rest, b""
            self._take(rest)


def _pump(selector: selectors.BaseSelector, timeout_s: float) -> None:
    if not selector.get_map():
        time.sleep(timeout_s)  # both streams are closed, the process still runs
        return
    for key, _ in selector.select(timeout_s):
        data = os.read(key.fd, 1 << 16)
        if data:
            key.data.feed(data)
        else:
            key.data.finish()
            selector.unregister(key.fileobj)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the child is dead, without reaping it."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _end_orphans() -> None:
    """Kill descendants outside the child's process group, such as torchrun's workers.

    Now they are children of this process.
    """
    for _ in range(20):
        orphans = [p for p in psutil.Process().children(recursive=True) if p.pid not in _earlier_children]
        if not orphans:
            return
        for orphan in orphans:
            with suppress(psutil.NoSuchProcess):
                orphan.kill()
        psutil.wait_procs(orphans, timeout=0.5)


_earlier_children: set[int] = set()
"""Children that this process had before it became a subreaper: not the trainer's, so not to be ended."""


def _become_subreaper() -> None:
    _earlier_children.update(p.pid for p in psutil.Process().children(recursive=True))
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _die_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends, even if that has happened already.

    It is called in the child, before its program starts.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
