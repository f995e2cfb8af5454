"""What MLPerf's rules say of a benchmark in a round: names, number of runs, failed runs forgiven, unit of progress.

Sources: `mlperf_logging.benchmark_meta` (runs), `result_summarizer` (runs dropped, aliases), `rcp_checker` (units of
progress, Stable Diffusion's targets); for round 0.5 the rules of that round.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from benchmark.rounds.round_names import HPC, TRAINING, USAGES, Round
from benchmark.submission import BENCHMARK, RUNS

_ALIASES = {"mask": "maskrcnn"}
_DROPPED = {"unet3d": 4}
COUNTED_IN_SAMPLES = (
    "deepseekv3_671b",
    "dlrmv4",
    "flux1",
    "gpt_oss_20b",
    "llama2_70b_lora",
    "llama31_405b",
    "llama31_8b",
    "qwen35_397b_grpo",
    "stable_diffusion",
)
"""Benchmarks whose convergence is counted in training samples."""
_SAMPLES_AS_EPOCHS = ("bert", "openfold")
"""Benchmarks that log the samples trained as `epoch_num`; unet3d has done so since v3.1."""
_EPOCH_SAMPLES = {"maskrcnn": 117_266, "retinanet": 1_170_301}
"""Samples of an epoch, where the logs' `train_samples` is often something else: 117,266 images of COCO 2017 have
annotations; OpenImages, which ssd uses since v2.0 under retinanet's rules, has 1,170,301."""
_METRICS = {"stable_diffusion": (("FID", 90.0, True), ("CLIP", 0.15, False))}
EPOCHS, SAMPLES, STEPS, TOKENS = "epochs", "samples", "steps", "tokens"
UNIT_KEYS = {EPOCHS: "epoch_num", SAMPLES: "samples_count", STEPS: "step_num"}
"""Units of the progress of training, each with its key in the metadata of an evaluation."""


_LATER_CHECKS = {
    ("1.1", None): ("weights_initialization", "initialized_tensors"),
    ("2.1", "bert"): ("opt_lamb_epsilon",),
    ("3.0", "bert"): ("opt_lamb_epsilon",),
}
"""What mlperf_logging's rule set of a round requires today and did not when the round was published: 117 published
results of rounds 1.1, 2.1 and 3.0 do not log it. None: all benchmarks of the round."""


@dataclass(frozen=True)
class Rules:
    """The rules for one benchmark in one round.

    A result has `runs` runs (None: not known), of which the `dropped` fastest and slowest do not count, so that as many
    may fail. `first_successes`: only the first `runs` successful runs count, whatever failed between them (ncf in round
    0.5). `unit` is the unit of progress; `metrics` are the metrics that must all pass at one evaluation, each with its
    limit and whether it is a maximum. `trained_samples`: some logs give the samples trained only in `train_samples`.
    `epoch_samples` are the samples of an epoch (None: the log's `train_samples`), `first_epoch` is the number of the
    epoch with which training starts, as logs count it.
    """

    runs: int | None
    dropped: int = 1
    first_successes: bool = False
    unit: str = EPOCHS
    metrics: tuple[tuple[str, float, bool], ...] = ()
    trained_samples: bool = False
    epoch_samples: int | None = None
    first_epoch: int = 0


def canonical_name(benchmark: str) -> str:
    """A benchmark's name; some submitters used others (`mask` for `maskrcnn`)."""
    return _ALIASES.get(benchmark, benchmark)


@functools.cache
def rules_of(benchmark: str | None, its_round: Round | None = None) -> Rules:
    """The rules for a benchmark in a round; without a round, those of the newest with the benchmark."""
    name = canonical_name(benchmark or "")
    version = its_round.version if its_round else None
    if name == "ncf" and version == "0.5":
        return Rules(runs=50, first_successes=True)
    return Rules(
        {**runs_of(HPC), **runs_of(TRAINING), BENCHMARK: RUNS}.get(name),
        _DROPPED.get(name, 1),
        unit=_unit(name, version),
        metrics=_METRICS.get(name, ()),
        trained_samples=name == "bert",
        epoch_samples=_EPOCH_SAMPLES.get("retinanet" if name == "ssd" and _since("2.0", version) else name),
        first_epoch=1 if name == "dlrm" else 0,
    )


def _unit(name: str, version: str | None) -> str:
    """The unit of a benchmark's progress in a round."""
    if name == "stable_diffusion" and version == "3.1":
        return STEPS
    if name in (*COUNTED_IN_SAMPLES, *_SAMPLES_AS_EPOCHS) or (name == "unet3d" and _since("3.1", version)):
        return SAMPLES
    return TOKENS if name == "gpt3" else EPOCHS


def _since(first: str, version: str | None) -> bool:
    """Whether a round is `first` or later; without a version, it is the newest."""
    return version is None or tuple(map(int, version.split("."))) >= tuple(map(int, first.split(".")))


def later_checks(benchmark: str | None, its_round: Round | None) -> tuple[str, ...]:
    """Keys and names in mlperf_logging's rules that were added after the round was published."""
    version = its_round.version if its_round and its_round.usage == TRAINING else ""
    return _LATER_CHECKS.get((version, None), ()) + _LATER_CHECKS.get((version, canonical_name(benchmark or "")), ())


@functools.cache
def runs_of(usage: str) -> dict[str, int]:
    """Runs of one result by benchmark of MLPerf Training or HPC, from mlperf_logging."""
    # Imported here, because `run_and_time.sh --help` runs before anything is installed.
    from mlperf_logging.benchmark_meta import get_result_file_counts

    return get_result_file_counts(usage)


def usage_of(benchmark: str | None) -> str | None:
    """The suite to which a benchmark belongs, `training` or `hpc`; None for others."""
    return next((usage for usage in USAGES if canonical_name(benchmark or "") in runs_of(usage)), None)
