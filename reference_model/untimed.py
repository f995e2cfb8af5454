"""Training without the clock: the same trainer and variants, no benchmark rules, a checkpoint after every epoch.

    sh script/train.sh new          from scratch
    sh script/train.sh 7            resumes from the checkpoint of epoch 7

Checkpoints go to RESULTS_DIR/train/VARIANT/checkpoints. Log lines go to stdout, everything else to stderr. Exit status:
0 target reached (or EPOCHS trained), 1 not reached, 2 error.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

from benchmark.harness.run_dataset import ready_dataset
from benchmark.machine.trainer_gpus import usable_gpus
from benchmark.params import Params, load_params, load_variant
from benchmark.settings import SEED_LIMIT, from_environment
from benchmark.submission import PARAMS_FILE
from benchmark.trainer_contract import command_line
from common.cli import HelpFormatter
from common.errors import UserError, run_cli
from common.files import write_atomically
from common.progress import print_status
from reference_model.checkpoints.checkpoint_files import checkpoint_path, saved_epochs
from reference_model.inference.locate import training_dir
from reference_model.train import main as train

NEW = "new"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of script/train.sh."""
    parser = argparse.ArgumentParser(prog="sh script/train.sh", description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("start", metavar="new|EPOCH", help="train from scratch, or resume from this epoch's checkpoint")
    parser.add_argument(
        "--variant", default=os.environ.get("VARIANT") or "librispeech", help="default: VARIANT, else librispeech"
    )
    parser.add_argument("--params", type=Path, help="a parameter file of your own")
    parser.add_argument("--data", type=Path, help="a prepared dataset's folder (default: the variant's own)")
    parser.add_argument("--resume", default=None, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Prepare the folder and run the trainer; returns its exit status."""
    args = parse_arguments(argv)
    settings = from_environment(
        argparse.Namespace(**vars(args) | {"trainer_module": "reference_model.train"}), os.environ
    )
    params = load_params(args.params) if args.params else load_variant(args.variant)
    folder = training_dir(settings.results_dir, params.variant)
    if args.start == NEW:
        seed = settings.seed if settings.seed is not None else random.SystemRandom().randrange(SEED_LIMIT)
        resume = None
    else:
        resume = _find_checkpoint(folder, args.start)
        seed = _seed_of(resume, params)
    if warning := usable_gpus(settings).warning:
        print_status(warning)
    data = args.data or ready_dataset(params, settings, print_status).folder
    if args.start == NEW:
        _rename_previous(folder)
    _write_params(params, folder)
    command = command_line(
        params=folder / PARAMS_FILE,
        data=data,
        run_dir=folder,
        seed=seed,
        device=settings.device,
        resume=resume,
        progress="auto",
    )
    if epochs := os.environ.get("EPOCHS"):
        if not (epochs.isascii() and epochs.isdigit() and int(epochs) >= 1):
            raise UserError(f"must be a whole number from 1, not {epochs!r}", where="EPOCHS")
        command += ["--epochs", epochs]
    print_status(f"training {params.variant}, seed {seed}; checkpoints go to {folder / 'checkpoints'}")
    return train(command)


def _find_checkpoint(folder: Path, epoch: str) -> Path:
    if not (epoch.isascii() and epoch.isdigit()):
        raise UserError(f"give `{NEW}` or an epoch's number, not {epoch!r}", where="script/train.sh")
    path = checkpoint_path(folder, int(epoch))
    if not path.is_file():
        saved = saved_epochs(folder)
        raise UserError(
            f"no checkpoint of epoch {epoch}",
            where=folder,
            remedy=f"there are epochs {saved}" if saved else "start with `sh script/train.sh new`",
        )
    return path


def _seed_of(path: Path, params: Params) -> int:
    """The seed of a checkpoint; UserError where it was made with other parameters."""
    from reference_model.checkpoints.training_state import load_checkpoint  # imports torch

    checkpoint = load_checkpoint(path)
    if checkpoint.params_sha256 != params.sha256:
        raise UserError("made with other parameters", where=path, remedy="give the same --params, or start `new`")
    return checkpoint.seed


def _rename_previous(folder: Path) -> None:
    """Keep an earlier training under another name, so that its checkpoints are not mistaken for the new ones."""
    if folder.exists():
        renamed = folder.with_name(f"{folder.name}-until-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        folder.rename(renamed)
        print_status(f"the previous training is now in {renamed}")


def _write_params(params: Params, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PARAMS_FILE, params.dump().encode())


if __name__ == "__main__":
    sys.exit(run_cli(main))
