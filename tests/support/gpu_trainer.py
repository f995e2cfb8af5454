"""The fake trainer as if it ran on the GPU that GPU_TRAINER names by its UUID.

Run by the harness as `--trainer-module tests.support.gpu_trainer`; fake_trainer.py says the rest.
"""

from __future__ import annotations

import os
import sys

from benchmark.mllog import ACCELERATORS, LogWriter
from tests.support import fake_trainer


class GpuLog(LogWriter):
    def event(self, key: str, value: object = None, **metadata: object) -> None:
        if key == ACCELERATORS:
            value = [{"rank": 0, "device": "cuda:0", "name": "fake", "uuid": os.environ["GPU_TRAINER"]}]
        super().event(key, value, **metadata)


if __name__ == "__main__":
    fake_trainer.LogWriter = GpuLog
    sys.exit(fake_trainer.main())
