"""The error type that users see, and the function that turns it into one line on stderr and an exit status.

Every `python -m ...` command wraps its `main` in `run_cli`. The exit status is 0 (success, or the check passed),
1 (the check or the run failed) or 2 (the command could not do its work). Users see one line, not a traceback.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence

EXIT_OK, EXIT_FAILED, EXIT_ERROR = 0, 1, 2


class UserError(Exception):
    """A problem that the user can fix: what is wrong, where, and the remedy.

    `what` is a clause without a full stop. `where` is a file, a `file:line`, a key or None. `remedy` is an instruction
    or None.
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
    """`text` on one line: control characters (line breaks, terminal escapes) are replaced by visible escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its type if it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def listed(names: Sequence[str], most: int, noun: str = "") -> str:
    """The first `most` names and the number of the others: `a, b, c and 4 more`, with a noun `and 4 more files`."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more{noun and ' ' + noun}" if rest > 0 else "")


def from_os_error(error: OSError) -> UserError:
    """The UserError for an operating-system error, with the remedy for that kind of error."""
    remedies = {
        errno.ENOSPC: "free some disk space, or choose another folder, and start again",
        errno.EDQUOT: "your disk quota is used up: free some space, or choose another folder, and start again",
        errno.EEXIST: "it exists already: choose another folder",
        errno.ENOTDIR: "a file is where a folder should be: choose another folder",
        errno.EROFS: "choose a writable folder",
        errno.EACCES: "check the permissions, or choose another folder",
        errno.EMFILE: "raise the limit of open files (`ulimit -n 4096`) and start again",
    }
    what = error.strerror or type(error).__name__
    where = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return UserError(what, where=where, remedy=remedies.get(error.errno or 0))


def run_cli(main: Callable[[], int]) -> int:
    """Run a command's `main` and return the exit status; an error that users can fix becomes one line on stderr.

    Any other exception is a bug and keeps its traceback.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # The caller closed it (`>&-`).
            setattr(sys, name, open(os.devnull, "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name may hold characters that the terminal's encoding lacks. stderr escapes them; make stdout do the
        # same.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main()
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:
        # The reader closed the pipe (`| head`). Redirect stdout to /dev/null so that the interpreter's last flush is
        # silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"error: {from_os_error(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
    except MemoryError:
        print("error: out of memory - close other programs, or use a machine with more memory", file=sys.stderr)
    return EXIT_ERROR
