"""The tests' isolation: their child processes get the same process state and environment, however the tests are started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.conftest import ROOT, SETTINGS

SHOWN = """
import os, signal, time
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(status["SigIgn"].strip(), status["SigBlk"].strip(), oct(os.umask(0)), time.tzname, signal.getsignal(signal.SIGINT))
os.environ.pop("no_proxy"), os.environ.pop("NO_PROXY")
print(sorted(os.environ.items()))
"""
STARTED = "import subprocess, sys, tests.conftest; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
UNUSUAL = {name: "9" for name in SETTINGS} | {
    **{"SUBMISSION_STATUS": "bogus", "MASTER_ADDR": "nowhere", "SLURM_JOB_ID": "7", "GIT_DIR": "/nowhere"},
    **{"TZ": "Pacific/Chatham", "LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHON": "/nowhere"},
}


def set_unusual_state() -> None:
    """Process state as left by `nohup`, background jobs of a script and careless parents."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    os.umask(0o077)


def test_child_processes_do_not_inherit_the_state_of_the_caller():
    command = [sys.executable, "-c", STARTED, SHOWN]
    common = {"cwd": ROOT, "capture_output": True, "check": True, "text": True}
    usual = subprocess.run(command, **common).stdout
    # Only the two signals that Python itself ignores are ignored: SIGPIPE and SIGXFSZ.
    assert usual.startswith(
        "0000000001001000 0000000000000000 0o22 ('UTC', 'UTC') <built-in function default_int_handler>"
    )
    assert subprocess.run(command, env=os.environ | UNUSUAL, preexec_fn=set_unusual_state, **common).stdout == usual
