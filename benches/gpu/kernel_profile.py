"""Section `profile` of `python -m benches gpu`: device time of a step of the closed model, by kernel."""

from __future__ import annotations

import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType

from benches.gpu.full_step import closed, data_of, graphs_up_to, steps
from benches.gpu.shared import Bench
from benches.gpu.table import first_line
from benches.training.train_step import make_step
from reference_model.runtime import set_precision
from reference_model.training.profiler import NoProfile
from reference_model.training.step import TrainStep

TRACED = 2
"""Traced steps: in the second one the host runs ahead of the device, as in training."""
SHOWN, WRITTEN = 12, 60
"""Kernels in the table, and operations in kernels.txt."""
PER_FRAME_LAUNCHES = 50
"""A GRU's kernel with at least this many launches per step runs once per frame; its products over all frames are only a few."""

FRAMES, PRODUCTS, REST, UNKNOWN = "recurrences", "products", "rest", "unknown"
KINDS = (
    ("optimizer", ("/optimizer/",)),
    ("features", ("/features/",)),
    ("ctc", ("ctc_loss", "CtcLoss", "log_softmax", "LogSoftmax")),
    ("gru", ("cudnn_rnn", "CudnnRnn", "aten::gru", "_Gru")),
    ("batchnorm", ("batch_norm", "BatchNorm")),
    ("convolutions", ("conv", "Conv", "hardtanh", "Hardtanh")),
    (PRODUCTS, ("aten::linear", "aten::addmm", "AddmmBackward", "MmBackward")),
)
"""Kinds of work, by substrings of the names of the operations and step stages that launched a kernel."""
SHARES = ("recurrences", "products", "convolutions", "features", "batchnorm", "ctc", "optimizer", REST, UNKNOWN)


@dataclass(frozen=True)
class Execution:
    """One kernel execution, or on a CPU an operation's own time; `chain` names the operations that launched it ("": unknown)."""

    name: str
    chain: str
    us: float


class _Stages(NoProfile):
    """Names the stages of a step in a trace."""

    def stage(self, name: str) -> AbstractContextManager:
        return torch.profiler.record_function(name)


@graphs_up_to()
def profile(bench: Bench) -> None:
    """The closed model in bf16 at batch 8 and 32 and in fp32 at batch 8, a few steps each; RuntimeError if one fails.

    For each: the share of time the device is busy between the first and the last kernel, the number of kernels per step, the
    share of device time of each kind of work, and the longest kernels. kernels.txt contains the complete tables.
    """
    kernels = bench.out / "kernels.txt"
    kernels.write_text("", encoding="utf-8")
    failed = []
    for precision, batch in (("bf16", 2), ("fp32", 2)) if bench.tiny else (("bf16", 8), ("bf16", 32), ("fp32", 8)):
        name = f"{precision}, batch {batch}"
        try:
            table = _profile(bench, name, precision, batch)
            with kernels.open("a", encoding="utf-8") as file:
                file.write(f"{name}: {TRACED} steps\n{table}\n\n")
        except Exception as error:
            traceback.print_exc()
            bench.row("profile", name, reason=first_line(error))
            failed.append(name)
        bench.free()
    if failed:
        raise RuntimeError(f"not profiled: {'; '.join(failed)}")


def _profile(bench: Bench, name: str, precision: str, batch: int) -> str:
    """Rows of one precision and batch size; returns the profiler's own table."""
    set_precision(precision)
    trainer, data = make_step(closed(bench, batch, precision), bench.device), data_of(bench, batch)
    taken_s = bench.seconds(lambda: steps(trainer, data, bench.in_a_row), repeats=2) / bench.in_a_row
    traced = _traced(bench, trainer, lambda: steps(trainer, data, TRACED))
    events = traced.events()
    executions = list(kernels_of(events) if bench.on_gpu else _operations(events))
    if not executions:
        raise RuntimeError("the profiler recorded no kernels")
    of_kind, total_us = shares(executions), sum(execution.us for execution in executions)
    launches = Counter(execution.name for execution in executions)
    bench.row(
        "profile",
        name,
        ms=taken_s * 1e3,
        busy=busy_share(events) if bench.on_gpu else None,
        kernels=sum(launches.values()) // TRACED,
        **{kind: of_kind.get(kind, 0.0) for kind in SHARES},
    )
    us: dict[str, float] = defaultdict(float)
    for execution in executions:
        us[execution.name] += execution.us
    for kernel, taken_us in sorted(us.items(), key=lambda each: -each[1])[:SHOWN]:
        bench.row(
            "profile",
            f"{name}: {_shortened(kernel)}",
            ms=taken_us / 1e3 / TRACED,
            kernels=launches[kernel] // TRACED,
            share=taken_us / total_us,
        )
    by = "self_device_time_total" if bench.on_gpu else "self_cpu_time_total"
    return traced.key_averages().table(sort_by=by, row_limit=WRITTEN, max_name_column_width=100)


def _traced(bench: Bench, trainer: TrainStep, work: Any) -> torch.profiler.profile:
    """A trace of `work`, after a warm-up call under the profiler, whose initialisation takes time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    trainer.profile = _Stages()
    schedule = torch.profiler.schedule(wait=0, warmup=1, active=1, repeat=1)
    with torch.profiler.profile(activities=activities, schedule=schedule, acc_events=True) as traced:
        for _ in range(2):
            work()
            bench.wait()
            traced.step()
    return traced


def kernels_of(events: Iterable[Any]) -> Iterable[Execution]:
    """Every kernel, memory copy and memory set on the device, with the operations that launched it."""
    device_us: dict[str, float] = defaultdict(float)
    for event in _on_device(events):
        device_us[event.name] += event.time_range.elapsed_us()
    for event in events:
        if event.device_type != DeviceType.CPU:
            continue
        for kernel in event.kernels:
            # The list of kernels includes stages, with the time from their first kernel to their last.
            if kernel.name in device_us:
                device_us[kernel.name] -= kernel.duration
                yield Execution(kernel.name, _chain(event), kernel.duration)
    for name, us in device_us.items():
        if us > 1:
            yield Execution(name, "", us)


def _operations(events: Iterable[Any]) -> Iterable[Execution]:
    """CPU operations in place of kernels in a rehearsal: each operation's CPU time without the operations that it calls."""
    for event in events:
        if event.device_type == DeviceType.CPU and not event.name.startswith("ProfilerStep"):
            yield Execution(event.name, _chain(event), event.self_cpu_time_total)


def _on_device(events: Iterable[Any]) -> list[Any]:
    return [each for each in events if each.device_type == DeviceType.CUDA and not each.is_user_annotation]


def busy_share(events: Iterable[Any]) -> float | None:
    """The share of the time from the first kernel to the last in which any kernel is running; None without kernels."""
    spans = sorted((each.time_range.start, each.time_range.end) for each in _on_device(events))
    if not spans:
        return None
    busy_us, end_us = 0.0, spans[0][0]
    for start, end in spans:
        busy_us += max(0.0, end - max(start, end_us))
        end_us = max(end_us, end)
    return busy_us / (end_us - spans[0][0])


def _chain(event: Any) -> str:
    """The names of an event and its enclosing events, innermost first: /aten::mm/aten::linear/forward/."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return f"/{'/'.join(names)}/"


def shares(executions: list[Execution]) -> dict[str, float]:
    """The share of the total time of each kind of work.

    A GRU's kernels are classified by their number of launches per step: kernels of a single frame are `recurrences`, products
    over all frames are `products`. If cuDNN keeps weights on the chip, one kernel runs all frames; its name contains "persist".
    """
    of_gru = Counter(execution.name for execution in executions if kind_of(execution.chain) == "gru")
    us: dict[str, float] = defaultdict(float)
    for execution in executions:
        kind = kind_of(execution.chain)
        if kind == "gru":
            per_frame = of_gru[execution.name] >= PER_FRAME_LAUNCHES * TRACED
            kind = FRAMES if per_frame or "persist" in execution.name.lower() else PRODUCTS
        us[kind] += execution.us
    total_us = sum(us.values())
    return {kind: taken_us / total_us for kind, taken_us in us.items()} if total_us else {}


def kind_of(chain: str) -> str:
    """The kind of work of a chain of names: one of KINDS, the rest, or unknown."""
    if not chain:
        return UNKNOWN
    return next((kind for kind, needles in KINDS if any(needle in chain for needle in needles)), REST)


def _shortened(kernel: str) -> str:
    """A kernel's name without its longest prefixes, cut to 72 characters."""
    name = kernel.removeprefix("void ").replace("at::native::", "").replace("(anonymous namespace)::", "")
    return name if len(name) <= 72 else f"{name[:69]}..."
