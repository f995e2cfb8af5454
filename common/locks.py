"""A lock that one process holds at a time; the kernel releases it when the process ends, even if it is killed.

It is `flock` on a file. Some file systems do not support it: Lustre mounted without `-o flock`, NFS without its lock
daemon, some FUSE file systems. There an abstract socket is used instead, which excludes only processes on the same
machine; a warning says so.
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
    """The lock on the file `path`, which is created if missing. Held until `close` or the end of the `with` block.

    If another process holds it: a `busy` that is an error is raised; a `busy` that is a function is called once, then
    the constructor waits for the lock. OSError if the file cannot be opened.
    """

    warned = False
    """Whether this process has already warned that a file system has no locks."""

    def __init__(self, path: Path, busy: UserError | Callable[[], None]) -> None:
        self._socket: socket.socket | None = None
        # NFS grants an exclusive lock only on a file opened for writing.
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
        """The descriptor that holds the lock: a child that inherits it also holds the lock, even after this process."""
        return self._fd if self._socket is None else self._socket.fileno()

    def _try(self, path: Path) -> bool:
        """Acquire the lock if it is free; whether it was."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            return self._try_socket(path, error.strerror)
        return True

    def _try_socket(self, path: Path, why: str | None) -> bool:
        """Bind the abstract socket (unix(7)) named after the file's device and inode, if it is free; whether it was."""
        status = os.fstat(self._fd)
        lock_socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock_socket.bind(f"\0deepspeech2-benchmark-lock-{status.st_dev}-{status.st_ino}")
        except OSError as error:
            lock_socket.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        self._socket = lock_socket
        if not FileLock.warned:
            FileLock.warned = True
            text = (
                f"warning: {path.absolute()}: this file system has no locks ({why}) - only processes on this machine "
                "exclude each other; start nothing here from another machine until this has ended"
            )
            print(one_line(text), file=sys.stderr, flush=True)
        return True

    def close(self) -> None:
        """Release the lock. The file stays: removing it could let two waiting processes lock different files."""
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
