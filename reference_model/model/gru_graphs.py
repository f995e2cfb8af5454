"""The GRU's kernels in a training step on a GPU, recorded as CUDA graphs and replayed.

cuDNN runs a wide GRU frame by frame: about ten thousand kernels in a step of the closed model. At small batches the host
takes longer to launch them than the GPU takes to run them. A graph launches all kernels of a forward or a backward pass
at once.

A graph has a fixed length, and every batch has another one. Batches are therefore padded with frames of zeros to the
next multiple of FRAMES. A GRU that runs forward in time computes the same values for the frames before the padding, and
a padded frame, whose output nobody uses, adds zeros to every gradient.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.errors import first_line
from reference_model.runtime import DEAD_WORKER

FRAMES = 32
"""Lengths are rounded up to a multiple of this: 0.64 seconds of audio."""
LONGEST = 1792
"""Longer batches, 36 seconds of audio, run without a graph."""
LARGEST_BATCH = 32
"""Larger batches run without a graph. At 64 an H200 gains 1.06 to 1.10 x, once all lengths are recorded; what graphs then
need in memory, beside that of the steps before them, has not been measured.
"""
RECORDED_AT = 16
"""A length is recorded when a batch of it comes for this time. A recording takes as long as several steps (an estimate),
which only a long training, with many batches of each length, makes up for."""


@dataclass
class _Buffers:
    """Fixed memory of the arguments and results of all graphs; the first frames of it for each length.

    `x`, `dx` (LONGEST, batch, inputs); `y`, `dy` (LONGEST, batch, hidden); `start` (layers, batch, hidden);
    `gradients` those of the weights. `step` counts the forward passes: their results are here until the next one.
    """

    x: Tensor
    dx: Tensor
    y: Tensor
    dy: Tensor
    start: Tensor
    gradients: list[Tensor]
    step: int = 0


class _Graphs(NamedTuple):
    """The graphs of one length."""

    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph


class GruGraphs:
    """The graphs of one GRU: of all lengths, for one batch size, over weights that stay where they are in memory.

    All graphs use the same memory: at most one step may be between its forward and its backward pass.
    """

    def __init__(self) -> None:
        self._batches: Counter[tuple[int, int]] = Counter()
        self._graphs: dict[int, _Graphs] = {}
        self._buffers: _Buffers | None = None
        self._works = True

    def __reduce__(self) -> tuple[type[GruGraphs], tuple[()]]:
        """A copy of a network has no graphs yet."""
        return GruGraphs, ()

    def __call__(self, x: Tensor, weights: Sequence[Tensor], layers: int) -> Tensor | None:
        """`x` (longest, batch, inputs) to (longest, batch, hidden); None if this batch has to run without a graph.

        It has to if it is too long or too large, of another size than earlier batches, or one of the first of its length.
        """
        longest, batch, _ = x.shape
        if not self._works or _abandoned or longest > LONGEST or batch > LARGEST_BATCH:
            return None
        padded = -(-longest // FRAMES) * FRAMES
        self._batches[padded, batch] += 1
        if self._batches[padded, batch] < RECORDED_AT:
            return None
        try:
            self._buffers = self._buffers or _allocate(x, weights, layers)
            if self._buffers.x.shape[1] != batch:
                return None
            if padded not in self._graphs:
                self._graphs[padded] = self._record(padded, weights, self._buffers)
        except RuntimeError as error:
            if DEAD_WORKER in str(error):
                raise
            # Out of memory, or a library that cannot be recorded: the same kernels run without a graph.
            self._works, self._buffers = False, None
            self._graphs.clear()
            warnings.warn(f"GRUs run without CUDA graphs: {first_line(error)}", stacklevel=2)
            return None
        return _GruReplay.apply(self._buffers, self._graphs[padded], padded, x, *weights)

    def _record(self, frames: int, weights: Sequence[Tensor], buffers: _Buffers) -> _Graphs:
        graphs = _Graphs(torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph())
        # Graphs may share a pool of memory if they never run at the same time.
        pool = next((each.forward.pool() for each in self._graphs.values()), None) or torch.cuda.graph_pool_handle()
        leaves = [each.detach().requires_grad_() for each in (buffers.x[:frames], *weights)]

        def forward() -> Tensor:
            return torch.gru(leaves[0], buffers.start, leaves[1:], True, len(buffers.start), 0.0, True, False, False)[0]

        def backward(y: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(y, leaves, buffers.dy[:frames])

        stream = _recording_stream(weights[0].device)
        with torch.enable_grad():
            # Not recorded: libraries load what they need for a new length, which they may not do during a recording.
            backward(forward())
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                with _recording(graphs.forward, pool):
                    y = forward()
                    buffers.y[:frames].copy_(y.detach())
                with _recording(graphs.backward, pool):
                    dx, *gradients = backward(y)
                    buffers.dx[:frames].copy_(dx)
                    torch._foreach_copy_(buffers.gradients, gradients)
        torch.cuda.current_stream().wait_stream(stream)
        return graphs


@functools.cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all recordings: graphs can share memory only if they were recorded on the same stream."""
    return torch.cuda.Stream(device)


@contextmanager
def _recording(graph: torch.cuda.CUDAGraph, pool: Any) -> Iterator[None]:
    """Record what is launched on the current stream.

    torch.cuda.graph would also empty the cache of free memory, at every length. Other threads, such as the one that
    page-locks batches, may use the GPU meanwhile.
    """
    graph.capture_begin(pool, capture_error_mode="thread_local")
    try:
        yield
        graph.capture_end()
    except BaseException:
        # Read in PyTorch's CUDAGraph.cpp: where the end of a recording fails, the allocators still refer to the graph,
        # and allocate from its pool.
        _abandoned.append(graph)
        with suppress(RuntimeError):
            graph.capture_end()
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        raise


_abandoned: list[torch.cuda.CUDAGraph] = []
"""Graphs whose recording failed, which must stay alive. After the first one, the process records no other."""


def _allocate(x: Tensor, weights: Sequence[Tensor], layers: int) -> _Buffers:
    batch, inputs, hidden = x.shape[1], x.shape[2], weights[1].shape[1]

    def zeros(*shape: int) -> Tensor:
        # What a graph reads beyond the last frame must be finite.
        return x.new_zeros(shape)

    return _Buffers(
        x=zeros(LONGEST, batch, inputs),
        dx=zeros(LONGEST, batch, inputs),
        y=zeros(LONGEST, batch, hidden),
        dy=zeros(LONGEST, batch, hidden),
        start=zeros(layers, batch, hidden),
        gradients=[torch.empty_like(each) for each in weights],
    )


class _GruReplay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, buffers: _Buffers, graphs: _Graphs, padded: int, x: Tensor, *weights: Tensor) -> Tensor:
        buffers.step += 1
        ctx.of, ctx.step = (buffers, graphs, padded), buffers.step
        _fill(buffers.x, x, padded)
        graphs.forward.replay()
        return buffers.y[: len(x)].detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        buffers, graphs, padded = ctx.of
        if ctx.step != buffers.step:
            raise RuntimeError("another forward pass of this GRU came before the backward pass of this one")
        _fill(buffers.dy, dy, padded)
        graphs.backward.replay()
        return None, None, None, buffers.dx[: len(dy)].detach(), *(each.detach() for each in buffers.gradients)


def _fill(buffer: Tensor, values: Tensor, padded: int) -> None:
    buffer[: len(values)].copy_(values)
    buffer[len(values) : padded].zero_()
