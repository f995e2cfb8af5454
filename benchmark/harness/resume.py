"""Resuming an interrupted run: the epoch to resume from, and checks that it is still the same run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark import mllog
from benchmark.mllog import Event
from benchmark.params import Params, load_params
from benchmark.record import RunRecord, read_record
from benchmark.settings import Settings
from benchmark.submission import LOG_FILE, PARAMS_FILE
from benchmark.trainer_contract import checkpoint_of, checkpoints
from common.errors import UserError
from datasets.dataset import Dataset

FINISHED = {"success": "reached its target", "aborted": "ended at its last epoch without the target"}


@dataclass(frozen=True)
class Resumption:
    """A run to resume: its old record, its parameters, and the last epoch with a checkpoint.

    `checkpoint` holds the state after `epoch`; the first `keep_bytes` of result.txt are the log up to there.
    """

    run_dir: Path
    record: RunRecord
    params: Params
    epoch: int
    checkpoint: Path
    keep_bytes: int


def plan(run_dir: Path, settings: Settings) -> Resumption:
    """Find where to resume the run in `run_dir`.

    Raises UserError if it cannot be resumed, or if the settings contradict it.
    """
    run_dir = run_dir.absolute()
    record = read_record(run_dir)
    if record.status in FINISHED:
        raise UserError(f"this run {FINISHED[record.status]}: there is nothing to resume", where=run_dir)
    if settings.seed is not None and settings.seed != record.seed:
        raise UserError(f"the run's seed is {record.seed}, not {settings.seed}", where="SEED", remedy="unset SEED")
    params = load_params(run_dir / PARAMS_FILE)
    if params.sha256 != record.params_sha256:
        raise UserError("the parameters are not those of the run's start", where=run_dir / PARAMS_FILE)
    epoch, keep_bytes = _last_whole_epoch(run_dir)
    checkpoint = checkpoint_of(run_dir, epoch)
    if checkpoint is None:
        raise UserError(
            "no epoch was finished and saved, so there is nothing to resume from",
            where=run_dir,
            remedy="start a new run",
        )
    return Resumption(run_dir, record, params, epoch, checkpoint, keep_bytes)


def check_dataset(resumption: Resumption, dataset: Dataset) -> None:
    """Raise UserError unless the run started with exactly this dataset."""
    if dataset.digest.tree_sha256 != resumption.record.dataset.tree_sha256:
        raise UserError(
            "the dataset is not the one that the run started with (its checksum differs)",
            where=dataset.folder,
            remedy="set DATA_DIR to the folder of that one, or start a new run",
        )


def _last_whole_epoch(run_dir: Path) -> tuple[int, int]:
    """The last epoch with a logged evaluation and a checkpoint (0: none), and the log's length in bytes up to it."""
    epoch = keep_bytes = at = 0
    kept = checkpoints(run_dir)
    path = run_dir / LOG_FILE
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return 0, 0
    with file:
        for raw in file:
            at += len(raw)
            event = mllog.parse_line(raw)
            if not isinstance(event, Event) or not raw.endswith(b"\n"):
                continue
            number = event.epoch_num
            if event.key == mllog.EVAL_STOP and isinstance(number, int) and number in kept:
                epoch, keep_bytes = number, at
    return epoch, keep_bytes
