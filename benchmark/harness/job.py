"""The job of a run: its settings resolved and checked before the clock starts, and its initial record."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmark.harness import launch, resume, run_dataset
from benchmark.harness.display import Display
from benchmark.machine import system
from benchmark.machine.trainer_gpus import gpus_of_run
from benchmark.params import Params
from benchmark.record import TIMING_VARIABLES, CodeVersion, DatasetFacts, RunFacts, RunRecord, timing_variables
from benchmark.settings import ROOT, Settings
from benchmark.submission import PARAMS_FILE
from common.errors import UserError
from common.files import write_atomically
from datasets.dataset import Dataset


@dataclass(frozen=True)
class Job:
    """One run to do: `run_dir` is its folder and exists; `resumption` is None for a new run."""

    settings: Settings
    params: Params
    dataset: Dataset
    seed: int
    run_dir: Path
    resumption: resume.Resumption | None
    gpus: tuple[str, ...] | None = None
    """The names of the GPUs that the trainer can use; empty for a run on the CPU; None: not known before it starts."""


def resolve(settings: Settings, display: Display) -> Job:
    """Resolve variant, dataset, seed and run folder; synthesises the corpus if it is missing and can be synthesised.

    UserError if the settings contradict each other, or the dataset is missing or damaged.
    """
    resumption = resume.plan(settings.resume, settings) if settings.resume else None
    if resumption and settings.trainer_module is None:
        settings = replace(settings, trainer_module=resumption.record.trainer)
    usable = gpus_of_run(settings)
    params = resumption.params if resumption else run_dataset.choose_params(settings, display.message, usable)
    if usable and usable.warning:
        display.message(usable.warning)
    gpus = usable.gpus if usable else None
    if settings.division == "closed" and params.division == "open":
        raise UserError("the variant's own division is open: it cannot be closed", where="SUBMISSION_DIVISION")
    processes, batch_size = settings.processes * settings.nodes, params.train.batch_size
    if processes > batch_size:
        raise UserError(
            f"{processes} trainer processes cannot share a batch of {batch_size} utterances",
            where="NPROC" if settings.nodes == 1 else "NPROC times NNODES",
            remedy=f"use at most {batch_size}",
        )
    dataset = run_dataset.ready_dataset(params, settings, display.message)
    if resumption:
        resume.check_dataset(resumption, dataset)
        display.message(f"resuming {resumption.run_dir} after epoch {resumption.epoch}")
        return Job(settings, params, dataset, resumption.record.seed, resumption.run_dir, resumption, gpus)
    seed = settings.seed if settings.seed is not None else int.from_bytes(os.urandom(4), "big")
    run_dir = _new_folder(settings, params, seed, gpus)
    display.message(f"run folder: {run_dir}")
    return Job(settings, params, dataset, seed, run_dir, None, gpus)


def _new_folder(settings: Settings, params: Params, seed: int, gpus: tuple[str, ...] | None) -> Path:
    """Make a new, unique folder: `<results>/<variant>/<host>-<gpu or cpu>-<UTC time>-s<seed>`."""
    device = system.gpu_label(gpus)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{_plain(platform.node())}-{_plain(device)}-{now}-s{seed}"
    if not settings.leads:
        name += f"-node{settings.node_rank}"
    parent = settings.results_dir / _plain(params.variant)
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        write_atomically(folder / PARAMS_FILE, params.dump().encode())
        return folder
    raise UserError("a thousand runs started here in this second", where=parent)


def _plain(text: str) -> str:
    """`text` made fit for a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "unnamed"


def trainer_command(job: Job) -> list[str]:
    """The command line that does the job's training."""
    return launch.trainer_command(
        job.settings,
        params_file=job.run_dir / PARAMS_FILE,
        data=job.dataset.folder,
        run_dir=job.run_dir,
        seed=job.seed,
        resume=job.resumption.checkpoint if job.resumption else None,
    )


def _portable(job: Job) -> tuple[str, ...]:
    """The job's command for the record, without the submitter's own paths, since records are published.

    Paths in the checkout are relative to it; others start with the name of the variable that gives their folder.
    """
    roots = {ROOT: "", job.settings.results_dir: "RESULTS_DIR/", job.dataset.folder.parent: "DATA_DIR/"}

    def portable(argument: str) -> str:
        for root, name in roots.items():
            if argument.startswith(f"{root}{os.sep}"):
                return name + argument.removeprefix(f"{root}{os.sep}")
        return argument

    return ("python", *map(portable, trainer_command(job)[1:]))


def initial_record(job: Job) -> RunRecord:
    """The record of a run that has just started, or of a resumed one."""
    settings, params, dataset = job.settings, job.params, job.dataset
    command = _portable(job)
    code = CodeVersion(**system.code_version(ROOT))
    if job.resumption:
        old = job.resumption.record
        notes = old.notes
        resumed = f"resumed after epoch {job.resumption.epoch}"
        if code != old.code:
            notes += (f"{resumed} with commit {code.commit}{'' if code.clean else ', changed'}",)
        if (settings.processes, settings.nodes) != (old.run.nproc, old.run.nnodes):
            notes += (f"{resumed} with {settings.processes} processes on {settings.nodes} machines",)
        notes += tuple(f"{resumed} {change}" for change in _changed_variables(old.run))
        run = replace(old.run, resumed_epochs=(*old.run.resumed_epochs, job.resumption.epoch))
        return replace(old, status="unfinished", reason=None, ended_at=None, command=command, run=run, notes=notes)
    return RunRecord(
        status="unfinished",
        reason=None,
        variant=params.variant,
        division=settings.division or params.division,
        params=params.as_dict(),
        params_sha256=params.sha256,
        seed=job.seed,
        started_at=utc_now(),
        ended_at=None,
        command=command,
        code=code,
        lock_sha256=system.lock_sha256(ROOT),
        dataset=_dataset_facts(dataset, params),
        system=system.describe(settings.nodes, job.gpus),
        software=system.software(),
        run=RunFacts(
            nproc=settings.processes,
            nnodes=settings.nodes,
            device=settings.device,
            target_wer=params.train.target_wer,
            drop_caches=settings.drop_caches,
            **timing_variables(os.environ),
        ),
    )


def _changed_variables(old: RunFacts) -> Iterator[str]:
    """The environment variables that change a run's time and differ now: `with NAME=VALUE` or `without NAME`."""
    for name, (field, value) in zip(TIMING_VARIABLES, timing_variables(os.environ).items(), strict=True):
        if value != getattr(old, field):
            yield f"without {name}" if value is None else f"with {name}={value}"


def _dataset_facts(dataset: Dataset, params: Params) -> DatasetFacts:
    train, evaluation = dataset.splits[params.data.train_split], dataset.splits[params.data.eval_split]
    stamp = run_dataset.valid_stamp(dataset)
    return DatasetFacts(
        name=dataset.name,
        tree_sha256=dataset.digest.tree_sha256,
        tar_cksum=dataset.digest.tar_cksum,
        tar_bytes=dataset.digest.tar_bytes,
        train_utterances=train.utterances,
        train_hours=train.duration_s / 3600,
        eval_utterances=evaluation.utterances,
        eval_hours=evaluation.duration_s / 3600,
        verified_at=stamp.verified_at if stamp else None,
        verified=stamp is not None,
    )


def utc_now() -> str:
    """The current time for records: UTC in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
