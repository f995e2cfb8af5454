"""`--profile`: a one-screen breakdown of a training step's time, and a trace of a few steps for a closer look.

Stages are timed on the host, and on a GPU also by CUDA events, which need no synchronization. A GPU runs
asynchronously, so the host time of a stage is the time that it takes to queue it.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

WARM_UP, TRACED = 3, 8
"""Steps before the trace, and steps in it. Stages are timed from the step after the trace, if there are more."""
PER_STEP = ("data wait", "host to device", "features", "forward", "backward", "optimizer")
PER_EPOCH = ("evaluation", "logging and checkpoint")


class NoProfile:
    """Replaces a Profile where profiling is off; costs next to nothing."""

    def stage(self, name: str) -> AbstractContextManager:
        """Times nothing."""
        return nullcontext()

    def step(self) -> None:
        """Counts nothing."""

    def report(self) -> None:
        """Writes nothing."""


class Profile(NoProfile):
    """Times named stages; writes a trace of TRACED steps (`profile.json.gz`) and the breakdown (`profile.txt`)."""

    def __init__(self, device: torch.device, folder: Path) -> None:
        self._device, self._folder = device, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._host_s: dict[str, float] = defaultdict(float)
        self._events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = defaultdict(list)
        self._steps = self._counted = 0
        activities = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._tracer = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=WARM_UP - 1, warmup=1, active=TRACED, repeat=1),
            acc_events=True,
            on_trace_ready=lambda traced: traced.export_chrome_trace(str(folder / "profile.json.gz")),
        )
        self._tracer.start()
        self._tracing = True

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block under `name`, one of PER_STEP or PER_EPOCH."""
        events = None
        if self._device.type == "cuda":
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
        start_s = time.perf_counter()
        with torch.profiler.record_function(name):
            yield
        self._host_s[name] += time.perf_counter() - start_s
        if events:
            events[1].record()
            self._events[name].append(events)

    def step(self) -> None:
        """Count one finished training step."""
        self._steps += 1
        self._counted += 1
        if not self._tracing:
            return
        self._tracer.step()
        if self._steps == WARM_UP + TRACED:
            # The trace is complete. Tracing slows a step down, so the stages are timed from here on.
            self._tracer.stop()
            self._tracing = False
            self._host_s.clear()
            self._events.clear()
            self._counted = 0

    def report(self) -> None:
        """Write the breakdown to the folder and to stderr; nothing if no step was timed."""
        if self._tracing:
            self._tracer.stop()
            self._tracing = False
        if not self._counted:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        text = "\n".join(self._lines()) + "\n"
        (self._folder / "profile.txt").write_text(text)
        sys.stderr.write(text)

    def _lines(self) -> Iterator[str]:
        device_s = {
            name: sum(start.elapsed_time(end) for start, end in pairs) / 1000 for name, pairs in self._events.items()
        }
        total_s = sum(self._host_s[name] for name in PER_STEP)
        yield f"where the time goes: {self._counted} steps of {total_s / self._counted * 1e3:.1f} ms"
        yield f"  {'stage':24} {'host ms/step':>13} {'share':>7} {'device ms/step':>15}"
        for name in PER_STEP:
            on_device = f"{device_s[name] / self._counted * 1e3:.2f}" if name in device_s else "-"
            host_s = self._host_s[name]
            yield f"  {name:24} {host_s / self._counted * 1e3:13.2f} {host_s / total_s:7.1%} {on_device:>15}"
        for name in PER_EPOCH:
            yield f"  {name:24} {self._host_s[name]:11.2f} s in all"
        yield f"  trace: {self._folder / 'profile.json.gz'} (chrome://tracing, ui.perfetto.dev)"
