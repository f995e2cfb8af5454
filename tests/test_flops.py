"""Work and floors: against a counter of real operations, and against figures worked out by hand for the closed model."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.params import load_variant
from reference_model.flops import MEASURED, floor_audio_s_per_s, shares, work_per_audio_s
from reference_model.model import DeepSpeech2, output_frames

LIBRISPEECH_S = 960.9 * 3600


def test_the_closed_models_work_for_a_second_of_audio():
    work = work_per_audio_s(load_variant("librispeech"), 161)
    assert work.flops == pytest.approx(32.7e9, rel=0.01)
    assert work.recurrent_weights * 2 == 3 * 2560 * 7680 * 2  # bytes in bf16: 39 MB a layer


@pytest.mark.parametrize(("batch", "epoch_s"), [(8, 1278), (16, 685), (32, 389), (64, 240), (128, 166)])
def test_streaming_floors_of_an_epoch(batch, epoch_s):
    work = work_per_audio_s(load_variant("librispeech"), 161)
    floor = floor_audio_s_per_s(work, batch, "bf16", MEASURED["NVIDIA H200"])
    assert LIBRISPEECH_S / floor == pytest.approx(epoch_s, abs=1)


def test_convolutions_and_the_linear_layer_agree_with_pytorchs_counter():
    """The counter knows no GRU, so GRUs are counted by their products: what is left must be the same."""
    params = load_variant("librispeech")
    params = dataclasses.replace(params, model=dataclasses.replace(params.model, conv_channels=4, rnn_hidden=8))
    # In training, a CPU has convolutions and GRUs of its own, which the counter would see in part.
    model = DeepSpeech2(params.model, 161).eval()
    frames = torch.tensor([2000])
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 161, 2000), frames)
    seconds = output_frames(2000) / 50
    # Without padding in time the first convolution yields ten frames more than there are output frames.
    gru = 2 * 3 * 8 * (4 * 21 + 2 * 8 + 3 * 8) * output_frames(2000)
    counted = counter.get_total_flops()
    expected = work_per_audio_s(params, 161).flops / 3 * seconds
    assert min(abs(counted - expected), abs(counted + gru - expected)) / expected < 0.02


def test_what_is_not_known_is_none():
    params = load_variant("mini")
    found = shares(params, 161, 100.0, 1, None)
    assert found["model_tflops_per_s"] > 0
    assert found["share_of_peak"] is None and found["share_of_floor"] is None
    assert shares(params, 161, 100.0, 1, "NVIDIA H200")["share_of_floor"] is None  # no ceiling for fp32


def test_two_cards_with_half_the_batch_each_share_the_work():
    params = load_variant("synthetic")
    one, two = (shares(params, 161, 4450.0 * size, size, "NVIDIA H200") for size in (1, 2))
    assert one["share_of_floor"] == pytest.approx(0.5, abs=0.01)
    assert one["share_of_peak"] == two["share_of_peak"]
    assert two["share_of_floor"] > one["share_of_floor"]
