"""What a precision means for PyTorch's switches."""

from __future__ import annotations

import torch


def set_precision(precision: str) -> None:
    """Let TF32 be used exactly where `precision` (a variant's `train.precision`) says so, or can do no harm.

    PyTorch allows TF32 in convolutions and GRUs unless told not to. In `fp32` it is told. In `bf16` cuDNN gets nothing in fp32
    but a GRU that it takes in no other type (gru.py), whose products may as well keep TF32's 10 bits where bf16's 7 were
    asked for; and without leave to use TF32 PyTorch would have cuDNN run a GRU in bf16 on plain multipliers instead of the
    tensor cores (read in PyTorch 2.11's cudnn/Descriptors.h: anything but fp16 gets CUDNN_FMA_MATH).
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision in ("tf32", "bf16")
