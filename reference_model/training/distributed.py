"""Several trainer processes: collective operations, and the only module that reads RANK and WORLD_SIZE."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

from common.errors import UserError

TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """This process is `rank` of `size` processes, and `local_rank` on its machine. Only rank 0 writes the log."""

    rank: int
    local_rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes the log, the checkpoints and the progress."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums of `values` over all ranks, in float64, so that counts stay exact."""
        if self.size == 1:
            return list(values)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def wait(self) -> None:
        """Block until every rank has called this."""
        if self.size > 1:
            dist.barrier()

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite `tensors`, the same ones in every rank, with those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def gather(self, value: object) -> list:
        """`value` of every rank, in order."""
        if self.size == 1:
            return [value]
        values: list = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def join(device: torch.device) -> World:
    """Read rank and world size from the environment that torchrun sets, and join the process group if there is one.

    UserError where there are more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    world = World(rank=rank, local_rank=int(os.environ.get("LOCAL_RANK", "0")), size=size)
    if size > 1:
        if device.type == "cuda":
            gpus = torch.cuda.device_count()
            if world.local_rank >= gpus:
                raise UserError(
                    f"PyTorch sees {gpus} GPU{'' if gpus == 1 else 's'} for {os.environ['LOCAL_WORLD_SIZE']} processes here",
                    where="NPROC",
                    remedy=f"use at most {gpus}, or DEVICE=cpu",
                )
            torch.cuda.set_device(world.local_rank)
            dist.init_process_group("nccl", timeout=TIMEOUT, device_id=torch.device("cuda", world.local_rank))
        else:
            dist.init_process_group("gloo", timeout=TIMEOUT)
    return world


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def end_process(status: int) -> NoReturn:
    """End this process; one of several ends immediately, without the interpreter's own shutdown.

    C++ was seen to abort a process whose training was done and logged ("terminate called without an active exception"),
    so that torchrun reported the run as failed. Most likely a gloo thread used the interpreter after it had shut down.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.exit(status)
    for worker in multiprocessing.active_children():
        worker.terminate()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)
