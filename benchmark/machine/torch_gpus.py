"""The installed PyTorch's version and the GPUs that it can use, queried in a separate process.

`benchmark` does not import torch, and a broken torch must not crash its caller.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

TIMEOUT_S = 120

_ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if cuda else []
why = None
if not cards:
    try:
        torch.cuda.init()
    except Exception as error:
        why = str(error)
names, sizes = [card.name for card in cards], [card.total_memory for card in cards]
has_nccl = cuda and torch.distributed.is_available() and torch.distributed.is_nccl_available()
nccl = ".".join(map(str, torch.cuda.nccl.version())) if has_nccl else None
print(json.dumps({"version": torch.__version__, "built_for": torch.version.cuda, "gpus": names,
                  "memory_bytes": sizes, "nccl": nccl, "why": why}))
"""


def ask_torch() -> dict[str, Any]:
    """PyTorch's version, built_for (CUDA), gpus (names), memory_bytes (of each), nccl, why (it sees no GPU).

    If it cannot be imported: `error`, one line with the reason.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _ASK_TORCH],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            errors="replace",
        )
        return json.loads(done.stdout) if done.returncode == 0 else {"error": _last_line(done)}
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {TIMEOUT_S} s"}
    except (OSError, ValueError) as error:
        return {"error": str(error)}


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}"
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
