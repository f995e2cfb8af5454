"""`python -m benches gpu` with sections that fail in every possible way, for tests/project/test_gpu_bench.py.

Run as a module, it takes that command's arguments. No section uses PyTorch, so a stub replaces it, which saves each process
the seconds of importing it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

from benches.gpu import command

HERE = "tests.support.failing_sections"


def one(bench):
    bench.row("one", "process", pid=os.getpid())


def raises(bench):
    bench.row("raises", "process", pid=os.getpid())
    raise ValueError("what went wrong\nand more of it")


def two(bench):
    bench.row("two", "process", pid=os.getpid())


def exceeds_its_limit(bench):
    child = subprocess.Popen(["sleep", "600"])
    bench.row("exceeds_its_limit", "process", pid=os.getpid(), child=child.pid)
    time.sleep(600)


def exceeds_the_budget(bench):
    bench.row("exceeds_the_budget", "process", pid=os.getpid())
    time.sleep(600)


def exits(bench):
    bench.row("exits", "process", pid=os.getpid())
    os._exit(5)


def breaks_the_device(bench):
    from benches.gpu import worker

    worker.device_error = lambda bench: "an illegal memory access was encountered"
    bench.row("breaks_the_device", "process", pid=os.getpid())


def three(bench):
    bench.row("three", "process", pid=os.getpid())


GROUPS = (("one", "raises", "two"), ("exceeds_its_limit", "exits", "breaks_the_device", "three"))
PLAN = command.Plan(
    sections={
        name: command.Section(HERE, 0.5 if name == "exceeds_its_limit" else 60)
        for name in (*GROUPS[0], *GROUPS[1], "exceeds_the_budget")
    },
    parts={"first": GROUPS, "second": (("exceeds_the_budget",),)},
    module=(HERE,),
)


class TorchStub(ModuleType):
    """The part of PyTorch that the worker process itself uses."""

    __version__ = "stub"
    version = SimpleNamespace(cuda=None)

    def device(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(type=name)

    def set_num_threads(self, count: int) -> None:
        assert count == 1

    def ones(self, size: int, device: object) -> TorchStub:
        return self

    def sum(self) -> TorchStub:
        return self

    def item(self) -> float:
        return 1.0


if __name__ == "__main__":
    sys.modules["torch"] = TorchStub("torch")
    sys.exit(command.main(sys.argv[1:], PLAN))
