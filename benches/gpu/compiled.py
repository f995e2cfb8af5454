"""Section `compiled` of `python -m benches gpu`: an option that the trainer does not use, torch.compile.

It is compared with the unchanged trainer on the closed model in bf16 at batch 8 and 32, with utterances of about equal length
(one length bucket). The rows contain the gain and the difference of the first loss, or the reason of a failure. The trainer
adopts only what gains here.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from benches.gpu.full_step import closed, data_of, graphs_up_to, steps
from benches.gpu.shared import Bench
from benches.gpu.table import first_line
from benches.training.train_step import make_step
from reference_model.data.data_loader import Batch
from reference_model.runtime import set_precision
from reference_model.training.step import TrainStep


@graphs_up_to()
def compiled(bench: Bench) -> None:
    """Parts of the step under torch.compile (a rehearsal traces them without generating code)."""
    compiling = functools.partial(torch.compile, dynamic=False, backend="inductor" if bench.on_gpu else "aot_eager")

    def front(trainer: TrainStep, data: Batch) -> None:
        trainer.network.conv = compiling(trainer.network.conv)

    def elementwise(trainer: TrainStep, data: Batch) -> None:
        trainer.features = compiling(trainer.features)
        trainer.network.fc[0] = compiling(trainer.network.fc[0])

    def both(trainer: TrainStep, data: Batch) -> None:
        front(trainer, data)
        elementwise(trainer, data)

    changes = {"convolutional front": front, "features, last norm and layer": elementwise, "both": both}
    for batch in (2,) if bench.tiny else (32, 8):
        torch.compiler.reset()
        _compare(bench, batch, changes)


def _compare(bench: Bench, batch: int, changes: dict[str, Callable[[TrainStep, Batch], None]]) -> None:
    """A row for each change of the step, a function that is called with a new trainer and the batch."""
    params = closed(bench, batch, "bf16")
    set_precision("bf16")
    data = data_of(bench, batch)
    trainer = make_step(params, bench.device)
    first_loss = trainer(data, 1e-4)[0].item()
    plain_s = bench.seconds(functools.partial(steps, trainer, data, bench.in_a_row)) / bench.in_a_row
    bench.row("compiled", f"as it is, batch {batch}", ms=plain_s * 1e3, audio_s_per_s=data.audio_s / plain_s)
    for name, change in changes.items():
        del trainer
        bench.free()
        trainer = make_step(params, bench.device)
        try:
            start_s = time.perf_counter()
            change(trainer, data)
            loss = trainer(data, 1e-4)[0].item()
            ready_s = time.perf_counter() - start_s
            taken_s = bench.seconds(functools.partial(steps, trainer, data, bench.in_a_row)) / bench.in_a_row
        except Exception as error:
            # A failure is a result too; the next change starts with a new network.
            bench.row("compiled", f"{name}, batch {batch}", reason=first_line(error))
            continue
        bench.row(
            "compiled",
            f"{name}, batch {batch}",
            ms=taken_s * 1e3,
            audio_s_per_s=data.audio_s / taken_s,
            gain=plain_s / taken_s,
            until_ready_s=ready_s,
            first_loss_differs=abs(loss - first_loss) / abs(first_loss),
        )
