"""The system's file caches: by the rules, no training data may lie in memory when the clock starts."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import from_os_error

DROP_FILE = Path("/proc/sys/vm/drop_caches")


def drop_caches(drop_file: Path = DROP_FILE) -> str | None:
    """Write dirty pages out and empty the page cache, dentries and inodes; return None, or why it could not be done.

    Only root outside most containers may. Asking the kernel to forget single files (posix_fadvise) is advice that it may
    ignore and reaches no other process's pages, so it does not count.
    """
    os.sync()
    try:
        drop_file.write_text("3\n")
    except OSError as error:
        return from_os_error(error).what
    return None
