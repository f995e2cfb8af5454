"""Section `resume` of `python -m benches gpu`: a training that was stopped and resumed beside the same one uninterrupted.

On a CPU both end with the same bits. On a GPU not even two uninterrupted trainings do: PyTorch's CTC loss adds up its gradient
with atomic additions, whose order changes from run to run, so that a gradient differs in its last bits. What a step makes of that
is small beside the step itself: a few roundings of fp32 (2^-24) in a gradient, and in bf16 some elements that round to the
other neighbour (2^-8), of which a tensor averages many. A resumed training that forgot something (its momentum, its
learning rate, its place in the order of the data) goes another way altogether: the weights then differ by a good part of what
the resumed epochs changed them by. So that is what the difference is measured by, and the bounds lie in between.
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
from reference_model.checkpoints.training_state import checkpoint_path, load_checkpoint

WEIGHTS_BOUND, LOSS_BOUND = 0.01, 1e-3
"""On a GPU: of what the resumed epochs changed the weights by, and of an epoch's loss. On a CPU nothing may differ."""
EPOCHS = 3
HIDDEN, UTTERANCES = 256, 48


@dataclass(frozen=True)
class Difference:
    """What a resumed training came to beside the uninterrupted one.

    `of_change` is the norm of the difference of all weights over the norm of what the resumed epochs changed them by; `tensor` the
    largest norm of a single tensor's difference over the tensor's own, with the norms' running statistics; `losses` the relative
    difference of each epoch's loss, the first being that of two trainings of which none was resumed yet.
    """

    of_change: float
    tensor: float
    losses: tuple[float, ...]

    def holds(self, device: str) -> bool:
        """Whether the bounds hold that are to hold on `device`."""
        if device == "cpu":
            return not (self.of_change or self.tensor or any(self.losses))
        return self.of_change <= WEIGHTS_BOUND and max(self.losses) <= LOSS_BOUND


def resume(bench: Bench) -> None:
    """The closed model with narrow GRUs, in bf16 and fp32 (in a rehearsal fp32), stopped after an epoch and resumed.

    RuntimeError where a bound does not hold.
    """
    data = bench.kept / "resume"
    split = make_split(data, 8 if bench.tiny else UTTERANCES)
    write_description(dataclasses.replace(split, splits={"train": split.splits["train"], "val": split.splits["train"]}))
    precisions = ["bf16", "fp32"] if bench.on_gpu else ["fp32"]

    def compare(precision: str) -> Difference:
        return resumed(_params(bench, precision), data, bench.kept / f"resume_{precision}", bench.device.type)

    # Side by side: most of a short training is its process's start.
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
    over = [each for each, difference in differences.items() if not difference.holds(bench.device.type)]
    if over:
        raise RuntimeError(f"over the bound: {', '.join(over)}")


def _params(bench: Bench, precision: str) -> Params:
    params = narrowed(bench, load_variant("librispeech"))
    model = dataclasses.replace(params.model, rnn_hidden=min(HIDDEN, params.model.rnn_hidden))
    batch = 4 if bench.tiny else 8
    train = dataclasses.replace(params.train, precision=precision, max_epochs=EPOCHS, target_wer=0.0, batch_size=batch)
    return dataclasses.replace(params, model=model, train=train)


def resumed(params: Params, data: Path, place: Path, device: str) -> Difference:
    """Train on the data set in `data` for all epochs; beside it for one, and from that checkpoint on to the last.

    Three processes of the reference trainer, which write into the folder `place`. RuntimeError where one breaks.
    """
    epochs = params.train.max_epochs
    whole, stopped = place / "whole", place / "stopped"
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(train, params, data, *each) for each in ((whole, device, epochs), (stopped, device, 1))]
        whole_losses, losses = (each.result() for each in both)
    first, last = checkpoint_path(stopped, 1), checkpoint_path(stopped, epochs)
    losses += train(params, data, stopped, device, epochs, first)
    of_change, tensor = weights_differ(checkpoint_path(whole, epochs), last, first)
    return Difference(of_change, tensor, tuple(abs(b - a) / abs(a) for a, b in zip(whole_losses, losses, strict=True)))


def train(
    params: Params, data: Path, folder: Path, device: str, epochs: int, checkpoint: Path | None = None
) -> list[float]:
    """Train, from a checkpoint on if there is one; returns the loss of each epoch that was trained."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "params.yaml"
    file.write_text(params.dump(), encoding="utf-8")
    command = [sys.executable, "-m", "reference_model.train", "--params", file, "--data", data, "--run-dir", folder]
    command += ["--seed", "1", "--device", device, "--epochs", epochs, "--workers", 0 if device == "cpu" else 1]
    command += ["--resume", checkpoint] if checkpoint else []
    # On a CPU, the trainings beside each other would be in each other's way.
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if device == "cpu" else {})
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True)
    if done.returncode not in (EXIT_OK, EXIT_FAILED):
        raise RuntimeError((done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1])
    events = [mllog.parse_line(line) for line in done.stdout.splitlines()]
    stats = [each for each in events if isinstance(each, mllog.Event) and each.key == mllog.TRACKED_STATS]
    return [each.value["train_loss"] for each in stats]


def weights_differ(expected: Path, found: Path, before: Path) -> tuple[float, float]:
    """Of three checkpoints, the third being where training was resumed: `of_change` and `tensor` as in Difference."""
    wanted, got, start = (
        {name: value.double() for name, value in load_checkpoint(path).model.items() if value.is_floating_point()}
        for path in (expected, found, before)
    )
    difference = {name: float((got[name] - wanted[name]).norm()) for name in wanted}
    # The norms' running means and variances change far more than weights do, which would be lost beside them.
    trained = [name for name in wanted if "running_" not in name]
    change = math.hypot(*(float((wanted[name] - start[name]).norm()) for name in trained))
    # A tensor of zeros that stays one has nothing to be divided by.
    single = max((each / float(wanted[name].norm()) for name, each in difference.items() if each), default=0.0)
    return math.hypot(*(difference[name] for name in trained)) / change, single
