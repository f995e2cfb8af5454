"""What the trainer and its loader processes ask of the operating system, each for itself."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import Any

import torch

from common import limits

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends (prctl(2)): the harness leaves no orphan."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def usual_threads() -> int:
    """The CPU threads that PyTorch takes by itself, or fewer where a container has less than so many cores' time.

    PyTorch knows the affinity mask alone. OMP_NUM_THREADS decides where it is set.
    """
    taken = torch.get_num_threads()
    return taken if "OMP_NUM_THREADS" in os.environ else min(taken, limits.cores())


def keep_freed_memory() -> None:
    """Ask glibc to use freed memory again instead of giving it back to the kernel (mallopt(3)); elsewhere nothing is done.

    A step on a CPU makes the same large tensors as the step before. Given back and fetched anew, they cost some thousand page
    faults each time, a twentieth of a `mini` step. Up to 4 % more memory is in use for it.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def silence_lost_worker_signals() -> None:
    """Show no traceback where PyTorch's alarm of a dead loader process gets lost.

    Its signal handler raises wherever the main process happens to be. In a callback of a fork or of the garbage collector
    nobody can catch that: Python prints a traceback and goes on. The loader finds the dead process again when it next
    waits for it, and that is reported. A loader or a thread that was just being made when the alarm came stays half made,
    and complains of that in the same way.
    """
    shown = sys.unraisablehook

    def show(lost: Any) -> None:
        of_half_a_loader = isinstance(lost.exc_value, AttributeError) and "DataLoaderIter" in str(lost.exc_value)
        # What a thread's own work raises never comes here: only its beginning does.
        of_half_a_thread = getattr(lost.object, "__func__", None) is getattr(threading.Thread, "_bootstrap", lost)
        if "DataLoader worker" not in str(lost.exc_value) and not of_half_a_loader and not of_half_a_thread:
            shown(lost)

    sys.unraisablehook = show
