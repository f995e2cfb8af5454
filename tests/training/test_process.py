"""What the trainer asks of the operating system: measured in processes of their own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.support.harness import ROOT

FAULTS = """
import resource, sys
import torch
from reference_model.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.set_num_threads(1)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    torch.ones(10 * 2**20).add_(1)  # 40 MiB
for _ in range(20):
    step()
before = faults()
for _ in range(10):
    step()
print(faults() - before)
"""


def page_faults(mode: str) -> int:
    """Page faults of ten steps that each make, fill and free a tensor of 40 MiB."""
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_memory_that_a_step_frees_serves_the_next():
    # Now and then a small piece takes its place in what was freed, and a tensor needs memory that is new.
    assert page_faults("keep") < page_faults("default") / 4


ALARM = """
import os
from reference_model.process import silence_lost_worker_signals
silence_lost_worker_signals()
def alarm():
    raise RuntimeError("{said}")
os.register_at_fork(after_in_parent=alarm)
if os.fork() == 0:
    os._exit(0)
os.wait()
print("went on")
"""


@pytest.mark.parametrize(
    ("said", "lines"), [("DataLoader worker (pid 7) is killed by signal: Killed. ", 0), ("something else broke", 1)]
)
def test_only_the_alarm_of_a_dead_loader_process_is_kept_quiet_where_nobody_can_catch_it(said, lines):
    done = subprocess.run([sys.executable, "-c", ALARM.format(said=said)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "went on\n"
    assert done.stderr.count(said) == lines and done.stderr.count("Traceback") == lines


HALF_MADE = """
import _thread, threading, time
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Loader
from reference_model.process import silence_lost_worker_signals
{hook}
half = Loader.__new__(Loader)
del half
thread = threading.Thread(target=print)
_thread.start_new_thread(thread._bootstrap, ())
thread._started.wait(5)
time.sleep(0.5)
print("went on")
"""


@pytest.mark.parametrize(("hook", "tracebacks"), [("", 2), ("silence_lost_worker_signals()", 0)])
def test_what_an_alarm_left_half_made_does_not_complain_either(hook, tracebacks):
    """A loader, and a thread whose start the alarm broke off."""
    code = HALF_MADE.format(hook=hook)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "went on" in done.stdout
    assert done.stderr.count("Traceback") == tracebacks, done.stderr
