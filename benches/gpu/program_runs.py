"""Sections of `python -m benches gpu` that start this project's programs: timed runs, inference, tests."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from benches.gpu.full_step import fractions, narrowed
from benches.gpu.shared import Bench
from benches.gpu.table import ROOT
from benchmark.params import Params, load_variant
from benchmark.record import read_record
from benchmark.submission import RECORD_FILE
from common import limits
from datasets.synthesis import plans
from reference_model.checkpoints.checkpoint_files import checkpoint_path
from reference_model.inference.latency import WHOLE

ENDING_S = 8.0
"""A timed run that takes too long is terminated this long before its section is killed."""
TESTS = ("model/test_precision.py", "model/test_gru.py", "model/test_gru_graphs.py")
WER_BOUND = 0.1
"""Largest difference in percentage points between inference and training's evaluation on a GPU: rounding can flip near ties."""


def precision(bench: Bench) -> None:
    """Gradients of a whole step in each precision compared with float64, and GRUs in bf16: the tests and their figures.

    Run in this process, which has already initialised PyTorch and the device. RuntimeError if a test fails.
    """
    if not importlib.util.find_spec("pytest"):
        bench.row("precision", "not checked", reason="pytest is not installed")
        return
    import pytest

    failed = []

    class Rows:
        """A pytest plugin that writes a row for each test."""

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when != "call" and report.passed:
                return
            name = report.nodeid.partition("::")[2].removeprefix("test_").replace("_", " ")
            why = {} if report.passed else {"reason": _reason(report)}
            bench.row("precision", name, outcome=report.outcome, **dict(report.user_properties), **why)
            if report.failed:
                failed.append(name)

    # Other pytest plugins on this machine may take seconds to load. The rows contain everything.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    arguments = ["-p", "no:cacheprovider", "-p", "no:terminal"]
    arguments += [str(ROOT / "tests" / name) for name in TESTS]
    status = pytest.main(arguments, plugins=[Rows()])
    if failed or status:
        raise RuntimeError(f"failed: {'; '.join(failed) or f'pytest ended with status {int(status)}'}")


def _reason(report: Any) -> str:
    """Why a test failed or was skipped, in one line."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else str(report.longrepr)).splitlines()[0]


def synthetic(bench: Bench) -> None:
    """Two epochs of the variant `synthetic`, timed by the harness, on part of its corpus: the row describes the second."""
    # About ten seconds of synthesis, on any number of cores.
    hours = 0.1 if bench.tiny else round(max(1.0, min(12.0, 0.75 * limits.cores())))
    _timed_run(bench, "synthetic", plans.synthetic(hours).name, epochs=1 if bench.tiny else 2)


def mini(bench: Bench) -> None:
    """The variant `mini` to its target, as on a CPU."""
    if bench.tiny:
        bench.row("mini", "left out of the rehearsal", reason="it is the default run of a CPU")
        return
    _timed_run(bench, "mini", "mini", epochs=None)


def _inference_variant(bench: Bench) -> str:
    """The variant whose run is kept for the section `inference`."""
    return "synthetic" if bench.tiny else "mini"


def _timed_run(bench: Bench, variant: str, corpus: str, epochs: int | None) -> None:
    place = bench.kept / variant
    try:
        folder, params = _run(bench, place, variant, corpus, epochs)
        record = read_record(folder)
        gpu: dict[str, Any] = next((each for each in (record.telemetry or {}).get("gpus", []) if each["used"]), {})
        last = record.epochs[-1]
        waited = last.data_wait_s / last.train_s if last.data_wait_s is not None and last.train_s else None
        bench.row(
            variant,
            f"timed run, seed 1, {record.run.epochs} epochs",
            status=record.status,
            minutes=record.run.minutes,
            wer=record.run.final_wer,
            audio_s_per_s=last.audio_s_per_s,
            data_wait_share=waited,
            **fractions(bench, params, last.audio_s_per_s),
            energy_j=gpu.get("energy_j"),
            mean_power_w=(gpu.get("power_w") or {}).get("mean"),
            sm_active_pct=(gpu.get("sm_active_pct") or {}).get("mean"),
            tensor_active_pct=(gpu.get("tensor_active_pct") or {}).get("mean"),
        )
        with tarfile.open(bench.out / f"run_{variant}.tar.gz", "w:gz") as tar:
            for path in sorted(folder.iterdir()):
                if path.is_file():
                    tar.add(path, arcname=f"{variant}/{folder.name}/{path.name}")
    finally:
        # A checkpoint of the full-size model takes 1.25 GB.
        if variant != _inference_variant(bench):
            shutil.rmtree(place, ignore_errors=True)


def _run(bench: Bench, place: Path, variant: str, corpus: str, epochs: int | None) -> tuple[Path, Params]:
    """Synthesise the corpus and run the variant on it in the folder `place`; returns the run's folder and its parameters."""
    data, runs = place / "data", place / "runs"
    words = plans.synthesis_arguments(corpus)
    command = [sys.executable, "-m", "datasets", "synthesise", *words, "--data-dir", str(data)]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise RuntimeError("the corpus could not be synthesised")
    params = narrowed(bench, load_variant(variant))
    if corpus != params.data.folder:
        # A run on part of the corpus is not closed.
        params = dataclasses.replace(params, division="open", data=dataclasses.replace(params.data, folder=corpus))
    if epochs:
        params = dataclasses.replace(params, train=dataclasses.replace(params.train, max_epochs=epochs))
    file = place / "params.yaml"
    file.write_text(params.dump())
    environment = os.environ | {
        "DATA_DIR": str(data),
        "RESULTS_DIR": str(runs),
        "SEED": "1",
        "SUBMISSION_ORG": os.environ.get("SUBMISSION_ORG") or "Reference",
        "DEVICE": bench.device.type,
        # Otherwise every later interpreter would read PyTorch's gigabytes from the disk again.
        "DROP_CACHES": "0",
    }
    # Before the section is killed, so that the run's output is not lost.
    timeout_s = max(15.0, bench.deadline_s - time.monotonic() - ENDING_S)
    run = [sys.executable, "-m", "benchmark", "run", "--params", str(file)]
    stderr = place / "stderr.txt"
    with stderr.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(run, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            # Not SIGKILL: the harness must stop its trainer and data loader workers, which would keep using the GPU.
            process.terminate()
            raise RuntimeError(f"the run was not done within {timeout_s:.0f} s") from None
        finally:
            _end(process)
    if status not in (0, 1):
        raise RuntimeError(
            (stderr.read_text(errors="replace").strip().splitlines() or ["the run printed no error"])[-1]
        )
    (folder,) = (path.parent for path in runs.rglob(RECORD_FILE))
    return folder, params


def _end(process: subprocess.Popen) -> None:
    """Wait for a run that has ended or was terminated; kill it if it does not end."""
    try:
        process.wait(ENDING_S - 2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def inference(bench: Bench) -> None:
    """The checkpoint of the timed run of `mini` (in a rehearsal `synthetic`), through script/test.sh.

    RuntimeError if there is none, or if its word error rate differs from the one that training logged.
    """
    variant = _inference_variant(bench)
    place = bench.kept / variant
    folders = [path.parent for path in (place / "runs").rglob(RECORD_FILE)]
    if not folders:
        raise RuntimeError(f"the section {variant} has produced no run with a checkpoint")
    record = read_record(folders[0])
    checkpoint = checkpoint_path(folders[0], record.epochs[-1].epoch_num)
    out = bench.kept / "inference"
    (data,) = (path for path in (place / "data").iterdir() if path.is_dir() and not path.name.startswith("."))
    command = ["sh", "script/test.sh", str(checkpoint), str(data), "-1", "1", "-1"]
    command += ["--device", bench.device.type, "--out", str(out)]
    # This interpreter has every package: do not start a set-up.
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["script/test.sh printed no error"])[-1])
    report = json.loads((out / "inference.json").read_bytes())
    logged, found = record.epochs[-1].wer, report["score"]["wer"]
    bound = WER_BOUND if bench.on_gpu else 0.0
    bench.row(
        "inference",
        f"{variant}, epoch {record.epochs[-1].epoch_num}, one at a time",
        engine=report["options"]["engine"],
        precision=report["options"]["precision"],
        wer=found,
        wer_of_training=logged,
        bound=bound,
        p50_ms=report["times"][WHOLE]["p50_s"] * 1e3,
        audio_s_per_s=report["audio_s_per_s"],
    )
    if not abs(found - logged) <= bound:
        raise RuntimeError(f"WER {found:.3f} %, where training logged {logged:.3f} %")
