"""`python -m benches gpu`: what a section does to itself is a row of the table, and the other sections go on.

Run as a module, this is that bench with the sections below in the place of its own.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from benches.gpu import command, kernel_profile, resume_check, worker
from reference_model.checkpoints.training_state import checkpoint_path, load_checkpoint, save_checkpoint
from tests.conftest import ROOT
from tests.support.corpus import tiny_corpus, tiny_params

# Each notes the process that it runs in; what it does besides is its name.


def one(bench):
    bench.row("one", "process", pid=os.getpid())


def raises(bench):
    bench.row("raises", "process", pid=os.getpid())
    raise ValueError("what went wrong\nand more of it")


def two(bench):
    bench.row("two", "process", pid=os.getpid())


def sleeps(bench):
    child = subprocess.Popen(["sleep", "600"])
    bench.row("sleeps", "process", pid=os.getpid(), child=child.pid)
    time.sleep(600)


def dozes(bench):
    bench.row("dozes", "process", pid=os.getpid())
    time.sleep(600)


def dies(bench):
    bench.row("dies", "process", pid=os.getpid())
    os._exit(5)


def breaks(bench):
    worker.device_error = lambda bench: "an illegal memory access was encountered"
    bench.row("breaks", "process", pid=os.getpid())


def three(bench):
    bench.row("three", "process", pid=os.getpid())


HERE = "tests.project.test_gpu_bench"
TRIAL = command.Plan(
    sections={
        name: command.Section(HERE, 0.5 if name == "sleeps" else 60)
        for name in ("one", "raises", "two", "sleeps", "dies", "breaks", "three", "dozes")
    },
    parts={"first": (("one", "raises", "two"), ("sleeps", "dies", "breaks", "three")), "second": (("dozes",),)},
    door=(HERE,),
)


def bench(out: Path, *arguments: str, module: tuple[str, ...] = ("benches", "gpu")) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", *module, "--device", "cpu", "--tiny", "--out", str(out), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def table(out: Path) -> dict:
    return json.loads((out / "gpu_bench.json").read_text())


def reasons(rows: list[dict]) -> dict[str, str]:
    return {row["section"]: row["reason"] for row in rows if "reason" in row}


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> tuple[subprocess.CompletedProcess, dict, str]:
    """The sections above, from first to last: what the bench said, its table as JSON, and as Markdown."""
    out = tmp_path_factory.mktemp("trial")
    done = bench(out, "--part", "first", module=(HERE,))
    return done, table(out), (out / "gpu_bench.md").read_text()


def test_sections_of_a_group_share_a_process_and_groups_do_not(trial):
    pids = {row["section"]: row["pid"] for row in trial[1]["rows"] if "pid" in row}
    assert pids["one"] == pids["raises"] == pids["two"] != pids["sleeps"]


def test_a_section_that_raises_keeps_its_rows_and_says_why(trial):
    done, found, markdown = trial
    assert done.returncode == 2
    assert reasons(found["rows"])["raises"] == "ValueError: what went wrong"
    assert [row["name"] for row in found["rows"] if row["section"] == "raises"] == ["process", "could not be done"]
    assert "| could not be done | - | ValueError: what went wrong |" in markdown


def test_what_ends_a_process_costs_no_other_section(trial):
    """It takes too long, the interpreter dies, or the device is broken: a fresh process goes on."""
    rows = trial[1]["rows"]
    why = reasons(rows)
    assert "not done within" in why["sleeps"]
    assert "ended with status 5" in why["dies"]
    assert why["breaks"] == "an illegal memory access was encountered"
    assert set(why) == {"raises", "sleeps", "dies", "breaks"}
    pids = [row["pid"] for row in rows if row["section"] in ("sleeps", "dies", "breaks", "three") and "pid" in row]
    assert len(pids) == len(set(pids)) == 4
    assert trial[1]["processes"] == 5


def test_nothing_is_left_of_a_section_that_was_ended(trial):
    (child,) = (row["child"] for row in trial[1]["rows"] if "child" in row)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_the_time_for_all_ends_a_section_and_those_after_it_are_said_to_be_left_out(tmp_path):
    done = bench(tmp_path, "--only", "dozes,one,two", "--budget", "10.5", module=(HERE,))
    assert done.returncode == 2
    assert [(row["section"], row["name"]) for row in table(tmp_path)["rows"]] == [
        ("dozes", "process"),
        ("dozes", "could not be done"),
        ("one", "left out"),
        ("two", "left out"),
    ]


def test_sections_are_saved_as_a_table(tmp_path):
    done = bench(tmp_path, "--only", "ceilings,mini")
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path)["rows"]
    assert {row["precision"] for row in rows if "tflops" in row} == {"fp32", "bf16"}
    assert [row["name"] for row in rows if row["section"] == "mini"] == ["left out of the rehearsal"]
    assert "rehearsal, no measurement" in (tmp_path / "gpu_bench.md").read_text()


def test_an_unknown_section_and_a_missing_gpu_are_said(tmp_path):
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


def test_the_watching_process_does_without_pytorch():
    """Its interpreter would take some seconds longer to start, of a few minutes on a GPU."""
    program = "import sys, benches.gpu.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.long
@pytest.mark.parametrize("part", command.PLAN.parts)
def test_a_part_passes_alone(part, tmp_path):
    before = set(ROOT.iterdir())
    done = bench(tmp_path, "--part", part)
    assert done.returncode == 0, done.stderr
    assert set(ROOT.iterdir()) == before, "a corpus that is made in the checkout is made twice"
    sections = {row["section"] for row in table(tmp_path)["rows"]}
    assert sections == {name for group in command.PLAN.parts[part] for name in group}


def test_kernels_are_told_by_what_launched_them_and_a_grus_by_how_often():
    backward = "CudnnRnnBackward0/autograd::engine::evaluate_function: CudnnRnnBackward0"
    pieces = [
        *[kernel_profile.Piece("gemm_of_a_frame", f"/{backward}/", 2.0)] * 600,
        kernel_profile.Piece("gemm_of_all_frames", f"/{backward}/", 300.0),
        kernel_profile.Piece("RNN_blockPersist_fp_GRU", "/aten::_cudnn_rnn/aten::gru/forward/", 500.0),
        kernel_profile.Piece("reduce", "/aten::_foreach_norm/optimiser/", 400.0),
        kernel_profile.Piece("add", "/aten::add/forward/", 100.0),
        kernel_profile.Piece("gemm_of_a_frame", "", 500.0),
    ]
    shares = kernel_profile.shares(pieces)
    assert shares == pytest.approx(
        {"recurrences": 17 / 30, "products": 3 / 30, "optimiser": 4 / 30, "rest": 1 / 30, "unknown": 5 / 30}
    )


def test_what_a_trace_says_of_a_stage_is_no_kernel():
    """The profiler notes the time from a stage's first kernel to its last among the kernels, too."""

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
        kernel_profile.Piece("gemm", "/aten::mm/forward/", 20),
        kernel_profile.Piece("copy", "", 10),
    ]
    assert kernel_profile.busy_share(events) == 30 / 40


@pytest.mark.long
def test_a_resumed_training_is_the_same_and_one_that_forgot_its_momentum_is_told(tmp_path):
    corpus = tiny_corpus(tmp_path / "tiny", train=12).folder
    params = tiny_params(optimizer__name="sgd", optimizer__learning_rate=1e-3)
    assert resume_check.resumed(params, corpus, tmp_path, "cpu").holds("cpu")

    checkpoint = load_checkpoint(checkpoint_path(tmp_path / "stopped", 1))
    for state in checkpoint.optimizer["state"].values():
        state["momentum_buffer"].zero_()
    forgetful = checkpoint_path(tmp_path / "forgetful", 1)
    save_checkpoint(checkpoint, forgetful)
    resume_check.train(params, corpus, tmp_path / "forgetful", "cpu", 3, forgetful)
    whole, found = (checkpoint_path(tmp_path / name, 3) for name in ("whole", "forgetful"))
    of_change, tensor = resume_check.weights_differ(whole, found, forgetful)
    difference = resume_check.Difference(of_change, tensor, (0.0,))
    assert not difference.holds("cpu") and not difference.holds("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_resumed_on_a_gpu_keeps_its_bounds(tmp_path, precision):
    params = tiny_params(optimizer__name="sgd", optimizer__learning_rate=1e-3, train__precision=precision)
    params = dataclasses.replace(params, model=dataclasses.replace(params.model, rnn_hidden=256))
    difference = resume_check.resumed(params, tiny_corpus(tmp_path / "tiny").folder, tmp_path, "cuda")
    assert difference.holds("cuda"), difference


if __name__ == "__main__":
    sys.exit(command.main(sys.argv[1:], TRIAL))
