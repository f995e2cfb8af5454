"""A lock that one process holds at a time; the kernel frees it when the process ends, however it ends.

It is `flock` on a file. Some file systems have none: Lustre mounted without `-o flock`, NFS without its lock daemon, some in
user space. There an abstract socket takes its place, which keeps apart what runs on one machine, and a warning says so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError, one_line

POLL_S = 0.2


class FileLock:
    """The lock on the file `path`, which is made where it is missing. Held from here until `close`, or the `with` block's end.

    Where another process holds it, `busy` is raised if it is an error; otherwise it is called once, to say so, and the lock is
    waited for. OSError where the file cannot be opened.
    """

    warned = False
    """Whether this process has said that a file system has no locks: once is enough."""

    def __init__(self, path: Path, busy: UserError | Callable[[], None]) -> None:
        self._socket: socket.socket | None = None
        # NFS gives an exclusive lock only to who may write.
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if self._try(path):
                return
            if isinstance(busy, UserError):
                raise busy from None
            busy()
            while not self._try(path):
                time.sleep(POLL_S)
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """The descriptor that holds the lock: a child that inherits it holds it too, even after this process."""
        return self._fd if self._socket is None else self._socket.fileno()

    def _try(self, path: Path) -> bool:
        """Take the lock if it is free."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            return self._try_socket(path, error.strerror)
        return True

    def _try_socket(self, path: Path, why: str | None) -> bool:
        """Take the name that stands for the file among this machine's abstract sockets (unix(7)), if it is free."""
        found = os.fstat(self._fd)
        stand_in = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            stand_in.bind(f"\0deepspeech2-benchmark-lock-{found.st_dev}-{found.st_ino}")
        except OSError as error:
            stand_in.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        self._socket = stand_in
        if not FileLock.warned:
            FileLock.warned = True
            text = (
                f"warning: {path.absolute()}: this file system has no locks ({why}) - processes on this machine are kept apart "
                "all the same; start nothing here from another machine until this has ended"
            )
            print(one_line(text), file=sys.stderr, flush=True)
        return True

    def close(self) -> None:
        """Let go of the lock. The file stays: removing it could part two processes that wait for it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
