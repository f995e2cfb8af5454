"""Overhead of the harness and the log: their processor time in the timed region, as a share of the run's time.

    python -m benches.harness_overhead

A real run of `mini` for one epoch through `python -m benchmark run`, with telemetry. Counted is all processor time of the
harness between run_start and run_stop, as if the trainer had to wait for all of it, plus the cost of the trainer's own log
lines (the measured cost of one line times their number). Needs the corpus `mini` in DATA_DIR.
"""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from benches.line import Line, report, seconds
from benchmark import mllog
from benchmark.params import load_variant
from common.errors import UserError, run_cli
from datasets.dataset import default_data_dir, is_prepared

GOAL_SHARE = 0.01
LINES = 2_000


def line_s() -> float:
    """Seconds to write one log line of an epoch's statistics."""
    with open(os.devnull, "w") as sink:
        log = mllog.LogWriter(lambda text: print(text, file=sink, flush=True))
        stats = {f"figure_{number}": number / 7 for number in range(8)}
        return seconds(lambda: [log.event("tracked_stats", stats, epoch_num=1) for _ in range(LINES)]) / LINES


def harness_s(params_file: Path, runs: Path) -> tuple[float, float, int]:
    """Processor seconds of the harness in a run's timed region, the region's length in seconds, and the number of log lines."""
    environment = os.environ | {"RESULTS_DIR": str(runs), "SEED": "1", "DEVICE": "cpu", "DROP_CACHES": "0"}
    command = [sys.executable, "-m", "benchmark", "run", "--params", str(params_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert isinstance(process.stdout, io.BufferedReader) and process.stderr
        harness = psutil.Process(process.pid)
        used: dict[str, float] = {}
        events: dict[str, mllog.Event] = {}
        lines = 0
        for raw in process.stdout:
            event = mllog.parse_line(raw)
            if not isinstance(event, mllog.Event):
                continue
            lines += 1
            if event.key in (mllog.RUN_START, mllog.RUN_STOP):
                # Only its own time: its children are the run itself.
                times = harness.cpu_times()
                used[event.key], events[event.key] = times.user + times.system, event
        errors = process.stderr.read().decode()
    if process.returncode not in (0, 1) or mllog.RUN_STOP not in used:
        raise UserError(f"the run failed: {errors.strip().splitlines()[-1] if errors.strip() else process.returncode}")
    run_s = (events[mllog.RUN_STOP].time_ms - events[mllog.RUN_START].time_ms) / 1000
    return used[mllog.RUN_STOP] - used[mllog.RUN_START], run_s, lines


def main() -> int:
    """Measure and print; exit status 0 if the goal is met."""
    if not is_prepared(default_data_dir() / "mini"):
        raise UserError("the corpus `mini` is missing", remedy="python -m datasets synthesise mini")
    params = load_variant("mini")
    params = dataclasses.replace(params, train=dataclasses.replace(params.train, max_epochs=1))
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "params.yaml"
        file.write_text(params.dump())
        used_s, run_s, lines = harness_s(file, Path(place) / "runs")
    logging_s = line_s() * lines
    share = (used_s + logging_s) / run_s
    return report(
        [
            Line(
                "harness and logging",
                f"{used_s + logging_s:.3f} s",
                f"run {run_s:.1f} s",
                share,
                GOAL_SHARE,
                at_most=True,
            )
        ]
    )


if __name__ == "__main__":
    sys.exit(run_cli(main))
