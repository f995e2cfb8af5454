"""What the trainer asks of the operating system, in processes of its own."""

from __future__ import annotations

import _thread
import os
import platform
import resource
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from reference_model.runtime import keep_freed_memory, silence_lost_worker_signals, use_expandable_segments
from tests.conftest import ROOT
from tests.support.training import Child


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_users_settings_of_the_allocator_stay(name):
    environment = {name: "max_split_size_mb:512"}
    use_expandable_segments(environment)
    assert environment == {name: "max_split_size_mb:512"}


def test_blocks_of_gpu_memory_grow_by_default():
    environment = {"PATH": "/bin"}
    use_expandable_segments(environment)
    assert environment == {"PATH": "/bin", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_chosen_gpu_has_blocks_that_grow():
    program = (
        "import torch; from reference_model.runtime import choose_device; device = choose_device('cuda');"
        " torch.ones(1, device=device); print(torch.cuda.memory_snapshot()[0]['is_expandable'])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_ALLOC_CONF")}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def page_faults_of_ten_steps() -> int:
    """Page faults of ten steps that each allocate, fill and free a tensor of 40 MiB."""

    def step() -> None:
        torch.ones(10 * 2**20).add_(1)

    for _ in range(20):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def print_page_faults() -> None:
    default = page_faults_of_ten_steps()
    keep_freed_memory()
    print(default, page_faults_of_ten_steps())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_memory_that_a_step_frees_is_reused_by_the_next(tmp_path):
    done = Child(print_page_faults, folder=tmp_path).wait()
    default, kept = map(int, done.stdout.split())
    # Now and then a small allocation takes a part of the freed memory, and a tensor needs new memory.
    assert kept < default / 4


def raise_in_a_fork_callback(message: str) -> None:
    silence_lost_worker_signals()

    def signal_handler() -> None:
        raise RuntimeError(message)

    os.register_at_fork(after_in_parent=signal_handler)
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    print("continued")


@pytest.mark.parametrize(
    ("message", "lines"),
    [("DataLoader worker (pid 7) is killed by signal: Killed. ", 0), ("something else broke", 1)],
)
def test_only_the_signal_of_a_dead_worker_is_silenced_where_nothing_can_catch_it(tmp_path, message, lines):
    done = Child(raise_in_a_fork_callback, message, folder=tmp_path).wait()
    assert done.stdout == "continued\n"
    assert done.stderr.count(message) == lines and done.stderr.count("Traceback") == lines


def leave_a_loader_and_a_thread_half_made(silenced: bool) -> None:
    if silenced:
        silence_lost_worker_signals()
    half = _MultiProcessingDataLoaderIter.__new__(_MultiProcessingDataLoaderIter)
    del half
    thread = threading.Thread(target=print)
    _thread.start_new_thread(thread._bootstrap, ())
    thread._started.wait(5)
    time.sleep(0.5)
    print("continued")


@pytest.mark.parametrize(("silenced", "tracebacks"), [(False, 2), (True, 0)])
def test_what_the_signal_interrupted_is_silenced_too(tmp_path, silenced, tracebacks):
    """A loader, and a thread whose start the signal interrupted."""
    done = Child(leave_a_loader_and_a_thread_half_made, silenced, folder=tmp_path).wait()
    assert "continued" in done.stdout
    assert done.stderr.count("Traceback") == tracebacks, done.stderr
