"""Trainers with one mistake each in their numerics, to see that the benchmark's target finds it.

    DEVICE=cpu SEED=1 sh run_and_time.sh --params benches/scaling/width_160.yaml --trainer-module benches.mistakes.wrong_blank

A score counts only if a wrong trainer cannot have it. docs/synthetic.md says what each mistake gave.
"""

from __future__ import annotations

import sys

from benches.curves import MISTAKE
from benchmark.mllog import LogWriter
from benchmark.trainer_contract import print_line
from common.errors import run_cli
from reference_model import train


def train_with(mistake: str) -> None:
    """Say in the log which mistake the trainer has, and train; ends the process."""
    LogWriter(print_line).event(MISTAKE, mistake)
    sys.exit(run_cli(train.main))
