"""GRUs recorded as CUDA graphs: when they are recorded, and on a GPU what they compute."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from benchmark.params import load_variant
from reference_model.model import gru_graphs
from reference_model.model.gru import Gru, bf16_in_cudnn
from reference_model.model.gru_graphs import FRAMES, LARGEST_BATCH, LONGEST, RECORDED_AT, GruGraphs
from reference_model.runtime import set_precision
from reference_model.training import training_run
from reference_model.training.distributed import World
from tests.conftest import ROOT

INPUTS, HIDDEN, BATCH = 32, 256, 4


@pytest.fixture
def device(monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    device = torch.device("cuda")
    if not bf16_in_cudnn(device, HIDDEN):
        pytest.skip("PyTorch cannot run a GRU in bf16 through cuDNN here")
    set_precision("bf16")
    monkeypatch.setattr(gru_graphs, "RECORDED_AT", 2)
    yield device
    set_precision("fp32")


def layers_on(device: torch.device) -> list[nn.GRU]:
    torch.manual_seed(0)
    return [nn.GRU(inputs, HIDDEN).to(device) for inputs in (INPUTS, HIDDEN)]


def step(gru: Gru, x: torch.Tensor, dy: torch.Tensor) -> list[torch.Tensor]:
    """A forward and a backward pass: the outputs, the gradient of `x`, and those of the weights."""
    x = x.detach().requires_grad_()
    for weight in gru.weights():
        weight.grad = None
    with torch.autocast("cuda", torch.bfloat16):
        y = gru(x, True)
    y.backward(dy)
    return [each.detach().float().clone() for each in (y, x.grad, *(weight.grad for weight in gru.weights()))]


def batch_of(device: torch.device, frames: int, batch: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator(device).manual_seed(frames)
    x = torch.randn(frames, batch, INPUTS, device=device, generator=generator)
    return x, torch.randn(frames, batch, HIDDEN, device=device, generator=generator).bfloat16()


def test_a_recorded_step_equals_the_same_step_without_a_graph(device, monkeypatch):
    """For lengths with one graph and with two, in turn, while the weights change."""
    layers = layers_on(device)
    recorded, plain = Gru(layers), Gru(copy.deepcopy(layers))
    for each in (recorded, plain):
        each.flatten_weights()
    for frames in (40, 33, 64, 90, 40, 90, 64, 35, 65):
        x, dy = batch_of(device, frames)
        found = step(recorded, x, dy)
        with monkeypatch.context() as patch:
            patch.setattr(gru_graphs, "LARGEST_BATCH", 0)
            expected = step(plain, x, dy)
        for got, wanted in zip(found, expected, strict=True):
            # Products over all frames include the padding's zeros: sums may round in another order.
            assert (got - wanted).norm() <= 0.01 * wanted.norm()
        with torch.no_grad():
            for ours, theirs in zip(recorded.weights(), plain.weights(), strict=True):
                ours.mul_(0.9)
                theirs.mul_(0.9)
    assert sorted(recorded._graphs._graphs) == [64, 96]
    assert not plain._graphs._graphs


def test_other_batch_sizes_and_lengths_beyond_the_longest_run_without_a_graph(device, monkeypatch):
    monkeypatch.setattr(gru_graphs, "LONGEST", 96)
    gru = Gru(layers_on(device))
    for frames, batch in ((64, BATCH), (64, BATCH), (64, BATCH - 1), (100, BATCH), (100, BATCH)):
        x, dy = batch_of(device, frames, batch)
        assert step(gru, x, dy)[0].shape == (frames, batch, HIDDEN)
    assert sorted(gru._graphs._graphs) == [64]


def test_evaluation_between_steps_changes_nothing(device):
    layers = layers_on(device)
    recorded, plain = Gru(layers), Gru(copy.deepcopy(layers))
    x, dy = batch_of(device, 64)
    for _ in range(3):
        step(recorded, x, dy)
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            recorded(x[:50], False)
    assert sorted(recorded._graphs._graphs) == [64]
    for got, wanted in zip(step(recorded, x, dy), step(plain, x, dy), strict=True):
        assert (got - wanted).norm() <= 0.01 * wanted.norm()


def test_a_backward_pass_after_another_forward_pass_is_refused(device):
    """Its values are gone: without this, its gradients would silently be wrong."""
    gru, (x, dy) = Gru(layers_on(device)), batch_of(device, 64)
    for _ in range(2):
        step(gru, x, dy)
    with torch.autocast("cuda", torch.bfloat16):
        first = gru(x.requires_grad_(), True)
        gru(x, True)
    with pytest.raises(RuntimeError, match="another forward pass"):
        first.backward(dy)


def test_a_recording_that_fails_leaves_a_process_that_trains_on(device):
    """A synchronisation inside invalidates it; afterwards memory is still allocated and freed."""
    program = """
import torch, warnings
from reference_model.model import gru_graphs
from tests.model.test_gru_graphs import batch_of, layers_on, step
from reference_model.model.gru import Gru

device, gru_graphs.RECORDED_AT = torch.device("cuda"), 2
gru, again = Gru(layers_on(device)), Gru(layers_on(device))
real = torch.gru
def synchronising(*arguments):
    if torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize()
    return real(*arguments)
torch.gru = synchronising
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for frames in (64, 64, 64, 90, 90):
        for each in (gru, again):
            assert all(bool(values.isfinite().all()) for values in step(each, *batch_of(device, frames)))
        torch.cuda.empty_cache()
print([str(each.message) for each in caught if "without CUDA graphs" in str(each.message)])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("GRUs run without CUDA graphs") == 1


def test_evaluation_records_nothing(device):
    gru, (x, _) = Gru(layers_on(device)), batch_of(device, 64)
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        for _ in range(3):
            gru(x, False)
    assert not gru._graphs._batches


@pytest.fixture
def recorded(monkeypatch) -> list[int]:
    """Lengths in frames in the order of their recording, without a GPU; replaying returns the padded length."""
    lengths: list[int] = []
    monkeypatch.setattr(GruGraphs, "_record", lambda self, frames, weights, buffers: lengths.append(frames))
    monkeypatch.setattr(gru_graphs._GruReplay, "apply", lambda buffers, graphs, padded, x, *weights: padded)
    return lengths


def call(graphs: GruGraphs, frames: int, batch: int = 2) -> object:
    weights = [torch.zeros(12, each) for each in (3, 4)]
    return graphs(torch.zeros(frames, batch, 3), weights, 1)


def test_a_length_is_recorded_when_enough_batches_of_it_have_come(recorded):
    graphs = GruGraphs()
    short = [call(graphs, FRAMES - number % 3) for number in range(RECORDED_AT + 2)]
    assert short == [None] * (RECORDED_AT - 1) + [FRAMES] * 3
    assert call(graphs, FRAMES + 1) is None, "another length"
    assert recorded == [FRAMES]


def test_large_batches_long_batches_and_a_smaller_last_batch_are_not_recorded(recorded):
    graphs = GruGraphs()
    for _ in range(RECORDED_AT + 1):
        assert call(graphs, 5, LARGEST_BATCH + 1) is None
        assert call(graphs, LONGEST + 1) is None
    assert not recorded
    for _ in range(RECORDED_AT - 1):
        assert call(graphs, 5, 1) is None, "the last batch of an epoch, which is smaller"
        assert call(graphs, 5) is None
    assert call(graphs, 5) == FRAMES
    assert call(graphs, 5, 1) is None
    assert recorded == [FRAMES]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda graphs: pickle.loads(pickle.dumps(graphs))])
def test_a_copy_of_a_network_has_no_graphs(recorded, copied):
    graphs = GruGraphs()
    for _ in range(RECORDED_AT):
        call(graphs, 5)
    assert recorded == [FRAMES]
    assert call(copied(graphs), 5) is None


@pytest.mark.parametrize("failing", ["_allocate", "GruGraphs._record"])
def test_where_recording_fails_the_gru_runs_without_a_graph_and_says_so_once(monkeypatch, failing):
    def fail(*arguments: object) -> None:
        raise RuntimeError("operation not permitted\nwhen the stream is capturing")

    monkeypatch.setattr(f"reference_model.model.gru_graphs.{failing}", fail)
    graphs = GruGraphs()
    for _ in range(RECORDED_AT - 1):
        call(graphs, 5)
    with pytest.warns(UserWarning, match="GRUs run without CUDA graphs: operation not permitted"):
        assert call(graphs, 5) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call(graphs, 5) is None


@pytest.mark.parametrize(
    ("variant", "ranks", "graphs"),
    [("synthetic", 1, False), ("synthetic", 2, True), ("librispeech_open", 4, True), ("librispeech", 1, False)],
)
def test_the_log_says_whether_grus_may_be_recorded(monkeypatch, variant, ranks, graphs):
    params = load_variant(variant)
    dtype = torch.bfloat16 if params.train.precision == "bf16" else torch.float32
    monkeypatch.setattr(training_run, "gru_dtype", lambda device, hidden: dtype)
    events: dict[str, object] = {}
    log = type("Log", (), {"event": staticmethod(events.__setitem__)})
    training_run._log_gru(log, params, torch.device("cuda"), World(0, 0, ranks))
    assert events["gru_cuda_graphs"] is graphs
