"""Each task in a fresh process of its own, several at a time: for work whose outcome must not depend on what ran before."""

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


def each_in_fresh_process(
    function: Callable[[Task], Result], tasks: Iterable[Task], processes: int, preload: str
) -> Iterator[Result]:
    """Yield `function(task)` for each task, in the order in which they finish.

    `function` must be importable; `preload` names the module to import before the processes are forked, which makes a
    fresh process a matter of milliseconds. An exception in a process is raised here; a process that dies (killed, out of
    memory) is a UserError. Whatever is still running when this ends early is terminated.
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
                with signals_held():
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
def signals_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of this block, where Python answers them.

    A start that is broken off leaves the fork server in the midst of a request, and it prints a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    answered = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    before = [signal.signal(number, lambda number, _frame: caught.append(number)) for number in answered]
    try:
        yield
    finally:
        for number, handler in zip(answered, before, strict=True):
            signal.signal(number, handler)
        for received in caught:
            signal.raise_signal(received)


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
    # Ctrl-C reaches the whole group: the parent alone answers it, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    result: object
    try:
        result = function(task)
    except Exception as error:
        result = error
    try:
        sender.send(result)
    except BrokenPipeError:
        # The parent is gone; there is nobody left to tell.
        return
