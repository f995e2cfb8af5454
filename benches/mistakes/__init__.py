"""Trainers with one numerical mistake each, to show that the benchmark's target detects it.

    DEVICE=cpu SEED=1 sh run_and_time.sh --params benches/scaling/width_160.yaml --trainer-module benches.mistakes.wrong_blank

A score is meaningful only if a wrong trainer cannot achieve it. docs/synthetic.md has the results of each mistake.
"""

from __future__ import annotations

import sys

from benches.curves import MISTAKE
from benchmark.mllog import LogWriter
from benchmark.trainer_contract import print_line
from common.errors import run_cli
from reference_model import train


def train_with(mistake: str) -> None:
    """Log which mistake the trainer has, train, and exit the process."""
    LogWriter(print_line).event(MISTAKE, mistake)
    sys.exit(run_cli(train.main))
