"""The contract between the harness and a trainer: command line, environment, log, progress, checkpoints, exit status.

The harness (`benchmark.harness.run`), the reference trainer and the checker (`compliance`) all import it from here.
docs/trainer.md is the same contract for authors of other trainers, and `examples/plain_trainer.py` uses all of it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson

from benchmark import clock, mllog
from benchmark.log_summary import LogSummary
from benchmark.mllog import LogWriter
from benchmark.params import Params
from benchmark.settings import DEVICES, ROOT
from common.cli import HelpFormatter
from common.errors import EXIT_ERROR, EXIT_FAILED, EXIT_OK, UserError
from common.files import write_atomically
from common.values import is_integer

if TYPE_CHECKING:  # error_rates imports rapidfuzz, which the harness does not need: a run starts earlier without it
    from benchmark.error_rates import Score

PAGE = "docs/trainer.md"
"""The documentation of this contract."""


# ---------------------------------------------------------------------------------------------------------------------
# Command line and environment


def command_line(
    *,
    params: Path,
    data: Path,
    run_dir: Path,
    seed: int,
    device: str,
    resume: Path | None = None,
    progress: str = "events",
) -> list[str]:
    """The options of a trainer's command line, in the order of `argument_parser`."""
    options = ["--params", str(params), "--data", str(data), "--run-dir", str(run_dir), "--seed", str(seed)]
    options += ["--device", device, "--progress", progress]
    return options + (["--resume", str(resume)] if resume else [])


def argument_parser(prog: str, description: str | None = None) -> argparse.ArgumentParser:
    """The parser of `command_line`'s options; a trainer may add options of its own.

    Arguments that it cannot parse end the process with exit status 2 and a line on stderr.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=HelpFormatter)
    parser.add_argument("--params", type=Path, required=True, help="a variant's parameter file")
    parser.add_argument("--data", type=Path, required=True, help="the folder of a prepared dataset")
    parser.add_argument("--run-dir", type=Path, required=True, help="the folder for checkpoints/")
    parser.add_argument("--seed", type=int, required=True, help="seed of weights, data order and augmentation")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--progress", choices=("auto", "events"), default="auto", help=argparse.SUPPRESS)
    parser.add_argument("--resume", type=Path, help="resume from this checkpoint")
    return parser


def variables(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that the harness sets for a trainer, in addition to the user's own (`inherited`).

    Under torchrun (NPROC or NNODES above 1) each process also has torchrun's: RANK, LOCAL_RANK, WORLD_SIZE and so on.
    """
    return {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [inherited.get("PYTHONPATH")])]),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        clock.VARIABLE: repr(clock.OFFSET_S),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Log

REPEATED = {
    mllog.GLOBAL_BATCH_SIZE: "train.batch_size",
    mllog.OPT_NAME: "optimizer.name",
    mllog.OPT_BASE_LEARNING_RATE: "optimizer.learning_rate",
    mllog.OPT_WEIGHT_DECAY: "optimizer.weight_decay",
    mllog.OPT_GRADIENT_CLIP_NORM: "optimizer.clip_norm",
    mllog.OPT_LEARNING_RATE_WARMUP_STEPS: "optimizer.warmup_steps",
    mllog.TARGET_WER: "train.target_wer",
}
"""Keys that repeat a parameter under its MLPerf name."""

PARAMETER_EVENTS = (
    mllog.SEED,
    mllog.NUMBER_OF_PROCESSES,
    mllog.GLOBAL_BATCH_SIZE,
    mllog.GRADIENT_ACCUMULATION_STEPS,
    mllog.TRAIN_SAMPLES,
    mllog.EVAL_SAMPLES,
    mllog.OPT_NAME,
    mllog.OPT_BASE_LEARNING_RATE,
    mllog.OPT_WEIGHT_DECAY,
    mllog.OPT_GRADIENT_CLIP_NORM,
    mllog.OPT_LEARNING_RATE_WARMUP_STEPS,
    mllog.HYPERPARAMETERS,
    mllog.TARGET_WER,
    mllog.ACCELERATORS,
)
"""The events of `log_parameters`."""

EPOCH_EVENTS = (
    mllog.EPOCH_START,
    mllog.EPOCH_STOP,
    mllog.TRACKED_STATS,
    mllog.EVAL_START,
    mllog.EVAL_ACCURACY,
    mllog.EVAL_STOP,
)
"""The events of each epoch, in order; each has its `epoch_num`, from 1."""

EVENTS = (
    mllog.INIT_START,
    *PARAMETER_EVENTS,
    mllog.INIT_STOP,
    mllog.RUN_START,
    *EPOCH_EVENTS,
    mllog.TRAINED_SAMPLES,
    mllog.RUN_STOP,
)
"""Every event that a trainer must log, in order, those of an epoch once per epoch. The harness logs those before and
after."""

STARTS = frozenset((mllog.INIT_START, mllog.RUN_START, mllog.EPOCH_START, mllog.EVAL_START))
"""Events that start an interval (`LogWriter.start`)."""
ENDS = frozenset((mllog.INIT_STOP, mllog.RUN_STOP, mllog.EPOCH_STOP, mllog.EVAL_STOP))
"""Events that end one (`LogWriter.end`); all others are points in time (`LogWriter.event`)."""

ONE_CPU = {"rank": 0, "device": "cpu", "name": "CPU", "uuid": None}
"""The device of a process as `accelerators` lists it; `uuid` is a GPU's UUID from its driver."""


def print_line(text: str) -> None:
    """Print one complete line on stdout in a single write, unbuffered.

    The harness times its lines, and other processes write too.
    """
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def log_parameters(
    log: LogWriter,
    params: Params,
    *,
    seed: int,
    train_samples: int,
    eval_samples: int,
    accelerators: Sequence[Mapping[str, object]] = (ONE_CPU,),
) -> None:
    """Log everything that determines the run's mathematics, under MLPerf's names where they exist, and completely
    under ours.

    The samples are the utterances of the training and the evaluation set; `accelerators` are the processes' devices,
    by rank.
    """
    flat = params.flat()
    values = {key: flat[name] for key, name in REPEATED.items()} | {
        mllog.SEED: seed,
        mllog.NUMBER_OF_PROCESSES: len(accelerators),
        mllog.GRADIENT_ACCUMULATION_STEPS: 1,
        mllog.TRAIN_SAMPLES: train_samples,
        mllog.EVAL_SAMPLES: eval_samples,
        mllog.HYPERPARAMETERS: flat,
        mllog.ACCELERATORS: list(accelerators),
    }
    for key in PARAMETER_EVENTS:
        log.event(key, values[key])


def log_score(log: LogWriter, score: Score, epoch: int) -> float:
    """Log the evaluation's result after `epoch`: WER (percent, returned), CER, and the counts of both."""
    assert score.wer is not None, "a manifest is never empty"
    counts = {name: getattr(score, name) for name in ("utterances", "word_edits", "words", "char_edits", "chars")}
    log.event(mllog.EVAL_ACCURACY, score.wer, epoch_num=epoch, cer=score.cer, mean_wer=score.mean_wer, **counts)
    return score.wer


def log_end(log: LogWriter, *, reached: bool, trained_samples: int, epoch: int) -> None:
    """Log the end of a run at its target or its last epoch; `trained_samples` counts utterances over all epochs."""
    log.event(mllog.TRAINED_SAMPLES, trained_samples, epoch_num=epoch)
    log.end(mllog.RUN_STOP, status=mllog.SUCCESS if reached else mllog.ABORTED, epoch_num=epoch)


def missing_from(summary: LogSummary) -> str | None:
    """What a log lacks for its run to have an outcome, such as `no run_start` or `no eval_accuracy for epoch 2`;
    None: nothing.

    This is the minimum for a time and an outcome. `compliance` checks that all of EVENTS are present and correct.
    """
    if summary.run_start is None:
        return f"no {mllog.RUN_START}"
    scores = [*(each.event for each in summary.evaluations), *summary.unread]
    for event in summary.epoch_starts + scores:
        if not is_integer(event.epoch_num, 1):
            return f"no whole number from 1 as {mllog.EPOCH_NUM} with {event.key}"
    evaluated = {event.epoch_num for event in scores}
    for epoch in [event.epoch_num for event in summary.epoch_starts] or [1]:
        if epoch not in evaluated:
            return f"no {mllog.EVAL_ACCURACY} for epoch {epoch}"
    if summary.unread:
        return f"no number as {mllog.EVAL_ACCURACY} for epoch {summary.unread[0].epoch_num}"
    if summary.run_stop is None:
        return f"no {mllog.RUN_STOP}"
    if summary.status not in (mllog.SUCCESS, mllog.ABORTED):
        return f"no {mllog.STATUS} {mllog.SUCCESS} or {mllog.ABORTED} with {mllog.RUN_STOP}"
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Progress

PROGRESS_TOKEN = b":::PROGRESS "


class ProgressLine(NamedTuple):
    """The progress of a pass over the data: `done` of `total` in `unit`s; `epoch` is 0 outside epochs.

    `phase` is `init`, `train`, `eval` or any other name; `note` is a short remark, such as the loss.
    """

    phase: str
    epoch: int
    done: int
    total: int
    unit: str = "utterances"
    note: str = ""

    def print(self) -> None:
        """Print it on stdout, as the line from which the harness draws its progress bar."""
        print_line(PROGRESS_TOKEN.decode() + orjson.dumps(self._asdict()).decode())


def read_progress(raw: bytes) -> ProgressLine | None:
    """Parse a line of the trainer's stdout; None if it is not a progress line."""
    if not raw.startswith(PROGRESS_TOKEN):
        return None
    try:
        fields = orjson.loads(raw.removeprefix(PROGRESS_TOKEN))
        epoch, done, total = (int(fields[name]) for name in ("epoch", "done", "total"))
        unit, note = (str(fields.get(name, "")) for name in ("unit", "note"))
        return ProgressLine(str(fields["phase"]), epoch, done, total, unit, note)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints

CHECKPOINTS = "checkpoints"
_CHECKPOINT = re.compile(r"epoch_(0[1-9]|[1-9][0-9]+)(\..*)?")
_DERIVED = (".safetensors", ".json", ".onnx")
"""Suffixes of what a checkpoint is converted to, next to it (`reference_model.checkpoint`, `export_onnx`)."""


def checkpoint_path(run_dir: Path, epoch: int, suffix: str = "") -> Path:
    """The path of the checkpoint after `epoch`, a file or a folder; `suffix` with its dot is the trainer's choice."""
    return Path(run_dir) / CHECKPOINTS / f"epoch_{epoch:02d}{suffix}"


def save_checkpoint(run_dir: Path, epoch: int, suffix: str, data: bytes) -> None:
    """Write the state after `epoch` as one file, atomically; OSError if the disk is full."""
    path = checkpoint_path(run_dir, epoch, suffix)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, data)


def checkpoints(run_dir: Path, suffix: str | None = None) -> dict[int, list[Path]]:
    """The checkpoints of a run by epoch; `suffix` None: any. A name that starts with a dot is unfinished and does not
    count.

    A .safetensors, .json or .onnx counts only if the run has no checkpoint of another kind: otherwise it was made
    from one.
    """
    paths = sorted((Path(run_dir) / CHECKPOINTS).glob("epoch_*"))
    matches = [(path, match) for path in paths if (match := _CHECKPOINT.fullmatch(path.name))]
    if suffix is not None:
        matches = [(path, match) for path, match in matches if match[2] == suffix]
    elif originals := [(path, match) for path, match in matches if not path.name.endswith(_DERIVED)]:
        matches = originals
    found: dict[int, list[Path]] = {}
    for path, match in matches:
        found.setdefault(int(match[1]), []).append(path)
    return found


def checkpoint_of(run_dir: Path, epoch: int) -> Path | None:
    """The checkpoint of `epoch` with any suffix, None if there is none; UserError if there are several."""
    found = checkpoints(run_dir).get(epoch, [])
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(
            f"epoch {epoch} has several checkpoints ({names})",
            where=found[0].parent,
            remedy="keep only the one that the run's trainer wrote",
        )
    return found[0] if found else None


# ---------------------------------------------------------------------------------------------------------------------
# Exit status

EXIT_STATUSES = {
    EXIT_OK: "the target was reached; under torchrun, the run ended in order",
    EXIT_FAILED: "the target was not reached; not under torchrun",
    EXIT_ERROR: "error",
}

TARGET_MISSED = "target not reached"
"""Start of the line on stderr with which a trainer, on every machine but the first, reports that the target was
missed."""


def exit_status(reached: bool, processes: int = 1) -> int:
    """The exit status of a trainer process whose run ended in order, with or without reaching the target.

    torchrun treats any status but 0 as a crash and ends the other processes: there, only the log has the outcome.
    """
    return EXIT_OK if reached or processes > 1 else EXIT_FAILED
