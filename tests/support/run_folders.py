"""Simulated run folders in the harness's format (log, record, telemetry, parameters), and a small package of them."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import math
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from benchmark import mllog, record
from benchmark.log_summary import summarise
from benchmark.machine.system import FIELDS
from benchmark.params import Params
from benchmark.telemetry.csv_file import CSV_COLUMNS
from tests.conftest import ROOT
from tests.support.logs import FakeRun, fields_of, line_of

ORG, SYSTEM = "Example", "a-system"
"""Submitter and system of the small package."""
RESULT_FOLDER = f"results/{SYSTEM}/deepspeech2"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeMachine:
    """A simulated machine: `gpus` used by the run (0 for a CPU run), each with the same figures."""

    name: str = "a-machine"
    gpus: int = 0
    gpu_name: str = "NVIDIA H200"
    power_w: float = 500.0
    utilization_pct: float = 90.0
    processes: int | None = None
    """Trainer processes, if not one for each GPU."""

    def telemetry(self, region_s: float) -> dict:
        gpu = {
            "name": self.gpu_name,
            "used": True,
            "utilization_pct": {"mean": self.utilization_pct, "max": 100.0},
            "memory_used_bytes": {"mean": 60e9, "max": 70_000_000_000},
            "memory_total_bytes": 150_000_000_000,
            "power_w": {"mean": self.power_w, "max": self.power_w * 1.2},
            "energy_j": self.power_w * region_s,
            "sm_active_pct": {"mean": 55.0, "max": 80.0},
            "tensor_active_pct": {"mean": 21.0, "max": 40.0},
            "lost_at_s": None,
        }
        gpus = [{"index": index, "uuid": f"GPU-{index}"} | gpu for index in range(self.gpus)]
        trainer = {"cpu_pct": {"mean": 150.0, "max": 190.0}, "rss_bytes": {"mean": 1e9, "max": 1.3e9}}
        host = {"cpu_pct": {"mean": 80.0, "max": 99.0}}
        return {"interval_s": 1.0, "samples": 40, "region_s": region_s, "gpus": gpus, "host": host, "trainer": trainer}

    def accelerators(self) -> list[dict]:
        if not self.gpus:
            return [{"rank": 0, "device": "cpu", "name": "CPU, threads: 1", "uuid": None}]
        return [
            {"rank": rank, "device": f"cuda:{rank}", "name": self.gpu_name, "uuid": f"GPU-{rank}"}
            for rank in range(self.gpus)
        ]


def write_run(
    folder: Path,
    fake: FakeRun,
    machine: FakeMachine | None = None,
    edit: Callable[[list[str]], list[str]] = list,
    **changes: object,
) -> Path:
    """Write one run folder. `edit` changes the log's lines before the record is made, `changes` replace record fields."""
    machine = machine or FakeMachine()
    folder.mkdir(parents=True)
    lines = edit(
        dataclasses.replace(fake, platform=machine.name, processes=machine.processes or max(machine.gpus, 1)).write()
    )
    events = [mllog.parse_line(line.encode()) for line in lines]
    telemetry = machine.telemetry(summarise(events).run_s or 0.0)
    edited = []
    for line in lines:
        fields = fields_of(line)
        if fields["key"] == mllog.ACCELERATORS:
            fields["value"] = machine.accelerators()
        elif fields["key"] == mllog.TELEMETRY_SUMMARY:
            fields["value"] = telemetry
        elif fields["key"] == mllog.TRACKED_STATS:
            fields["value"] |= {"audio_s_per_s": 1234.5, "data_wait_s": 0.5}
        edited.append(line_of(fields))
    (folder / "result.txt").write_text("".join(line + "\n" for line in edited))
    (folder / "params.yaml").write_text(_params_text(fake.params))
    (folder / "trainer.err").write_text("")
    write_telemetry(folder / "telemetry.csv", machine, events)
    events = [mllog.parse_line(line.encode()) for line in edited]
    written = record.RunRecord(**(_fields(fake, machine, summarise(events), telemetry, folder) | changes))
    record.write_record(written, folder)
    return folder


@cache
def _params_text(params: Params) -> str:
    return params.dump()


def _fields(fake, machine, summary, telemetry, folder) -> dict:
    return {
        "status": summary.status,
        "reason": None,
        "variant": fake.params.variant,
        "division": fake.params.division,
        "params": fake.params.as_dict(),
        "params_sha256": fake.params.sha256,
        "seed": fake.seed,
        "started_at": "2026-01-01T00:00:00Z",
        "ended_at": "2026-01-01T00:10:00Z",
        "command": ("python", "-m", "reference_model.train"),
        "code": record.CodeVersion(commit=COMMIT, clean=True),
        "lock_sha256": "f" * 64,
        "dataset": record.DatasetFacts(
            name=fake.params.data.folder,
            tree_sha256=fake.tree_sha256,
            tar_cksum=1,
            tar_bytes=2,
            train_utterances=fake.train_samples,
            train_hours=0.5,
            eval_utterances=fake.eval_samples,
            eval_hours=0.1,
            verified_at=None,
            verified=False,
        ),
        "system": system(machine),
        "software": {"python": "3.11.7", "torch": "2.11.0"},
        "run": record.RunFacts(
            nproc=machine.processes or max(machine.gpus, 1),
            nnodes=1,
            device="cuda" if machine.gpus else "cpu",
            cache_cleared=True,
            epochs=len(summary.evaluations),
            best_wer=summary.best,
            final_wer=summary.final,
            target_wer=fake.params.train.target_wer,
            peak_memory_bytes=1_300_000_000,
            init_s=summary.init_s,
            run_s=summary.run_s,
            minutes=summary.minutes,
        ),
        "epochs": summary.epochs,
        "telemetry": telemetry,
        "files": record.hash_files(folder),
    }


def system(machine: FakeMachine) -> dict:
    """A description of the simulated machine in MLPerf's fields, complete except for those that cannot be detected."""
    known = {field: "N/A" for field in FIELDS} | {
        "submitter": "",
        "division": "",
        "status": "",
        "system_name": machine.name,
        "number_of_nodes": "1",
        "host_processor_model_name": "Example CPU 9000",
        "accelerators_per_node": str(machine.gpus),
        "cooling": "",
        "framework": "PyTorch 2.11.0",
        "other_software_stack": {"python": "3.11.7"},
    }
    return known | ({"accelerator_model_name": machine.gpu_name} if machine.gpus else {})


def write_telemetry(path: Path, machine: FakeMachine, events: list[mllog.Event]) -> None:
    """telemetry.csv at 1 Hz from first to last event, with the log's epochs as marks."""
    start, stop = events[0].time_ms / 1000, events[-1].time_ms / 1000
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for event in events:
            if event.key in (mllog.RUN_START, mllog.RUN_STOP, mllog.EPOCH_START, mllog.EVAL_START):
                writer.writerow({"time_unix_s": event.time_ms / 1000, "device": "mark", "mark": event.key})
        for second in range(math.ceil(stop - start)):
            base = {"time_unix_s": start + second, "elapsed_s": second}
            writer.writerow(base | {"device": "host", "cpu_pct": 80, "memory_used_bytes": 5e9})
            writer.writerow(base | {"device": "trainer", "cpu_pct": 150, "rss_bytes": 1e9, "processes": 3})
            for gpu in range(machine.gpus):
                wave = 1 + 0.1 * math.sin(second / 3)
                row = {
                    "device": f"gpu{gpu}",
                    "uuid": f"GPU-{gpu}",
                    "utilization_pct": min(100, machine.utilization_pct * wave),
                    "power_w": machine.power_w * wave,
                    "memory_used_bytes": 6e10,
                }
                writer.writerow(base | row)


def write_series(
    folder: Path,
    count: int,
    machine: FakeMachine | None = None,
    slower: float = 1.0,
    seed_offset: int = 0,
    **changes: object,
) -> list[Path]:
    """`count` runs with distinct seeds and slightly different times; `slower` multiplies the time of an epoch."""
    machine = machine or FakeMachine()
    runs = []
    for number in range(count):
        fake = FakeRun(
            seed=1000 + seed_offset + number * 7919,
            start_s=1_760_000_000.0 + 3600 * number,
            train_s=9.0 * slower * (1 + 0.02 * math.sin(number)),
            **changes,
        )
        runs.append(write_run(folder / f"run-{number:02d}-s{fake.seed}", fake, machine))
    return runs


def small_checkout(folder: Path) -> record.CodeVersion:
    """A git repository in `folder` with a few files of this checkout, and its commit.

    Packages of runs with this commit are built in a fraction of the time that the whole checkout takes.
    """
    for name in (
        "requirements.lock",
        "pyproject.toml",
        "run_and_time.sh",
        "benchmark/mllog.py",
        "examples/plain_trainer.py",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)

    def git(*arguments: str) -> str:
        command = ["git", "-C", folder, "-c", "user.name=t", "-c", "user.email=t@invalid", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    return record.CodeVersion(commit=git("rev-parse", "HEAD"), clean=True)


def make_runs(folder: Path, checkout: Path) -> list[Path]:
    """Ten run folders of the code that is committed in a small checkout."""
    changes = {
        "code": small_checkout(checkout),
        "lock_sha256": hashlib.sha256((checkout / "requirements.lock").read_bytes()).hexdigest(),
    }
    made = []
    for number in range(10):
        edits = (1290, 800, 420, 240 + number) if number % 2 else (1280 + number, 800, 420, 330, 250)
        run = FakeRun(seed=100 + 7919 * number, start_s=1_760_000_000.0 + 3600 * number, word_edits=edits)
        run.train_s += number / 10
        made.append(write_run(folder / f"run-{number}", run, FakeMachine("two-gpus", gpus=2), **changes))
    return made


def make_package(folder: Path) -> Path:
    """A compliant package of ten runs below `folder`."""
    import results.package  # only a few of the tests that use this module need it

    for name in ("checkout", "runs", "package"):
        (folder / name).mkdir()
    described = folder / "describe.yaml"
    described.write_text("cooling: air\nhost_networking: none\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results.package, "ROOT", folder / "checkout")
        runs = make_runs(folder / "runs", folder / "checkout")
        return results.package.build_package(runs, ORG, SYSTEM, folder / "package", described)


def update_checksums(org: Path) -> None:
    """Write SHA256SUMS again, as anyone who edits a package can."""
    files = sorted(p.relative_to(org).as_posix() for p in org.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256((org / name).read_bytes()).hexdigest()}  {name}\n" for name in files]
    (org / "SHA256SUMS").write_text("".join(lines))
