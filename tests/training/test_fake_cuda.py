"""A training step on a fake GPU (PyTorch's fake tensors): types, devices, and that nothing waits for the GPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmark.params import Params, load_variant, variant_names
from reference_model.data.data_loader import Batch
from reference_model.model.features import Features
from reference_model.model.network import DeepSpeech2, prefers_channels_last
from reference_model.training.distributed import World
from reference_model.training.evaluate import evaluate
from reference_model.training.optim import build_optimizer
from reference_model.training.step import Readback, TrainState, TrainStep, train_epoch
from tests.support.fake_cuda import CUDA, Watch, fake_gpu

SAMPLES = (16_000, 15_000, 12_345, 8_000)


def variant(name: str, precision: str) -> Params:
    params = load_variant(name)
    small = dataclasses.replace(params.model, rnn_hidden=32, rnn_layers=2)
    return dataclasses.replace(params, model=small, train=dataclasses.replace(params.train, precision=precision))


def batch_of(params: Params, watch: Watch) -> Batch:
    """Four utterances as the data loader passes them: in page-locked memory."""
    masks = params.augment.spec_freq_masks + params.augment.spec_time_masks
    batch = Batch(
        waveforms=torch.zeros(len(SAMPLES), max(SAMPLES)),
        samples=torch.tensor(SAMPLES),
        labels=torch.zeros(4 * len(SAMPLES), dtype=torch.int32),
        label_lengths=torch.full((len(SAMPLES),), 4),
        mask_uniforms=torch.zeros(len(SAMPLES), 2, masks),
        indices=list(range(len(SAMPLES))),
        global_utterances=len(SAMPLES),
        audio_s=sum(SAMPLES) / 16_000,
    )
    for each in (batch.waveforms, batch.samples, batch.labels, batch.label_lengths, batch.mask_uniforms):
        watch.page_lock(each)
    return batch


def step_of(params: Params) -> TrainStep:
    features = Features(params.features).to(CUDA)
    with CUDA:
        network = DeepSpeech2(params.model, features.bins, prefers_channels_last(CUDA, params.train.precision)).train()
    optimizer = build_optimizer(params.optimizer, network.parameters())
    return TrainStep(params, network, features, optimizer, CUDA, World(0, 0, 1))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", variant_names())
def test_a_step_of_every_variant_has_the_right_devices_and_types_and_never_waits(name, precision, monkeypatch):
    """It waits only in PyTorch's CTC loss, which is replaced here, as docs/performance.md says."""
    params = variant(name, precision)
    with fake_gpu() as watch:
        step = step_of(params)
        loss, finite = step(batch_of(params, watch), 1e-3)
        assert (loss.device, loss.dtype, finite.device, finite.dtype) == (CUDA, torch.float32, CUDA, torch.bool)
        wanted = torch.bfloat16 if precision == "bf16" else torch.float32
        assert set(watch.grus) == {(wanted, wanted)}
        assert {weight.dtype for weight in step.network.parameters()} == {torch.float32}

        monkeypatch.setattr(Readback, "read", lambda readback: (1.0, True))
        watch.waits.clear()
        train_epoch(step, [batch_of(params, watch) for _ in range(2)], 1, 2, TrainState(), lambda done, note: None)
        # At the end of the epoch its mean loss is read, once.
        assert watch.waits == ["_local_scalar_dense"]


def test_without_a_bf16_gru_in_cudnn_grus_run_in_fp32_and_never_frame_by_frame():
    with fake_gpu(bf16_in_cudnn=False) as watch:
        params = variant("synthetic", "bf16")
        step_of(params)(batch_of(params, watch), 1e-3)
        assert set(watch.grus) == {(torch.float32, torch.float32)}


def test_a_wait_would_be_noticed(monkeypatch):
    """The watch sees every wait that a step must avoid: reading a value or lengths from the GPU, a copy from pageable memory."""
    with fake_gpu() as watch:
        value = torch.zeros(3, device=CUDA)
        for wait in (
            lambda: value.sum().item(),
            value.cpu,
            value.nonzero,
            lambda: torch.zeros(3).to(CUDA),
            lambda: bool(value.any()),
            lambda: value.__setitem__(value > 0, value[:1]),
            lambda: torch.where(value > 0, value, torch.tensor(0.0)),
        ):
            before = len(watch.waits)
            wait()
            assert len(watch.waits) == before + 1
        watch.waits.clear()
        torch.zeros(3).pin_memory().to(CUDA, non_blocking=True)
        Readback(value.sum(), value.isfinite().all())
        assert not watch.waits


def test_evaluation_waits_only_for_the_labels_of_each_batch(monkeypatch):
    params = variant("mini", "bf16")
    monkeypatch.setattr(
        "reference_model.training.evaluate.greedy", lambda logits, frames: logits.argmax(2).cpu() is None or [""] * 4
    )
    with fake_gpu() as watch:
        step = step_of(params)
        batches = [batch_of(params, watch) for _ in range(2)]
        watch.waits.clear()
        evaluate(step.network, step.features, batches, ["A"] * 4, CUDA, World(0, 0, 1), step.autocast)
        assert watch.waits == ["copy cuda to cpu"] * 2


def test_channels_last_is_kept_through_the_whole_front_end():
    """In fp32: without a driver PyTorch cannot know that cuDNN convolves in bf16, and uses another implementation."""
    seen = []
    with fake_gpu(), CUDA:
        network = DeepSpeech2(variant("librispeech", "fp32").model, 161, channels_last=True)
        for module in network.conv:
            module.register_forward_hook(
                lambda module, given, y: seen.append(y.is_contiguous(memory_format=torch.channels_last))
            )
        network(torch.zeros(2, 161, 100), torch.tensor([100, 90], device="cpu"))
    assert len(seen) == 6
    assert all(seen)
    # The strides that cuDNN gives the gradients, also with one channel, where both layouts are the same memory: DDP
    # compares them.
    assert [network.conv[place].weight.stride()[1] for place in (0, 3)] == [1, 1]


def test_channels_last_is_the_default_for_bf16_on_a_gpu_only():
    wanted = {(device, precision) for device in ("cpu", "cuda") for precision in ("fp32", "tf32", "bf16")}
    found = {each for each in wanted if prefers_channels_last(torch.device(each[0]), each[1])}
    assert found == {("cuda", "bf16")}
