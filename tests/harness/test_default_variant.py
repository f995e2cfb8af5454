"""What is run where the user named no variant: by the data that lie ready and the GPU that can be used."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmark.harness import job, run_dataset
from benchmark.machine import trainer_gpus
from benchmark.machine.estimates import EPOCHS, FRACTION, REFERENCE_WORK, expected_minutes
from benchmark.params import load_variant
from benchmark.settings import Settings
from common import limits
from datasets.synthesis.plans import SYNTHETIC_HOURS
from reference_model.model.flops import work_per_audio_s
from tests.support.corpus import tiny_corpus

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def machine(monkeypatch):
    """Sets what the driver and PyTorch say of this machine's GPUs."""

    def has(driver: bool, **torch_says):
        monkeypatch.setattr(trainer_gpus.system, "has_gpu", lambda: driver)
        answer = {"version": "2", "built_for": "13.0", "gpus": [], "memory_bytes": [80 << 30]} | torch_says
        monkeypatch.setattr(trainer_gpus, "ask_torch", lambda: answer)

    return has


def chosen(tmp_path, **settings):
    said = []
    params = run_dataset.choose_params(Settings(data_dir=tmp_path, **settings), said.append)
    assert len(said) == 1
    return params.variant, said[0]


def test_a_gpu_runs_synthetic_and_its_owner_reads_how_long(machine, tmp_path):
    machine(True, gpus=[H100])
    variant, said = chosen(tmp_path)
    low, high = expected_minutes(load_variant("synthetic"), H100, 1)
    assert variant == "synthetic"
    assert said.startswith(f"variant synthetic: VARIANT is not set, and no prepared LibriSpeech lies in {tmp_path}")
    assert (
        f"{H100} is used. Estimated from this card's limits, training takes some {low:.0f} to {high:.0f} minutes; "
        in said
    )
    assert (
        f"synthesising its corpus before that, once, some {18 / limits.cores():.0f} on {limits.cores()} cores" in said
    )
    tiny_corpus(tmp_path / "synthetic")
    assert "synthesising" not in chosen(tmp_path)[1]


def test_of_a_card_that_nobody_measured_nothing_is_promised(machine, tmp_path):
    machine(True, gpus=["NVIDIA T4"], memory_bytes=[24 << 30])
    variant, said = chosen(tmp_path)
    assert variant == "synthetic" and "NVIDIA T4 is used. How long it takes on this card is not known" in said


@pytest.mark.parametrize(
    ("gigabytes", "processes", "variant"),
    [(16, 1, "mini"), (24, 1, "synthetic"), (16, 2, "synthetic"), (10, 2, "mini"), (6, 4, "mini"), (8, 4, "synthetic")],
)
def test_a_card_that_is_too_small_for_the_longest_batch_runs_mini(machine, tmp_path, gigabytes, processes, variant):
    machine(True, gpus=["Tesla T4"] * processes, memory_bytes=[gigabytes * 10**9] * processes)
    found, said = chosen(tmp_path, processes=processes)
    assert found == variant
    if variant == "mini":
        assert f"Tesla T4 has {gigabytes} GB of memory, and the longest batches of synthetic need some" in said
        assert "VARIANT=synthetic" in said


def test_device_cuda_without_a_gpu_ends_before_anything_is_made(machine, tmp_path):
    machine(False)
    with pytest.raises(
        run_dataset.UserError, match="DEVICE=cuda: PyTorch sees no GPU here - `python -m benchmark doctor`"
    ):
        chosen(tmp_path, device="cuda")


def test_device_cuda_without_a_gpu_ends_a_run_of_any_variant_before_its_folder(machine, tmp_path):
    machine(True)
    settings = Settings(variant="mini", device="cuda", data_dir=tmp_path, results_dir=tmp_path / "runs")
    with pytest.raises(run_dataset.UserError, match="DEVICE=cuda: PyTorch sees no GPU here"):
        job.decide(settings, Said())
    assert not (tmp_path / "runs").exists()


def test_device_cuda_needs_no_word_of_the_driver(machine, tmp_path):
    machine(False, gpus=[H100])
    assert chosen(tmp_path, device="cuda")[0] == "synthetic"


def test_without_a_gpu_mini_and_pytorch_is_not_even_asked(machine, tmp_path, monkeypatch):
    machine(False)
    monkeypatch.setattr(trainer_gpus, "ask_torch", lambda: pytest.fail("seconds of every start for nothing"))
    assert chosen(tmp_path) == (
        "mini",
        f"variant mini: VARIANT is not set, and no prepared LibriSpeech lies in {tmp_path}/LibriSpeech_dataset; no GPU is here. "
        "It takes a minute or two on two CPU cores",
    )


def test_mini_where_the_user_wants_the_cpu(machine, tmp_path):
    machine(True, gpus=[H100])
    variant, said = chosen(tmp_path, device="cpu")
    assert variant == "mini" and "DEVICE is cpu" in said


@pytest.mark.parametrize("torch_says", [{"gpus": []}, {"error": "killed by signal 11"}])
def test_a_gpu_that_pytorch_cannot_use_is_said(machine, tmp_path, torch_says):
    machine(True, **torch_says)
    variant, said = chosen(tmp_path)
    why = f"cannot be asked for GPUs ({torch_says['error']})" if "error" in torch_says else "sees no GPU here"
    assert variant == "mini" and f"PyTorch {why}, although the machine has one. It takes" in said


class Said(list):
    """A display that keeps what it is told."""

    def say(self, text):
        self.append(text)


@pytest.mark.parametrize(
    ("torch_says", "why"),
    [
        (
            {"built_for": None},
            "PyTorch sees no GPU here, although the machine has one - this PyTorch was built without CUDA: ",
        ),
        ({"why": "driver is too old"}, "PyTorch sees no GPU here, although the machine has one - "),
        ({"error": "killed"}, "PyTorch cannot be asked for GPUs (killed), although the machine has one - run `sh "),
    ],
)
def test_a_run_that_ends_up_on_the_cpu_says_so_and_is_called_so(machine, tmp_path, monkeypatch, torch_says, why):
    machine(True, **torch_says)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(job.system, "gpu_label", lambda gpus: {(): "cpu", None: "h200"}.get(gpus, "other"))
    data = tiny_corpus(tmp_path / "data" / "mini")
    monkeypatch.setattr(run_dataset, "ready_dataset", lambda *_: data)
    settings = Settings(variant="mini", data_dir=tmp_path / "data", results_dir=tmp_path / "runs", seed=1)
    decided = job.decide(settings, display := Said())
    assert display[0].startswith(f"warning: this run is on the CPU: {why}")
    assert display[0].endswith("; DEVICE=cpu if it is meant")
    assert decided.gpus == () and "-cpu-" in decided.run_dir.name
    # Nobody else is told: who chose the CPU, whose trainer asks no PyTorch, and who has a GPU.
    job.decide(replace(settings, device="cpu"), display := Said())
    assert not any("warning" in text for text in display)
    other = job.decide(replace(settings, trainer_module="mine"), display := Said())
    assert not any("warning" in text for text in display) and other.gpus is None and "-h200-" in other.run_dir.name
    machine(True, gpus=[H100])
    assert job.decide(settings, display := Said()).gpus == (H100,)
    assert not any("warning" in text for text in display)


def test_a_prepared_librispeech_goes_first(machine, tmp_path):
    machine(True, gpus=[H100])
    tiny_corpus(tmp_path / "LibriSpeech_dataset")
    assert chosen(tmp_path)[0] == "librispeech"


# How long


def test_the_work_that_the_estimate_rests_on_is_the_networks():
    counted = work_per_audio_s(load_variant("synthetic"), 161)
    assert REFERENCE_WORK.flops == pytest.approx(counted.flops, rel=0.01)
    assert (REFERENCE_WORK.recurrent_weights, REFERENCE_WORK.frames) == (counted.recurrent_weights, counted.frames)


def test_the_estimate_is_a_share_of_the_roofline():
    params = load_variant("synthetic")
    assert params.train.batch_size == 64 and params.train.precision == "bf16"
    # An H100 at batch 64: 50 frames x 2 passes x 59.0 M weights x 2 bytes / 64 at 3.0 TB/s bound a second of audio.
    a_second = 50 * 2 * 58_982_400 * 2 / 64 / 3.0e12
    epoch_min = SYNTHETIC_HOURS * 3600 * a_second / FRACTION / 60
    low, high = expected_minutes(params, H100, 1)
    assert (low, high) == (pytest.approx(EPOCHS[0] * epoch_min), pytest.approx(EPOCHS[1] * epoch_min))
    # Eight cards read the same weights for an eighth of the batch each: by this roofline they gain nothing.
    assert expected_minutes(params, H100, 8)[0] == pytest.approx(low)
    assert expected_minutes(params, "NVIDIA T4", 1) is None and expected_minutes(params, None, 1) is None


# The corpus that it runs on


def test_an_earlier_versions_corpus_is_not_taken_for_todays(tmp_path):
    tiny_corpus(tmp_path / "synthetic")
    description = tmp_path / "synthetic.dataset.json"
    tree = json.loads(description.read_bytes())
    description.write_text(json.dumps(tree | {"provenance": {"version": 1}}))
    with pytest.raises(run_dataset.UserError, match="of version 1, where the benchmark's is now of version 2 - remove"):
        run_dataset.ready_dataset(load_variant("synthetic"), Settings(data_dir=tmp_path), print)


def test_a_smaller_synthetic_is_made_where_its_name_asks_for_it(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(run_dataset.launch, "run_to_the_end", lambda command: commands.append(command[3:]) or 2)
    for name, words in (
        ("synthetic-4h", ["synthetic", "--hours", "4"]),
        ("synthetic", ["synthetic"]),
        ("mini", ["mini"]),
    ):
        with pytest.raises(run_dataset.UserError):
            run_dataset._synthesise(name, tmp_path)
        assert commands.pop() == ["synthesise", *words, "--data-dir", str(tmp_path)]
