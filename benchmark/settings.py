"""The settings of a run: the command line first, then the environment. They never change the run's mathematics."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.submission import DIVISIONS, STATUSES, Division
from common.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
"""The checkout, which holds `data/` and `runs/` by default."""

DEVICES = ("auto", "cuda", "cpu")
SEED_LIMIT = 1 << 32
TRAINER_MODULE = "reference_model.train"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one run. None means: not given.

    `org`, `platform`, `status` and `division` go into the log's submission lines; `processes` is the number of trainer
    processes on this machine, `nodes` the number of machines, of which this is number `node_rank` from 0.
    """

    variant: str | None = None
    params_file: Path | None = None
    resume: Path | None = None
    seed: int | None = None
    device: str = "auto"
    processes: int = 1
    nodes: int = 1
    node_rank: int = 0
    master_addr: str | None = None
    master_port: int = 29_500
    data_dir: Path = ROOT / "data"
    results_dir: Path = ROOT / "runs"
    drop_caches: bool = True
    org: str = "unspecified"
    platform: str | None = None
    status: str = "research"
    division: Division | None = None
    trainer_module: str | None = None

    @property
    def trainer(self) -> str:
        """The module that trains: the one asked for, or the reference trainer."""
        return self.trainer_module or TRAINER_MODULE

    @property
    def uses_torchrun(self) -> bool:
        """Whether several trainer processes make one run."""
        return self.processes > 1 or self.nodes > 1

    @property
    def leads(self) -> bool:
        """Whether this machine writes the log: the first of several, or the only one."""
        return self.node_rank == 0


VARIABLES = """examples:
  time sh run_and_time.sh | tee log               one run on this machine
  VARIANT=librispeech NPROC=8 sh run_and_time.sh  on eight GPUs
  RUNS=10 sh run_and_time.sh                      ten runs and their score
  sh run_and_time.sh --params mine.yaml           with your own parameters
  sh run_and_time.sh --resume runs/mini/RUN       resume an interrupted run
  NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 SEED=1 NPROC=8 sh run_and_time.sh
                  on the first of two machines; NODE_RANK=1 on the other

environment variables (an option takes precedence over its variable):
  VARIANT            the variant to run, as --variant; unset: librispeech if its
                     dataset is prepared, else synthetic on a GPU, mini on a CPU
  SEED               0..4294967295; drawn from the system and logged when unset
  RUNS               that many runs with drawn seeds, and the score at the end;
                     an interrupted series is resumed
  DEVICE             auto (default: a GPU if there is one), cuda or cpu
  NPROC              trainer processes on this machine, one per GPU or CPU core
                     (default 1)
  NNODES, NODE_RANK  number of machines (default 1); which one this is, from 0
  MASTER_ADDR, MASTER_PORT
                     address and port (default 29500) of machine 0, for
                     NNODES > 1
  DATA_DIR, RESULTS_DIR
                     the folders of corpora and runs (default: data/ and runs/
                     in the checkout)
  OMP_NUM_THREADS    CPU threads of each trainer process (default: 1 for a small
                     network on a CPU or several processes, else one per core)
  PYTORCH_ALLOC_CONF, PYTORCH_CUDA_ALLOC_CONF
                     PyTorch's settings for GPU memory
  DROP_CACHES        0: do not drop the system's file caches (logged as
                     cache_clear false)
  PYTHON             an interpreter with everything installed: no set-up
  WHEELS             a folder of wheels to set up from without a network
                     (docs/setup.md)
  SUBMISSION_ORG, SUBMISSION_PLATFORM, SUBMISSION_STATUS, SUBMISSION_DIVISION
                     values of the log's submission lines (default: unspecified,
                     this machine, research, the variant's own division)

Each run leaves its log, record, telemetry and checkpoints in a new folder RESULTS_DIR/VARIANT/HOST-DEVICE-TIME-sSEED; stderr
names it. Exit status: 0 target reached, 1 not reached, 2 error.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m benchmark run`."""
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--variant", metavar="NAME", help="a variant that comes with the benchmark")
    chosen.add_argument("--params", metavar="FILE", type=Path, help="your own parameter file")
    chosen.add_argument("--resume", metavar="RUN_DIR", type=Path, help="resume an interrupted run")
    parser.add_argument(
        "--trainer-module",
        metavar="MODULE",
        help=f"the Python module that trains, as docs/trainer.md asks (default: {TRAINER_MODULE}; with --resume the run's)",
    )


def from_environment(options: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """Settings from parsed options and the environment; an invalid value is a UserError that names its variable."""
    nodes = _whole(environ, "NNODES", 1, low=1)
    node_rank = _whole(environ, "NODE_RANK", 0, low=0)
    master_addr = environ.get("MASTER_ADDR") or None
    seed = _whole(environ, "SEED", None, low=0, high=SEED_LIMIT - 1)
    if node_rank >= nodes:
        raise UserError(f"must be below NNODES ({nodes}), not {node_rank}", where="NODE_RANK")
    if nodes > 1 and master_addr is None:
        raise UserError("must give machine 0's address when NNODES > 1", where="MASTER_ADDR")
    if nodes > 1 and seed is None:
        raise UserError("must be given when NNODES > 1, the same on every machine", where="SEED")
    chosen = options.variant or options.params or options.resume
    return Settings(
        variant=options.variant or (None if chosen else environ.get("VARIANT") or None),
        params_file=options.params,
        resume=options.resume,
        seed=seed,
        device=_choice(environ, "DEVICE", DEVICES, "auto"),
        processes=_whole(environ, "NPROC", 1, low=1),
        nodes=nodes,
        node_rank=node_rank,
        master_addr=master_addr,
        master_port=_whole(environ, "MASTER_PORT", 29_500, low=1, high=65_535),
        data_dir=Path(environ.get("DATA_DIR") or ROOT / "data").absolute(),
        results_dir=Path(environ.get("RESULTS_DIR") or ROOT / "runs").absolute(),
        drop_caches=_choice(environ, "DROP_CACHES", ("0", "1"), "1") == "1",
        org=environ.get("SUBMISSION_ORG") or "unspecified",
        platform=environ.get("SUBMISSION_PLATFORM") or None,
        status=_choice(environ, "SUBMISSION_STATUS", STATUSES, "research"),
        division=_choice(environ, "SUBMISSION_DIVISION", DIVISIONS, None),
        trainer_module=options.trainer_module,
    )


def _whole(environ: Mapping[str, str], name: str, default: int | None, *, low: int, high: int | None = None) -> Any:
    text = environ.get(name)
    if not text:
        return default
    rule = f"must be a whole number from {low}" + (f" to {high}" if high is not None else "")
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise UserError(f"{rule}, not {text!r}", where=name)
    if int(text) < low or (high is not None and int(text) > high):
        raise UserError(f"{rule}, not {text}", where=name)
    return int(text)


def _choice(environ: Mapping[str, str], name: str, choices: tuple[str, ...], default: str | None) -> Any:
    text = environ.get(name) or default
    if text is not None and text not in choices:
        raise UserError(f"must be one of {', '.join(choices)}, not {text!r}", where=name)
    return text
