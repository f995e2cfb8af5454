"""The reference trainer: one variant, from scratch or from a checkpoint, until the target or the last epoch.

    python -m reference_model.train --params benchmark/variants/mini.yaml --data data/mini --run-dir runs/try --seed 1
    python -m torch.distributed.run --nproc-per-node 2 -m reference_model.train ...

Log lines go to stdout (from rank 0 only), progress and errors to stderr. Exit status: 0 target reached, 1 not reached,
2 error; under torchrun 0 for both of the first. The benchmark harness (`benchmark.harness.run`) starts this as a
process and times it from its log.
"""

from __future__ import annotations

import argparse

from benchmark import trainer_contract
from benchmark.params import load_params
from common.errors import run_cli
from reference_model.training.trainer_options import AUTO, CONV_LAYOUTS


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The trainer's options."""
    parser = trainer_contract.argument_parser("python -m reference_model.train", __doc__)
    parser.add_argument(
        "--workers",
        type=int,
        help="data loader workers per trainer process (default: chosen by device, cores and memory)",
    )
    parser.add_argument(
        "--epochs", type=int, help="train to this epoch, ignoring the target and the last epoch (not a timed run)"
    )
    parser.add_argument(
        "--profile", action="store_true", help="write a trace and a breakdown of the time to the run's folder"
    )
    parser.add_argument(
        "--conv-layout",
        choices=(AUTO, *CONV_LAYOUTS),
        default=AUTO,
        help="memory layout of the convolutional front-end (default: channels-last in bf16 on a GPU); same results",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; returns the exit status."""
    args = parse_arguments(argv)
    params = load_params(args.params)
    from reference_model.training import training_run  # imports torch, which --help need not wait for

    return training_run.run(args, params)


if __name__ == "__main__":
    status = run_cli(main)
    from reference_model.training.distributed import end_process

    end_process(status)
