"""A parallel map that runs each task in a fresh process, for work whose result must not depend on earlier tasks."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from common.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_in_fresh_processes(
    function: Callable[[Task], Result], tasks: Iterable[Task], processes: int, preload: str
) -> Iterator[Result]:
    """Yield `function(task)` for each task, in the order in which they finish.

    `function` must be importable. `preload` is the module to import before the processes are forked, so that a fresh
    process starts in milliseconds. An exception in a process is raised here; a process that dies (killed, out of
    memory) is a UserError. If this ends early, running processes are terminated.
    """
    # A fork server, not a plain fork: the caller may have threads or libraries with state.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    waiting, exhausted = iter(tasks), False
    running: dict[Connection, BaseProcess] = {}
    try:
        while True:
            while not exhausted and len(running) < processes:
                try:
                    task = next(waiting)
                except StopIteration:
                    exhausted = True
                    break
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_serve, args=(sender, function, task), daemon=True)
                with deferred_signals():
                    process.start()
                sender.close()
                running[receiver] = process
            if not running:
                return
            ready = wait(list(running))
            for receiver in [each for each in running if each in ready]:
                result = _receive(receiver)
                running.pop(receiver).join()
                if isinstance(result, BaseException):
                    raise result
                yield result
    finally:
        for left in running.values():
            left.terminate()
        for receiver, left in running.items():
            left.join()
            receiver.close()


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM to the end of this block, if Python handles them.

    Interrupting the start of a process interrupts the fork server's request, and it prints a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handled = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    before = [signal.signal(number, lambda number, _frame: received.append(number)) for number in handled]
    try:
        yield
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)
        for caught in received:
            signal.raise_signal(caught)


def _receive(receiver: Connection) -> Any:
    try:
        return receiver.recv()
    except EOFError:
        return UserError(
            "a worker process died",
            remedy="the machine may be out of memory: close other programs, or use fewer processes",
        )
    finally:
        receiver.close()


def _serve(sender: Connection, function: Callable, task: object) -> None:
    # Ctrl-C reaches the whole process group: only the parent handles it, and terminates its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    result: object
    try:
        result = function(task)
    except Exception as error:
        result = error
    try:
        sender.send(result)
    except BrokenPipeError:
        return  # The parent has ended.
