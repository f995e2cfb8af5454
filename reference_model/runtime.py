"""Process-wide settings of a command: device, precision, CPU threads, and operating system options."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import MutableMapping
from typing import Any

import torch

from benchmark.params import Params
from common import limits
from common.errors import UserError

SMALL_HIDDEN = 256
"""Up to this GRU width a CPU process uses one thread (see `default_threads`)."""
DEAD_WORKER = "DataLoader worker"
"""In PyTorch's report of a dead data loader worker: a RuntimeError, raised wherever the main process happens to be."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_PR_SET_PDEATHSIG = 1


# ---------------------------------------------------------------------------------------------------------------------
# Device and precision


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cuda` or `cpu` selects; UserError for `cuda` where PyTorch sees no GPU.

    Call it before the first use of a GPU, because it configures PyTorch's allocator.
    """
    use_expandable_segments()
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "PyTorch sees no GPU here",
            where="DEVICE=cuda",
            remedy="check `nvidia-smi` and the driver, or use DEVICE=cpu",
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def set_precision(precision: str) -> None:
    """Allow TF32 where `precision` (a variant's `train.precision`) asks for it, and where it makes no difference.

    PyTorch allows TF32 in convolutions and GRUs by default; `fp32` turns that off. In `bf16` the only fp32 work that
    cuDNN gets is a GRU that it cannot run in bf16 (gru.py): TF32 keeps 10 mantissa bits there, where bf16 would have
    kept 7. Without permission to use TF32, PyTorch would also make cuDNN run a bf16 GRU on plain FMA units instead of
    the tensor cores (read in PyTorch 2.11's cudnn/Descriptors.h: anything but fp16 gets CUDNN_FMA_MATH).
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision in ("tf32", "bf16")


def use_expandable_segments(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let PyTorch enlarge its blocks of GPU memory, unless the user's environment has settings for its allocator.

    Every batch has another length. By default PyTorch keeps a block for each size that it has seen and no larger one
    can use: a first epoch, sorted by length, filled the 141 GB of an H200 with them. Call this before the first use of
    the GPU.
    """
    if not any(name in environment for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")):
        environment["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"


# ---------------------------------------------------------------------------------------------------------------------
# CPU threads


def default_threads(params: Params) -> int:
    """CPU threads of a trainer process where OMP_NUM_THREADS is not set: one for a small network, else every core.

    The operations of small GRUs take microseconds. On two cores, a second thread makes a step of `mini` 1.6 times as
    fast while both cores are idle, and half as fast or worse as soon as another process uses one of them: each
    operation then waits for a thread that is not running. The time of a benchmark should not depend on that.
    """
    return 1 if params.model.rnn_hidden <= SMALL_HIDDEN else limits.cores()


def available_threads() -> int:
    """PyTorch's default number of CPU threads, reduced to the cores that a container's quota leaves.

    PyTorch considers the affinity mask only. OMP_NUM_THREADS decides where it is set.
    """
    threads = torch.get_num_threads()
    return threads if "OMP_NUM_THREADS" in os.environ else min(threads, limits.cores())


# ---------------------------------------------------------------------------------------------------------------------
# The operating system


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends (prctl(2)), so that the harness leaves no orphan."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def keep_freed_memory() -> None:
    """Make glibc reuse freed memory instead of returning it to the kernel (mallopt(3)); no effect elsewhere.

    Each step on a CPU allocates the same large tensors as the step before. Returned to the kernel and allocated again,
    they cost some thousand page faults per step: a twentieth of a `mini` step. Memory use rises by up to 4 %.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def silence_lost_worker_signals() -> None:
    """Suppress tracebacks of PyTorch's dead-worker signal where it is raised in code that cannot propagate it.

    PyTorch's signal handler raises wherever the main process happens to be. In a callback of a fork or of the garbage
    collector nothing can catch that: Python prints a traceback and continues. The loader finds the dead process when it
    next waits for it, and that error is reported. A loader or a thread whose construction the signal interrupted stays
    half constructed and prints a traceback of the same kind.
    """
    default_hook = sys.unraisablehook

    def hook(raised: Any) -> None:
        from_half_made_loader = isinstance(raised.exc_value, AttributeError) and "DataLoaderIter" in str(
            raised.exc_value
        )
        # Exceptions of a thread's own work never reach this hook: only those of its bootstrap do.
        from_half_made_thread = getattr(raised.object, "__func__", None) is getattr(
            threading.Thread, "_bootstrap", raised
        )
        if DEAD_WORKER not in str(raised.exc_value) and not from_half_made_loader and not from_half_made_thread:
            default_hook(raised)

    sys.unraisablehook = hook
