"""What a run ran on and with, as far as it may change its time: hardware, threads, code, libraries, cache state.

Every value is a text, or None where it is not known or does not apply.
"""

from __future__ import annotations

import re

from benchmark import mllog
from benchmark.log_summary import LogSummary
from benchmark.record import RunRecord
from benchmark.submission import devices_of
from results.reading.measures import described, text
from results.reading.run_data import Run

IDENTITY = {
    "processor": "host CPU",
    "cores": "cores",
    "host_memory": "host memory",
    "accelerator_memory": "GPU memory",
    "threads": "threads",
    "trainer": "trainer",
    "commit": "commit",
    "precision": "precision",
    "torch": "torch",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "driver": "driver",
    "gru_dtype": "GRU dtype",
    "gru_cuda_graphs": "GRU CUDA graphs",
    "conv_layout": "convolution layout",
    "input_format": "input format",
    "caches": "file caches",
    "container": "container",
}
"""What separates rows, with its heading in tables: runs that differ in one of these are not runs of one system."""
NOTED = {
    "operating_system": "operating system",
    "python": "Python",
    "numpy": "numpy",
    "nccl": "NCCL",
    "lock_file": "lock file",
    "allocator": "PyTorch allocator settings",
    "cards": "GPU UUIDs",
}
"""What may differ in a row and is named under it, with its name there. `cards` are the GPUs' UUIDs."""
UNNAMED_CPU = re.compile(r"CPU(?:, threads: ([0-9]+))?")
"""What the trainers here log as the name of a CPU: not its model."""
_GPU_ONLY = ("accelerator_memory", "cuda", "cudnn", "driver", "nccl", "cards")
_LIBRARIES = {"torch": "torch", "cuda": "cuda_runtime", "cudnn": "cudnn", "driver": "driver"}
_NOTED_LIBRARIES = {"python": "python", "numpy": "numpy", "nccl": "nccl", "operating_system": "operating_system"}
_COMMIT_DIGITS = 8


def configuration_of(run: Run, log: LogSummary) -> dict[str, str | None]:
    """The values of IDENTITY and NOTED for a DeepSpeech2 run; empty for other benchmarks, which log none of them."""
    if run.benchmark != mllog.BENCHMARK:
        return {}
    found = _from_log(run, log) | (_from_record(run.record) if run.record else {})
    if run.accelerators == 0:
        found |= dict.fromkeys(_GPU_ONLY)
    return {name: found.get(name) for name in (*IDENTITY, *NOTED)}


def _from_log(run: Run, log: LogSummary) -> dict[str, str | None]:
    precision = run.hyperparameters.get("train.precision")
    events = {name: _plain(log.value(name)) for name in ("gru_dtype", "gru_cuda_graphs", "conv_layout", "input_format")}
    if events["gru_dtype"] and not events["input_format"]:
        events["input_format"] = "audio files"  # The reference trainer logs only packed audio.
    cleared = log.value(mllog.CACHE_CLEAR)
    return events | {
        "processor": run.processor,
        "threads": _threads(log),
        "precision": text(precision),
        "caches": {True: "dropped", False: "not dropped"}.get(cleared) if isinstance(cleared, bool) else None,
        "cards": _cards(log),
    }


def _from_record(record: RunRecord) -> dict[str, str | None]:
    software, system = record.software, record.system
    libraries = {name: text(software.get(key)) for name, key in (_LIBRARIES | _NOTED_LIBRARIES).items()}
    usable = re.search(r"\busable cores: ([0-9.]+)", str(system.get("hw_notes")))
    return libraries | {
        "cores": usable[1] if usable else described(system.get("host_processor_core_count")),
        "host_memory": described(system.get("host_memory_capacity")),
        "accelerator_memory": described(system.get("accelerator_memory_capacity")),
        "trainer": record.trainer,
        "commit": _commit(record),
        "container": text(software.get("container")) or ("none" if software else None),
        "allocator": record.run.pytorch_alloc_conf or record.run.pytorch_cuda_alloc_conf,
        "lock_file": record.lock_sha256 and record.lock_sha256[:_COMMIT_DIGITS],
    }


def _commit(record: RunRecord) -> str | None:
    if record.code.commit is None:
        return None
    return record.code.commit[:_COMMIT_DIGITS] + ("" if record.code.clean else " with changes")


def _threads(log: LogSummary) -> str | None:
    """CPU threads of each trainer process: an event of its own, before that a part of the name of a CPU."""
    logged = log.value(mllog.CPU_THREADS)
    if logged is not None:
        resumed = log.first.get(mllog.RESUMED)
        later = resumed.metadata.get(mllog.CPU_THREADS) if resumed else None
        return f"{_plain(logged)}, resumed with {_plain(later)}" if later not in (None, logged) else _plain(logged)
    devices, _ = devices_of(log.value(mllog.ACCELERATORS))
    names = (UNNAMED_CPU.fullmatch(str(device.get("name"))) for device in devices)
    counts = {name[1] for name in names if name and name[1]}
    return counts.pop() if len(counts) == 1 else None


def _cards(log: LogSummary) -> str | None:
    devices, _ = devices_of(log.value(mllog.ACCELERATORS))
    return ", ".join(sorted({str(uuid) for device in devices if (uuid := device.get("uuid"))})) or None


def _plain(value: object) -> str | None:
    """A logged value as text: true and false as yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return None if value is None or isinstance(value, dict | list) else str(value)
