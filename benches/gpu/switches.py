"""Section `switches` of `python -m benches gpu`: the closed step in bf16 without each of its optimisations, and plain PyTorch.

`gain` is the time of that step over the time of the unchanged trainer's step in the same process: above 1, the trainer is faster.
The rows of a bidirectional layer are compared with that layer without CUDA graphs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benches.gpu.full_step import CLIP_S, closed, data_of, graphs_up_to, narrowed
from benches.gpu.shared import Bench
from benches.gpu.table import first_line
from benches.training.plain_step import PlainStep
from benches.training.train_step import make_batch, make_step
from benchmark.params import load_variant
from reference_model.data.data_loader import Batch
from reference_model.model import gru
from reference_model.model.gru import Gru
from reference_model.model.layers import Padding, RecurrentLayer
from reference_model.model.network import DeepSpeech2
from reference_model.runtime import set_precision
from reference_model.training.step import Readback, TrainStep


@dataclass(frozen=True)
class Peer:
    """A step to compare with the trainer's.

    `steps` makes the function that runs a given number of steps and returns the last loss; `context` is in force meanwhile.
    """

    name: str
    steps: Callable[[], Callable[[int], float]]
    context: Callable[[], AbstractContextManager] = nullcontext


@graphs_up_to()
def switches(bench: Bench) -> None:
    """Whole steps of the closed model at batch 32 and 8, a few at 64, then one bidirectional layer with padding."""
    for batch in (2,) if bench.tiny else (32, 8):
        data = data_of(bench, batch)
        _whole_steps(bench, data, _peers(bench, data))
    # The trainer records no graphs at this size.
    batch = 2 if bench.tiny else 64
    data = data_of(bench, batch)
    with_graphs = Peer("CUDA graphs", _trainer(bench, data), functools.partial(graphs_up_to, batch))
    _whole_steps(bench, data, [with_graphs, _plain(bench, batch, "bf16")])
    for batch in (2,) if bench.tiny else (32, 8):
        _second_direction(bench, batch)


def _whole_steps(bench: Bench, data: Batch, peers: Iterable[Peer]) -> None:
    """Rows of one batch size: the unchanged step, and every peer's."""
    as_it_is_s: float | None = None
    unchanged = Peer("as it is", _trainer(bench, data))
    for peer in (unchanged, *peers):
        name = f"{peer.name}, batch {len(data.indices)}"
        set_precision("bf16")
        try:
            with peer.context():
                taken_s = _seconds(bench, peer)
        except RuntimeError as error:
            # A failure of one peer does not affect the others.
            bench.row("switches", name, reason=first_line(error))
            continue
        finally:
            bench.free()
        gain = taken_s / as_it_is_s if as_it_is_s else None
        as_it_is_s = taken_s if peer is unchanged else as_it_is_s
        bench.row("switches", name, ms=taken_s * 1e3, audio_s_per_s=data.audio_s / taken_s, gain=gain)


def _seconds(bench: Bench, peer: Peer) -> float:
    """Seconds of one step; RuntimeError if its loss is not finite."""
    steps, losses = peer.steps(), []
    taken_s = bench.seconds(lambda: losses.append(steps(bench.in_a_row))) / bench.in_a_row
    if not math.isfinite(losses[-1]):
        raise RuntimeError(f"the loss is {losses[-1]}")
    return taken_s


def _peers(bench: Bench, data: Batch) -> Iterator[Peer]:
    trainer = functools.partial(_trainer, bench, data)
    yield Peer("without CUDA graphs", trainer(), functools.partial(graphs_up_to, 0))
    yield Peer("loss read at once", trainer(read_at_once))
    yield Peer("channels first", trainer(channels_last=False))
    yield Peer("GRU layer by layer", trainer(change=layer_by_layer))
    yield Peer("GRUs under autocast alone, without graphs", trainer(), autocast_alone)
    yield Peer("cuDNN searches convolutions", trainer(), convolution_search)
    for precision in ("bf16", "tf32", "fp32") if bench.on_gpu else ("fp32",):
        yield _plain(bench, len(data.indices), precision)


def read_later(trainer: TrainStep, data: Batch, count: int) -> float:
    """`count` steps, each loss read one step later; returns the last one."""
    previous: Readback | None = None
    for _ in range(count):
        latest = Readback(*trainer(data, 1e-4))
        if previous:
            previous.read()
        previous = latest
    assert previous is not None
    return previous.read()[0]


def read_at_once(trainer: TrainStep, data: Batch, count: int) -> float:
    """`count` steps, each loss read before the next step; returns the last one."""
    return [Readback(*trainer(data, 1e-4)).read()[0] for _ in range(count)][-1]


def _trainer(
    bench: Bench,
    data: Batch,
    run: Callable[[TrainStep, Batch, int], float] = read_later,
    channels_last: bool | None = None,
    change: Callable[[TrainStep], TrainStep] = lambda trainer: trainer,
) -> Callable[[], Callable[[int], float]]:
    """The trainer's own step in bf16; each loss is read one step later, as in training."""

    def make() -> Callable[[int], float]:
        params = closed(bench, len(data.indices), "bf16")
        return functools.partial(run, change(make_step(params, bench.device, channels_last)), data)

    return make


def _plain(bench: Bench, batch: int, precision: str) -> Peer:
    """A step of the plain trainer. Its features are not timed: the reference computes them in its data loader's processes."""

    def make() -> Callable[[int], float]:
        set_precision(precision)
        params = closed(bench, batch, precision)
        autocast = torch.bfloat16 if precision == "bf16" else None
        plain = PlainStep(params.model, params.optimizer.name, params.optimizer.clip_norm, bench.device, autocast)
        prepared = _prepared(bench, batch)
        return lambda count: [plain.train(*prepared) for _ in range(count)][-1]

    return Peer(f"plain PyTorch, {precision}", make)


@functools.lru_cache(1)
def _prepared(bench: Bench, batch: int) -> tuple[Tensor, ...]:
    _, waveforms, labels = make_batch(batch, 1.0 if bench.tiny else CLIP_S)
    tensors = PlainStep.prepare(waveforms, labels)
    return tuple(each.pin_memory() for each in tensors) if bench.on_gpu else tensors


def layer_by_layer(trainer: TrainStep) -> TrainStep:
    """`trainer`, with one GRU call for each layer."""
    assert isinstance(trainer.network, DeepSpeech2)
    trainer.network._stack = None
    trainer.network.to(trainer.device)
    return trainer


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
    # nn.GRU.flatten_parameters refuses bf16.
    gru._flatten(Gru([packed], ("", "_reverse")).weights(), 1, 2)

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
        with_graphs_s = bench.seconds(ours)
        with graphs_up_to(0):
            ours_s = bench.seconds(ours)
        theirs_s = bench.seconds(theirs)
    except RuntimeError as error:
        bench.row("switches", name, reason=first_line(error))
        return
    bench.row("switches", f"{name}, without CUDA graphs", ms=ours_s * 1e3)
    bench.row("switches", f"{name}, with CUDA graphs", ms=with_graphs_s * 1e3, gain=with_graphs_s / ours_s)
    bench.row("switches", f"{name}, packed", ms=theirs_s * 1e3, gain=theirs_s / ours_s)
