"""The one error type that users see, and the one place that turns it into a line and an exit status.

Every door (a `python -m ...` command) wraps its `main` in `run_cli`, so that whatever goes wrong ends in one clear
line on stderr and an exit status of 0 (it held), 1 (it did not hold) or 2 (it could not be done), never a traceback.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable

EXIT_OK, EXIT_FAILED, EXIT_ERROR = 0, 1, 2


class UserError(Exception):
    """Something that a user can mend: what is wrong, where, and the remedy.

    `what` is a clause without a full stop, `where` a file, a `file:line`, a key or None, `remedy` an instruction or None.
    """

    def __init__(self, what: str, *, where: object = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" - {self.remedy}" if self.remedy else ""
        return one_line(f"{place}{self.what}{remedy}")


def one_line(text: str) -> str:
    """`text` with control characters (line breaks, terminal escapes) made visible, so that it stays one harmless line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def from_os_error(error: OSError) -> UserError:
    """The UserError that says what an operating-system error means and what to do about it."""
    remedies = {
        errno.ENOSPC: "free some disk space, or choose another folder, and start again",
        errno.EDQUOT: "your disk quota is used up: free some space, or choose another folder, and start again",
        errno.EEXIST: "something else lies in its place: choose another folder",
        errno.ENOTDIR: "a file lies where a folder should be: choose another folder",
        errno.EROFS: "choose a folder that can be written",
        errno.EACCES: "check the permissions, or choose another folder",
        errno.EMFILE: "raise the limit of open files (`ulimit -n 4096`) and start again",
    }
    what = error.strerror or type(error).__name__
    where = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return UserError(what, where=where, remedy=remedies.get(error.errno or 0))


def run_cli(main: Callable[[], int]) -> int:
    """Run a command's `main`, turning what users can mend into one line on stderr; return the exit status.

    A bug (any other exception) still shows its traceback: hiding it would help nobody.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # Whoever started us closed it (`>&-`).
            setattr(sys, name, open(os.devnull, "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name can hold what the terminal's encoding cannot: stderr shows that as an escape, and so shall stdout.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main()
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:
        # The reader went away (`| head`): point stdout at nothing, so that the interpreter's last flush stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"error: {from_os_error(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
    except MemoryError:
        print("error: out of memory - close other programs, or use a machine with more memory", file=sys.stderr)
    return EXIT_ERROR
