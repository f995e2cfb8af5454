"""Section `resume` of `python -m benches gpu`: a stopped and resumed training compared with the same training uninterrupted.

On a CPU both end bit-identical. On a GPU not even two uninterrupted trainings do: PyTorch's CTC loss accumulates its gradient
with atomic additions, whose order changes from run to run, so that a gradient differs in its last bits. The effect on a step is
small compared with the step itself: a few roundings of fp32 (2^-24) in a gradient, and in bf16 some elements that round to the
other neighbour (2^-8), of which a tensor averages many. A resumed training that lost part of its state (momentum, learning
rate, position in the data order) diverges: its weights differ by a large part of how much the resumed epochs changed them.
Therefore the difference is measured relative to that change, and the bounds are between the two cases. Losses are compared
relative to the first epoch's: this training ends with a loss of a 300th of that, which itself repeats only within 1 %. On an H200
in fp32, two uninterrupted trainings differed by 0.45 % of the change of the weights and by 7e-5 of the first loss, a resumed one by
0.29 % and 2e-5. On a CPU, one that lost its momentum differed by 39 % and 9 %, one that lost its learning rate's decay by 16 % and
0.9 %.
"""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benches.gpu.full_step import narrowed
from benches.gpu.shared import Bench
from benches.gpu.table import ROOT
from benches.training.loader import make_split
from benchmark import mllog
from benchmark.params import Params, load_variant
from common.errors import EXIT_FAILED, EXIT_OK
from datasets.dataset import write_description
from reference_model.checkpoints.checkpoint_files import checkpoint_path
from reference_model.checkpoints.training_state import load_checkpoint

WEIGHTS_BOUND, LOSS_BOUND = 0.05, 1e-3
"""On a GPU: relative to the resumed epochs' change of the weights, and to the first loss. On a CPU nothing may differ."""
EPOCHS = 3
HIDDEN, UTTERANCES = 256, 48


@dataclass(frozen=True)
class Difference:
    """The difference between a resumed training and the uninterrupted one.

    `of_change` is the norm of the difference of all weights over the norm of their change in the resumed epochs; `tensor` the
    largest norm of a single tensor's difference over the tensor's own norm, including the batch norms' running statistics;
    `losses` the difference of each epoch's loss over the first epoch's, which comes before anything was resumed.
    """

    of_change: float
    tensor: float
    losses: tuple[float, ...]

    def within_bounds(self, device: str) -> bool:
        """Whether the difference is within the bounds for `device`."""
        if device == "cpu":
            return not (self.of_change or self.tensor or any(self.losses))
        return self.of_change <= WEIGHTS_BOUND and max(self.losses) <= LOSS_BOUND


def resume(bench: Bench) -> None:
    """The closed model with narrow GRUs, in bf16 and fp32 (in a rehearsal fp32), stopped after an epoch and resumed.

    RuntimeError if a bound is exceeded.
    """
    data = bench.kept / "resume"
    split = make_split(data, 8 if bench.tiny else UTTERANCES)
    write_description(dataclasses.replace(split, splits={"train": split.splits["train"], "val": split.splits["train"]}))
    precisions = ["bf16", "fp32"] if bench.on_gpu else ["fp32"]

    def compare(precision: str) -> Difference:
        return resumed(_params(bench, precision), data, bench.kept / f"resume_{precision}", bench.device.type)

    # In parallel: a short training mostly waits for its process to start.
    with ThreadPoolExecutor() as pool:
        differences = dict(zip(precisions, pool.map(compare, precisions), strict=True))
    for precision, difference in differences.items():
        bench.row(
            "resume",
            f"stopped after 1 of {EPOCHS} epochs, {precision}",
            weights_differ=difference.of_change,
            weights_bound=WEIGHTS_BOUND if bench.on_gpu else 0.0,
            losses_differ=" ".join(f"{each:.2g}" for each in difference.losses),
            loss_bound=LOSS_BOUND if bench.on_gpu else 0.0,
            worst_tensor_differs=difference.tensor,
        )
    exceeded = [each for each, difference in differences.items() if not difference.within_bounds(bench.device.type)]
    if exceeded:
        raise RuntimeError(f"bound exceeded: {', '.join(exceeded)}")


def _params(bench: Bench, precision: str) -> Params:
    params = narrowed(bench, load_variant("librispeech"))
    model = dataclasses.replace(params.model, rnn_hidden=min(HIDDEN, params.model.rnn_hidden))
    batch = 4 if bench.tiny else 8
    train = dataclasses.replace(params.train, precision=precision, max_epochs=EPOCHS, target_wer=0.0, batch_size=batch)
    return dataclasses.replace(params, model=model, train=train)


def resumed(params: Params, data: Path, place: Path, device: str) -> Difference:
    """Train on the dataset in `data` for all epochs; and for one epoch, resuming from that checkpoint to the last.

    Three processes of the reference trainer, which write into the folder `place`. RuntimeError if one fails.
    """
    epochs = params.train.max_epochs
    whole, stopped = place / "whole", place / "stopped"
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(train, params, data, *each) for each in ((whole, device, epochs), (stopped, device, 1))]
        whole_losses, losses = (each.result() for each in both)
    first, last = checkpoint_path(stopped, 1), checkpoint_path(stopped, epochs)
    losses += train(params, data, stopped, device, epochs, first)
    of_change, tensor = weights_differ(checkpoint_path(whole, epochs), last, first)
    return Difference(
        of_change, tensor, tuple(abs(b - a) / abs(whole_losses[0]) for a, b in zip(whole_losses, losses, strict=True))
    )


def train(
    params: Params, data: Path, folder: Path, device: str, epochs: int, checkpoint: Path | None = None
) -> list[float]:
    """Train, from a checkpoint if given; returns the loss of each trained epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "params.yaml"
    file.write_text(params.dump(), encoding="utf-8")
    command = [sys.executable, "-m", "reference_model.train", "--params", file, "--data", data, "--run-dir", folder]
    command += ["--seed", "1", "--device", device, "--epochs", epochs, "--workers", 0 if device == "cpu" else 1]
    command += ["--resume", checkpoint] if checkpoint else []
    # On a CPU, concurrent trainings would compete for the cores.
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if device == "cpu" else {})
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True)
    if done.returncode not in (EXIT_OK, EXIT_FAILED):
        raise RuntimeError(
            (done.stderr.decode(errors="replace").strip().splitlines() or ["the trainer printed no error"])[-1]
        )
    events = [mllog.parse_line(line) for line in done.stdout.splitlines()]
    stats = [each for each in events if isinstance(each, mllog.Event) and each.key == mllog.TRACKED_STATS]
    return [each.value["train_loss"] for each in stats]


def weights_differ(expected: Path, found: Path, before: Path) -> tuple[float, float]:
    """`of_change` and `tensor` of Difference, from three checkpoints; `before` is the one that training was resumed from."""
    wanted, got, start = (
        {name: value.double() for name, value in load_checkpoint(path).model.items() if value.is_floating_point()}
        for path in (expected, found, before)
    )
    difference = {name: float((got[name] - wanted[name]).norm()) for name in wanted}
    # Batch norms' running means and variances change far more than weights, whose differences would disappear in the norm.
    trained = [name for name in wanted if "running_" not in name]
    change = math.hypot(*(float((wanted[name] - start[name]).norm()) for name in trained))
    # A tensor that stays zero would cause a division by zero.
    single = max((each / float(wanted[name].norm()) for name, each in difference.items() if each), default=0.0)
    return math.hypot(*(difference[name] for name in trained)) / change, single
