"""The default variant: chosen by the prepared datasets and the usable GPU."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmark.harness import job, run_dataset
from benchmark.machine import trainer_gpus
from benchmark.machine.estimates import EPOCHS, FRACTION, REFERENCE_WORK, expected_minutes
from benchmark.params import load_variant
from benchmark.record import read_record
from benchmark.settings import Settings
from common import limits
from datasets.synthesis.plans import SYNTHETIC_HOURS
from reference_model.model.flops import work_per_audio_s
from tests.conftest import ROOT
from tests.support.corpus import tiny_corpus

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def machine(monkeypatch):
    """Sets what the driver and PyTorch report about this machine's GPUs."""

    def has(driver: bool, **torch_says):
        monkeypatch.setattr(trainer_gpus.system, "has_gpu", lambda: driver)
        answer = {"version": "2", "built_for": "13.0", "gpus": [], "memory_bytes": [80 << 30]} | torch_says
        monkeypatch.setattr(trainer_gpus, "ask_torch", lambda: answer)

    return has


def chosen(tmp_path, **settings):
    messages = []
    params = run_dataset.choose_params(Settings(data_dir=tmp_path, **settings), messages.append)
    assert len(messages) == 1
    return params.variant, messages[0]


def test_a_gpu_runs_synthetic_and_the_time_is_estimated(machine, tmp_path):
    machine(True, gpus=[H100])
    variant, message = chosen(tmp_path)
    low, high = expected_minutes(load_variant("synthetic"), H100, 1)
    assert variant == "synthetic"
    assert message.startswith(
        f"variant synthetic: VARIANT is not set, and there is no prepared LibriSpeech in {tmp_path}"
    )
    assert (
        f"using {H100}. Estimated from this GPU's roofline, training takes about {low:.0f} to {high:.0f} minutes; "
        in message
    )
    assert f"synthesising its corpus first, once, about {18 / limits.cores():.0f} on {limits.cores()} cores" in message
    tiny_corpus(tmp_path / "synthetic")
    assert "synthesising" not in chosen(tmp_path)[1]


def test_no_time_is_estimated_for_an_unknown_gpu(machine, tmp_path):
    machine(True, gpus=["NVIDIA T4"], memory_bytes=[24 << 30])
    variant, message = chosen(tmp_path)
    assert variant == "synthetic" and "using NVIDIA T4. The time to train on this GPU is not known" in message


@pytest.mark.parametrize(
    ("gigabytes", "processes", "variant"),
    [(16, 1, "mini"), (24, 1, "synthetic"), (16, 2, "synthetic"), (10, 2, "mini"), (6, 4, "mini"), (8, 4, "synthetic")],
)
def test_a_gpu_that_is_too_small_for_the_longest_batch_runs_mini(machine, tmp_path, gigabytes, processes, variant):
    machine(True, gpus=["Tesla T4"] * processes, memory_bytes=[gigabytes * 10**9] * processes)
    found, message = chosen(tmp_path, processes=processes)
    assert found == variant
    if variant == "mini":
        assert f"Tesla T4 has {gigabytes} GB of memory, and the longest batches of synthetic need about" in message
        assert "VARIANT=synthetic" in message


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
        job.resolve(settings, Messages())
    assert not (tmp_path / "runs").exists()


def test_device_cuda_needs_no_list_of_the_driver(machine, tmp_path):
    machine(False, gpus=[H100])
    assert chosen(tmp_path, device="cuda")[0] == "synthetic"


def test_without_a_gpu_mini_runs_and_pytorch_is_not_started(machine, tmp_path, monkeypatch):
    machine(False)
    monkeypatch.setattr(trainer_gpus, "ask_torch", lambda: pytest.fail("it takes seconds of every start"))
    assert chosen(tmp_path) == (
        "mini",
        f"variant mini: VARIANT is not set, and there is no prepared LibriSpeech in {tmp_path}/LibriSpeech_dataset; "
        "there is no GPU here. "
        "It takes a minute or two on two CPU cores",
    )


def test_mini_runs_if_the_user_wants_the_cpu(machine, tmp_path):
    machine(True, gpus=[H100])
    variant, message = chosen(tmp_path, device="cpu")
    assert variant == "mini" and "DEVICE is cpu" in message


@pytest.mark.parametrize("torch_says", [{"gpus": []}, {"error": "killed by signal 11"}])
def test_a_gpu_that_pytorch_cannot_use_is_reported(machine, tmp_path, torch_says):
    machine(True, **torch_says)
    variant, message = chosen(tmp_path)
    why = f"cannot be queried for GPUs ({torch_says['error']})" if "error" in torch_says else "sees no GPU here"
    assert variant == "mini" and f"PyTorch {why}, although the machine has one. It takes" in message


class Messages(list):
    """A display that keeps its messages."""

    def message(self, text):
        self.append(text)


@pytest.mark.parametrize(
    ("torch_says", "why"),
    [
        (
            {"built_for": None},
            "PyTorch sees no GPU here, although the machine has one - this PyTorch was built without CUDA: ",
        ),
        ({"why": "driver is too old"}, "PyTorch sees no GPU here, although the machine has one - "),
        ({"error": "killed"}, "PyTorch cannot be queried for GPUs (killed), although the machine has one - run `sh "),
    ],
)
def test_a_run_on_the_cpu_of_a_machine_with_a_gpu_warns_and_its_folder_says_cpu(
    machine, tmp_path, monkeypatch, torch_says, why
):
    machine(True, **torch_says)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(job.system, "gpu_label", lambda gpus: {(): "cpu", None: "h200"}.get(gpus, "other"))
    data = tiny_corpus(tmp_path / "data" / "mini")
    monkeypatch.setattr(run_dataset, "ready_dataset", lambda *_: data)
    settings = Settings(variant="mini", data_dir=tmp_path / "data", results_dir=tmp_path / "runs", seed=1)
    resolved = job.resolve(settings, display := Messages())
    assert display[0].startswith(f"warning: this run is on the CPU: {why}")
    assert display[0].endswith("; DEVICE=cpu if that is intended")
    assert resolved.gpus == () and "-cpu-" in resolved.run_dir.name
    # No warning if the CPU was chosen, if the trainer does not use PyTorch, or if a GPU is used.
    job.resolve(replace(settings, device="cpu"), display := Messages())
    assert not any("warning" in text for text in display)
    other = job.resolve(replace(settings, trainer_module="mine"), display := Messages())
    assert not any("warning" in text for text in display) and other.gpus is None and "-h200-" in other.run_dir.name
    machine(True, gpus=[H100])
    assert job.resolve(settings, display := Messages()).gpus == (H100,)
    assert not any("warning" in text for text in display)


def test_a_prepared_librispeech_takes_precedence(machine, tmp_path):
    machine(True, gpus=[H100])
    tiny_corpus(tmp_path / "LibriSpeech_dataset")
    assert chosen(tmp_path)[0] == "librispeech"


# Time estimates


def test_the_estimate_uses_the_networks_own_work():
    counted = work_per_audio_s(load_variant("synthetic"), 161)
    assert REFERENCE_WORK.flops == pytest.approx(counted.flops, rel=0.01)
    assert (REFERENCE_WORK.recurrent_weights, REFERENCE_WORK.frames) == (counted.recurrent_weights, counted.frames)


PUBLISHED = ROOT / "results" / "published" / "nvidia-h200" / "synthetic"


def test_the_estimate_agrees_with_the_published_runs_of_an_h200():
    runs = [read_record(path.parent) for path in PUBLISHED.glob("*/record.json")]
    trained_min = [sum(epoch.train_s for epoch in run.epochs) / 60 for run in runs]
    assert trained_min and {run.run.epochs for run in runs} == {EPOCHS[0]}
    low, _ = expected_minutes(load_variant("synthetic"), "NVIDIA H200", 1)
    assert trained_min == pytest.approx([low] * len(runs), rel=0.1)


def test_the_estimate_is_a_fraction_of_the_roofline():
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


# The corpus


def test_a_corpus_of_an_earlier_version_is_refused(tmp_path):
    tiny_corpus(tmp_path / "synthetic")
    description = tmp_path / "synthetic.dataset.json"
    tree = json.loads(description.read_bytes())
    description.write_text(json.dumps(tree | {"provenance": {"version": 1}}))
    with pytest.raises(
        run_dataset.UserError, match="has version 1, but the benchmark now synthesises version 2 - remove"
    ):
        run_dataset.ready_dataset(load_variant("synthetic"), Settings(data_dir=tmp_path), print)


def test_a_smaller_synthetic_is_synthesised_for_its_name(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(run_dataset.launch, "run_to_completion", lambda command: commands.append(command[3:]) or 2)
    for name, words in (
        ("synthetic-4h", ["synthetic", "--hours", "4"]),
        ("synthetic", ["synthetic"]),
        ("mini", ["mini"]),
    ):
        with pytest.raises(run_dataset.UserError):
            run_dataset._synthesise(name, tmp_path)
        assert commands.pop() == ["synthesise", *words, "--data-dir", str(tmp_path)]
