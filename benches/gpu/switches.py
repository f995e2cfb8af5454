"""Section `switches` of `python -m benches gpu`: the closed step in bf16 without each of its optimisations, and plain PyTorch.

`gain` is the time of that step over the time of the unchanged trainer's step in the same process: above 1, the trainer is faster.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benches.gpu.full_step import CLIP_S, closed, data_of, narrowed
from benches.gpu.shared import Bench
from benches.gpu.table import first_line
from benches.training.plain_step import PlainStep
from benches.training.train_step import make_batch, make_step
from benchmark.params import load_variant
from reference_model.data.data_loader import Batch
from reference_model.model import gru, gru_graphs
from reference_model.model.layers import Padding, RecurrentLayer
from reference_model.model.network import DeepSpeech2
from reference_model.runtime import set_precision
from reference_model.training.step import Readback, TrainStep

LONGEST_S = 13.5

GRAPHS = "CUDA graphs at any batch size"


def switches(bench: Bench) -> None:
    """Whole steps of the closed model at batch 32 and 8, a few at 64, then one bidirectional layer with padding."""
    for batch in (2,) if bench.tiny else (32, 8):
        _whole_steps(bench, batch)
    _whole_steps(bench, 2 if bench.tiny else 64, (GRAPHS, "plain PyTorch, bf16"))
    for batch in (2,) if bench.tiny else (32, 8):
        _second_direction(bench, batch)


def _whole_steps(bench: Bench, batch: int, chosen: Collection[str] | None = None) -> None:
    """Rows of one batch size: the unchanged step, and its variants, all or the chosen ones."""
    set_precision("bf16")
    data, in_a_row = data_of(bench, batch), 1 if bench.tiny else 4

    def measured(
        name: str, run: Callable[[], object], as_it_is_s: float | None = None, steps: int = in_a_row
    ) -> float | None:
        """A row for `steps` steps, which `run` makes; returns the seconds of one."""
        try:
            taken_s = bench.seconds(run) / steps
        except RuntimeError as error:
            # A failure of one peer does not affect the others.
            bench.row("switches", f"{name}, batch {batch}", reason=first_line(error))
            return None
        rate, gain = data.audio_s / taken_s, taken_s / as_it_is_s if as_it_is_s else None
        bench.row("switches", f"{name}, batch {batch}", ms=taken_s * 1e3, audio_s_per_s=rate, gain=gain)
        return taken_s

    def trainer(channels_last: bool | None = None) -> TrainStep:
        return make_step(closed(bench, batch, "bf16"), bench.device, channels_last)

    as_it_is_s = measured("as it is", functools.partial(read_later, trainer(), data, in_a_row))
    variants: list[tuple[str, Callable[[], TrainStep], Callable, Callable[[], AbstractContextManager]]] = [
        ("without CUDA graphs", trainer, read_later, functools.partial(graphs_up_to, 0)),
        (GRAPHS, trainer, read_later, functools.partial(graphs_up_to, batch)),
        ("loss read at once", trainer, read_at_once, nullcontext),
        ("channels first", lambda: trainer(False), read_later, nullcontext),
        ("GRU layer by layer", lambda: layer_by_layer(trainer()), read_later, nullcontext),
        ("GRUs under autocast alone", trainer, read_later, autocast_alone),
        ("cuDNN searches convolutions", trainer, read_later, convolution_search),
    ]
    for name, make, run, context in variants:
        if chosen and name not in chosen:
            continue
        with context():
            measured(name, functools.partial(run, make(), data, in_a_row), as_it_is_s)
        bench.free()
    for precision in ("bf16", "tf32", "fp32") if bench.on_gpu else ("fp32",):
        name = f"plain PyTorch, {precision}"
        if chosen and name not in chosen:
            continue
        set_precision(precision)
        # It reads each loss at once: several steps in a row take as long one by one.
        measured(name, _plain(bench, batch, precision), as_it_is_s, 1)
        bench.free()


def _plain(bench: Bench, batch: int, precision: str) -> Callable[[], object]:
    """A step of the plain trainer. Its features are not timed: the reference computes them in its data loader's processes."""
    params = closed(bench, batch, precision)
    autocast = torch.bfloat16 if precision == "bf16" else None
    plain = PlainStep(params.model, params.optimizer.name, params.optimizer.clip_norm, bench.device, autocast)
    return functools.partial(plain.train, *_prepared(batch, 1.0 if bench.tiny else CLIP_S))


@functools.lru_cache(1)
def _prepared(batch: int, longest_s: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, waveforms, labels = make_batch(batch, longest_s)
    return PlainStep.prepare(waveforms, labels)


def read_later(trainer: TrainStep, data: Batch, count: int) -> None:
    """`count` steps, each loss read one step later, as in training."""
    previous: Readback | None = None
    for _ in range(count):
        latest = Readback(*trainer(data, 1e-4))
        if previous:
            previous.read()
        previous = latest


def read_at_once(trainer: TrainStep, data: Batch, count: int) -> None:
    """`count` steps, each loss read before the next step."""
    for _ in range(count):
        Readback(*trainer(data, 1e-4)).read()


def layer_by_layer(trainer: TrainStep) -> TrainStep:
    """`trainer`, with one GRU call for each layer."""
    assert isinstance(trainer.network, DeepSpeech2)
    trainer.network._stack = None
    trainer.network.to(trainer.device)
    return trainer


@contextmanager
def graphs_up_to(batch: int) -> Iterator[None]:
    """GRUs recorded as CUDA graphs up to this batch size."""
    ours = gru_graphs.LARGEST_BATCH
    gru_graphs.LARGEST_BATCH = batch
    try:
        yield
    finally:
        gru_graphs.LARGEST_BATCH = ours


@contextmanager
def autocast_alone() -> Iterator[None]:
    """GRUs in the precision that PyTorch's autocast gives them: fp16 on a GPU."""
    ours = gru.wants_bf16
    gru.wants_bf16 = lambda x: False
    try:
        yield
    finally:
        gru.wants_bf16 = ours


@contextmanager
def convolution_search() -> Iterator[None]:
    """cuDNN times its algorithms for each new shape, which the trainer does not do: every batch has another length."""
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


def _second_direction(bench: Bench, batch: int) -> None:
    """A bidirectional layer in bf16 over utterances of 0.5 to 1 times the longest: reversed utterances, and PyTorch's packing."""
    set_precision("bf16")
    hidden = narrowed(bench, load_variant("librispeech_5bi")).model.rnn_hidden
    longest = 20 if bench.tiny else 600
    torch.manual_seed(0)
    lengths = torch.linspace(longest, longest // 2, batch).long()
    x = torch.randn(longest, batch, hidden, device=bench.device)
    with bench.device:
        layer = RecurrentLayer(hidden, hidden, True, None).train()
        packed = nn.GRU(hidden, hidden, bidirectional=True).bfloat16().train()
    layer.flatten_weights(padded=True)

    def ours() -> None:
        with torch.autocast(bench.device.type, torch.bfloat16):
            y = layer(x.detach().requires_grad_(), Padding.of(lengths, longest, bench.device))
        y.float().sum().backward()

    def theirs() -> None:
        y, _ = packed(pack_padded_sequence(x.bfloat16().detach().requires_grad_(), lengths))
        summed: Tensor = pad_packed_sequence(y)[0].unflatten(2, (2, -1)).sum(2)
        summed.float().sum().backward()

    name = f"bidirectional layer of {hidden}, batch {batch}"
    try:
        ours_s = bench.seconds(ours)
        theirs_s = bench.seconds(theirs)
    except RuntimeError as error:
        bench.row("switches", name, reason=first_line(error))
        return
    bench.row("switches", name, ms=ours_s * 1e3)
    bench.row("switches", f"{name}, packed", ms=theirs_s * 1e3, gain=theirs_s / ours_s)
