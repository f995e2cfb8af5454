"""FLOPs and rooflines, compared with PyTorch's FLOP counter and with figures computed by hand for the closed model."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.machine.roofline import MEASURED, Ceilings, roofline_audio_s_per_s
from benchmark.params import load_variant
from datasets.geometry import output_frames
from reference_model.model.flops import shares, work_per_audio_s
from reference_model.model.gru import Gru
from reference_model.model.network import DeepSpeech2

LIBRISPEECH_S = 960.9 * 3600


def test_the_closed_models_flops_for_a_second_of_audio():
    work = work_per_audio_s(load_variant("librispeech"), 161)
    assert work.flops == pytest.approx(32.7e9, rel=0.01)
    assert work.recurrent_weights * 2 == 3 * 2560 * 7680 * 2  # bytes in bf16: 39 MB a layer


@pytest.mark.parametrize(
    ("card", "batch", "epoch_s"),
    [
        # Memory bounds: 50 frames/s x 2 passes x 59.0 M weights x 2 bytes / batch / bandwidth, for 3,459,240 s of audio.
        ("NVIDIA H200", 8, 1186),
        ("NVIDIA H200", 16, 593),
        ("NVIDIA H200", 32, 297),
        ("NVIDIA H200", 64, 148),
        ("NVIDIA H100 80GB HBM3", 8, 1700),
        ("NVIDIA H100 80GB HBM3", 64, 213),
        # Arithmetic bounds: 113.5 PFLOP over the card's rate.
        ("NVIDIA H200", 128, 144),
        ("NVIDIA H100 80GB HBM3", 128, 142),
    ],
)
def test_rooflines_of_an_epoch_of_librispeech(card, batch, epoch_s):
    work = work_per_audio_s(load_variant("librispeech"), 161)
    roofline = roofline_audio_s_per_s(work, batch, "bf16", MEASURED[card])
    assert LIBRISPEECH_S / roofline == pytest.approx(epoch_s, abs=1)


def test_weights_of_four_bytes_take_twice_as_long_to_read():
    work = work_per_audio_s(load_variant("librispeech"), 161)
    ceilings = Ceilings({"bf16": 1e18, "tf32": 1e18, "fp32": 1e18}, 3e12)
    halves, tf32, fp32 = (roofline_audio_s_per_s(work, 8, each, ceilings) for each in ("bf16", "tf32", "fp32"))
    assert halves == pytest.approx(2 * fp32) and tf32 == fp32


def test_the_networks_flops_agree_with_pytorchs_counter(monkeypatch):
    """The counter does not support GRUs: they are replaced by zeros here, and their matrix products added by hand."""
    params = load_variant("librispeech")
    params = dataclasses.replace(params, model=dataclasses.replace(params.model, conv_channels=4, rnn_hidden=8))
    monkeypatch.setattr(Gru, "__call__", lambda gru, x, training: x.new_zeros(*x.shape[:2], 8))
    model = DeepSpeech2(params.model, 161).eval()
    frames = torch.tensor([2000])
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 161, 2000), frames)
    seconds = output_frames(2000) / 50
    gru = 2 * 3 * 8 * (4 * 21 + 2 * 8 + 3 * 8) * output_frames(2000)
    # Without padding in time the first convolution yields ten frames more than there are output frames.
    assert counter.get_total_flops() + gru == pytest.approx(work_per_audio_s(params, 161).flops / 3 * seconds, rel=0.02)


def test_unknown_figures_are_none():
    params = load_variant("mini")
    found = shares(params, 161, 100.0, 1, None)
    assert found["model_tflops_per_s"] > 0
    assert found["mfu"] is None and found["roofline_fraction"] is None
    no_ceiling_for_fp32 = shares(params, 161, 100.0, 1, "NVIDIA H100 80GB HBM3")
    assert no_ceiling_for_fp32["mfu"] is None and no_ceiling_for_fp32["roofline_fraction"] is None
    in_bf16 = load_variant("synthetic")
    assert shares(in_bf16, 161, 100.0, 1, "NVIDIA T4")["mfu"] is None
    assert shares(in_bf16, 161, 100.0, 1, "NVIDIA H100 80GB HBM3")["mfu"] == pytest.approx(
        100 * 32.8e9 / 798e12, abs=1e-4
    )


def test_two_cards_with_half_the_batch_each_share_the_work():
    """At half the batch the roofline is half as high, as long as it is memory-bound; MFU is per card."""
    params = load_variant("synthetic")
    one, two = (shares(params, 161, 11664.0 * size, size, "NVIDIA H200") for size in (1, 2))
    assert one["roofline_fraction"] == pytest.approx(0.5, abs=0.01)
    assert two["roofline_fraction"] == pytest.approx(1.0, abs=0.01)
    assert one["mfu"] == two["mfu"] == pytest.approx(11664 * 32.8e9 / 790e12, abs=1e-3)
