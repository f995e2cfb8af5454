"""The operating system's file caches: by the rules, no training data may be cached when the clock starts."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import from_os_error

DROP_FILE = Path("/proc/sys/vm/drop_caches")


def drop_caches(drop_file: Path = DROP_FILE) -> str | None:
    """Write dirty pages out and empty the page cache, dentries and inodes; return None, or the reason it failed.

    This needs root, and works in few containers. Asking the kernel to drop single files (posix_fadvise) is advice
    that it may ignore and does not affect pages that other processes use, so it does not count.
    """
    os.sync()
    try:
        drop_file.write_text("3\n")
    except OSError as error:
        return from_os_error(error).what
    return None
