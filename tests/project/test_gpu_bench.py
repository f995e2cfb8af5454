"""`python -m benches gpu`: a section that fails becomes a row of the table, and the other sections still run."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from benches.gpu import command, kernel_profile, resume_check
from reference_model.checkpoints.checkpoint_files import checkpoint_path
from reference_model.checkpoints.training_state import load_checkpoint, save_checkpoint
from tests.conftest import ROOT
from tests.support.corpus import tiny_corpus, tiny_params
from tests.support.failing_sections import GROUPS

FAILING = ("tests.support.failing_sections",)


def bench(out: Path, *arguments: str, module: tuple[str, ...] = ("benches", "gpu")) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", *module, "--device", "cpu", "--tiny", "--out", str(out), *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200)


def table(out: Path) -> dict:
    return json.loads((out / "gpu_bench.json").read_text())


def reasons(rows: list[dict]) -> dict[str, str]:
    return {row["section"]: row["reason"] for row in rows if "reason" in row}


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> tuple[subprocess.CompletedProcess, dict, str]:
    """All failing sections: the finished process, its table as JSON, and as Markdown."""
    out = tmp_path_factory.mktemp("trial")
    done = bench(out, "--part", "first", module=FAILING)
    return done, table(out), (out / "gpu_bench.md").read_text()


def test_sections_of_a_group_share_a_process_and_groups_do_not(trial):
    pids = {row["section"]: row["pid"] for row in trial[1]["rows"] if "pid" in row}
    assert pids["one"] == pids["raises"] == pids["two"] != pids["exceeds_its_limit"]


def test_a_section_that_raises_keeps_its_rows_and_reports_the_reason(trial):
    done, found, markdown = trial
    assert done.returncode == 2
    assert reasons(found["rows"])["raises"] == "ValueError: what went wrong"
    assert [row["name"] for row in found["rows"] if row["section"] == "raises"] == ["process", "could not be done"]
    assert "| could not be done | - | ValueError: what went wrong |" in markdown


def test_after_a_section_that_ends_its_process_a_new_process_runs_the_others(trial):
    """It exceeds its time limit, the interpreter exits, or the device no longer works."""
    rows = trial[1]["rows"]
    why = reasons(rows)
    assert "not done within" in why["exceeds_its_limit"]
    assert "ended with status 5" in why["exits"]
    assert why["breaks_the_device"] == "an illegal memory access was encountered"
    assert set(why) == {"raises", "exceeds_its_limit", "exits", "breaks_the_device"}
    pids = [row["pid"] for row in rows if row["section"] in GROUPS[1] and "pid" in row]
    assert len(pids) == len(set(pids)) == 4
    assert trial[1]["processes"] == 5


def test_child_processes_of_a_killed_section_are_killed_too(trial):
    (child,) = (row["child"] for row in trial[1]["rows"] if "child" in row)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_the_budget_ends_a_section_and_the_following_ones_are_reported_as_left_out(tmp_path):
    done = bench(tmp_path, "--only", "exceeds_the_budget,one,two", "--budget", "10.5", module=FAILING)
    assert done.returncode == 2
    assert [(row["section"], row["name"]) for row in table(tmp_path)["rows"]] == [
        ("exceeds_the_budget", "process"),
        ("exceeds_the_budget", "could not be done"),
        ("one", "left out"),
        ("two", "left out"),
    ]


def test_the_rows_of_real_sections_are_saved_as_a_table(tmp_path):
    done = bench(tmp_path, "--only", "ceilings,mini")
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path)["rows"]
    assert {row["precision"] for row in rows if "tflops" in row} == {"fp32", "bf16"}
    assert [row["name"] for row in rows if row["section"] == "mini"] == ["left out of the rehearsal"]
    assert "rehearsal, not a measurement" in (tmp_path / "gpu_bench.md").read_text()


def test_an_unknown_section_and_a_missing_gpu_are_reported(tmp_path):
    unknown = bench(tmp_path, "--only", "nonsense")
    assert (unknown.returncode, "no such section: nonsense" in unknown.stderr) == (2, True)
    if not torch.cuda.is_available():
        missing = bench(tmp_path, "--device", "cuda")
        assert (missing.returncode, "no GPU here" in missing.stderr, "Traceback" in missing.stderr) == (2, True, False)
    assert not (tmp_path / "gpu_bench.json").exists()


def test_the_parts_hold_every_section_once():
    names = [name for part in command.PLAN.parts.values() for group in part for name in group]
    assert sorted(names) == sorted(command.PLAN.sections)
    assert names[0] == "smoke" and names[-1] == "compiled"
    for name, section in command.PLAN.sections.items():
        assert callable(getattr(importlib.import_module(section.module), name))


def test_the_watching_process_does_not_import_pytorch():
    """Importing it would take a few seconds of the few minutes on a GPU."""
    program = "import sys, benches.gpu.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.long
@pytest.mark.parametrize("part", command.PLAN.parts)
def test_a_part_passes_alone(part, tmp_path):
    before = set(ROOT.iterdir())
    done = bench(tmp_path, "--part", part)
    assert done.returncode == 0, done.stderr
    assert set(ROOT.iterdir()) == before, "nothing is written into the checkout"
    sections = {row["section"] for row in table(tmp_path)["rows"]}
    assert sections == {name for group in command.PLAN.parts[part] for name in group}


def test_kernels_are_classified_by_what_launched_them_and_a_grus_by_launch_count():
    backward = "CudnnRnnBackward0/autograd::engine::evaluate_function: CudnnRnnBackward0"
    executions = [
        *[kernel_profile.Execution("gemm_of_a_frame", f"/{backward}/", 2.0)] * 600,
        kernel_profile.Execution("gemm_of_all_frames", f"/{backward}/", 300.0),
        kernel_profile.Execution("RNN_blockPersist_fp_GRU", "/aten::_cudnn_rnn/aten::gru/forward/", 500.0),
        kernel_profile.Execution("reduce", "/aten::_foreach_norm/optimizer/", 400.0),
        kernel_profile.Execution("add", "/aten::add/forward/", 100.0),
        kernel_profile.Execution("gemm_of_a_frame", "", 500.0),
    ]
    shares = kernel_profile.shares(executions)
    assert shares == pytest.approx(
        {"recurrences": 17 / 30, "products": 3 / 30, "optimizer": 4 / 30, "rest": 1 / 30, "unknown": 5 / 30}
    )


def test_the_stages_in_a_trace_are_not_counted_as_kernels():
    """The profiler also lists a stage among the kernels, with the time from its first kernel to its last."""

    def event(number: int, name: str, start_us: float, end_us: float, device: DeviceType, annotation: bool = False):
        return FunctionEvent(number, name, 1, start_us, end_us, device_type=device, is_user_annotation=annotation)

    stage, product = (event(1, "forward", 0, 90, DeviceType.CPU, True), event(2, "aten::mm", 1, 5, DeviceType.CPU))
    stage.append_cpu_child(product)
    product.set_cpu_parent(stage)
    on_device = [
        event(3, "gemm", 10, 30, DeviceType.CUDA),
        event(4, "copy", 40, 50, DeviceType.CUDA),
        event(5, "forward", 10, 50, DeviceType.CUDA, True),
    ]
    product.append_kernel("gemm", 0, 20)
    stage.append_kernel("forward", 0, 40)
    events = [stage, product, *on_device]
    assert list(kernel_profile.kernels_of(events)) == [
        kernel_profile.Execution("gemm", "/aten::mm/forward/", 20),
        kernel_profile.Execution("copy", "", 10),
    ]
    assert kernel_profile.busy_share(events) == 30 / 40


@pytest.mark.long
def test_a_resumed_training_is_identical_and_one_that_lost_its_momentum_is_detected(tmp_path):
    corpus = tiny_corpus(tmp_path / "tiny", train=12).folder
    params = tiny_params(optimizer__name="sgd", optimizer__learning_rate=1e-3)
    assert resume_check.resumed(params, corpus, tmp_path, "cpu").within_bounds("cpu")

    checkpoint = load_checkpoint(checkpoint_path(tmp_path / "stopped", 1))
    for state in checkpoint.optimizer["state"].values():
        state["momentum_buffer"].zero_()
    no_momentum = checkpoint_path(tmp_path / "no_momentum", 1)
    save_checkpoint(checkpoint, no_momentum)
    losses = resume_check.train(params, corpus, tmp_path / "no_momentum", "cpu", 3, no_momentum)
    whole, found = (checkpoint_path(tmp_path / name, 3) for name in ("whole", "no_momentum"))
    of_change, tensor = resume_check.weights_differ(whole, found, no_momentum)
    assert of_change > 2 * resume_check.WEIGHTS_BOUND
    uninterrupted = resume_check.train(params, corpus, tmp_path / "again", "cpu", 3)
    apart = abs(losses[0] - uninterrupted[1]) / uninterrupted[0]
    # Either figure alone is enough.
    for difference in (resume_check.Difference(of_change, tensor, (0.0,)), resume_check.Difference(0.0, 0.0, (apart,))):
        assert not difference.within_bounds("cpu") and not difference.within_bounds("cuda")
    assert resume_check.Difference(0.0045, 0.003, (4e-6, 7e-5)).within_bounds("cuda"), "two uninterrupted trainings"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_resumed_on_a_gpu_stays_within_the_bounds(tmp_path, precision):
    params = tiny_params(optimizer__name="sgd", optimizer__learning_rate=1e-3, train__precision=precision)
    params = dataclasses.replace(params, model=dataclasses.replace(params.model, rnn_hidden=256))
    difference = resume_check.resumed(params, tiny_corpus(tmp_path / "tiny").folder, tmp_path, "cuda")
    assert difference.within_bounds("cuda"), difference
