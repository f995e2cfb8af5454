"""Sections of `python -m benches gpu` that start programs of ours: timed runs through the harness, and the test of precision."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from benchmark.params import Params, load_variant
from benchmark.record import read_record
from datasets.digest import available_cores
from reference_model.features import Features
from reference_model.flops import floor_audio_s_per_s, work_per_audio_s

from .gpu_bench import ROOT, Bench


def precision(bench: Bench) -> None:
    """Gradients of a whole step in each precision beside float64 (tests/test_precision.py)."""
    if not importlib.util.find_spec("pytest"):
        bench.row("precision", "not checked", reason="pytest is not installed")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_precision.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    sys.stderr.write(done.stdout[-3000:])
    outcome = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]
    if done.returncode:
        raise RuntimeError(outcome)
    bench.row("precision", "gradients beside float64", outcome=outcome)


def synthetic(bench: Bench) -> None:
    """Two epochs of the variant `synthetic`, timed by the harness, on a corpus synthesised here: the second is the row's."""
    # About ten seconds of synthesis, whatever the number of cores.
    hours = 0.1 if bench.tiny else max(1.0, min(12.0, 0.75 * available_cores()))
    _timed_run(bench, "synthetic", ["synthetic", "--hours", f"{hours:g}"], epochs=1 if bench.tiny else 2)


def mini(bench: Bench) -> None:
    """The variant `mini` to its target, as on a CPU."""
    if bench.tiny:
        bench.row("mini", "left out of the rehearsal", reason="it is the default run of a CPU")
        return
    _timed_run(bench, "mini", ["mini"], epochs=None)


def _timed_run(bench: Bench, variant: str, corpus: list[str], epochs: int | None) -> None:
    with tempfile.TemporaryDirectory() as place:
        data, runs = Path(place) / "data", Path(place) / "runs"
        subprocess.run(
            [sys.executable, "-m", "datasets", "synthesise", *corpus, "--data-dir", str(data)], cwd=ROOT, check=True
        )
        params = load_variant(variant)
        if bench.tiny:
            small = dataclasses.replace(params.model, rnn_hidden=64)
            params = dataclasses.replace(params, model=small)
        if epochs:
            params = dataclasses.replace(params, train=dataclasses.replace(params.train, max_epochs=epochs))
        file = Path(place) / "params.yaml"
        file.write_text(params.dump())
        environment = os.environ | {
            "DATA_DIR": str(data),
            "RESULTS_DIR": str(runs),
            "SEED": "1",
            "DEVICE": bench.device.type,
        }
        # Before the section itself is ended, so that what the run said is not lost.
        timeout_s = max(15.0, bench.deadline_s - time.monotonic() - 15)
        done = subprocess.run(
            [sys.executable, "-m", "benchmark", "run", "--params", str(file)],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=timeout_s,
        )  # fmt: skip
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        (folder,) = (path.parent for path in runs.rglob("record.json"))
        record = read_record(folder)
        gpu = next((each for each in (record.telemetry or {}).get("gpus", []) if each["used"]), {})
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
            share_of_floor=_share_of_floor(bench, params, last.audio_s_per_s),
            energy_j=gpu.get("energy_j"),
            mean_power_w=(gpu.get("power_w") or {}).get("mean"),
            sm_active_pct=(gpu.get("sm_active_pct") or {}).get("mean"),
            tensor_active_pct=(gpu.get("tensor_active_pct") or {}).get("mean"),
        )
        with tarfile.open(bench.out / f"run_{variant}.tar.gz", "w:gz") as tar:
            for path in sorted(folder.iterdir()):
                if path.is_file():
                    tar.add(path, arcname=f"{variant}/{folder.name}/{path.name}")


def _share_of_floor(bench: Bench, params: Params, audio_s_per_s: float | None) -> float | None:
    """Of what this card could do at most, by the ceilings measured here."""
    if audio_s_per_s is None or bench.ceilings is None:
        return None
    work = work_per_audio_s(params, Features(params.features).bins)
    floor = floor_audio_s_per_s(work, params.train.batch_size, params.train.precision, bench.ceilings)
    return audio_s_per_s / floor if floor else None
