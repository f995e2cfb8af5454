"""Shared by the test files; and the same process state for all tests, however they are started."""

from __future__ import annotations

import contextlib
import locale
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

DATA = ROOT / "tests" / "data"
"""Small extracts of real data; its README.md says where they come from and under which licences."""

WHOLE_DATA = "BENCHMARK_TEST_DATA"
"""The variable that names the folder of the complete datasets, which only long tests read."""

SETTINGS = {
    # Read by the commands, the scripts and torchrun's child processes.
    "VARIANT", "SEED", "RUNS", "EPOCHS", "DEVICE", "NPROC", "NNODES", "NODE_RANK", "DATA_DIR", "RESULTS_DIR",
    "DROP_CACHES", "ENGINE", "IMAGE", "BASE_IMAGE", "EXTRAS", "GPUS", "SHM_SIZE", "WHEELS", "OS_RELEASE", "container",
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE",
    # These change the appearance of a program's output.
    "COLUMNS", "LINES", "TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "LANGUAGE",
    "TTY_COMPATIBLE", "TTY_INTERACTIVE",
}  # fmt: skip
FAMILIES = ("SUBMISSION_", "MASTER_", "SLURM_", "TORCHELASTIC_", "KUBERNETES_", "LC_", "PYTHON", "GIT_")
"""Prefixes of variables. A Git hook that starts the tests sets GIT_DIR, which would override a test's own repository."""

PACKAGES = ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE")
"""These belong to the interpreter that the user chose."""


def isolate() -> None:
    """Give this process and all its child processes the same environment and signal handling everywhere."""
    for name in list(os.environ):
        if name in SETTINGS or (name.startswith(FAMILIES) and name not in PACKAGES):
            del os.environ[name]
    os.environ |= {
        "PYTHON": sys.executable,  # the scripts use the interpreter of the tests and set nothing up
        "LANG": "C.UTF-8",
        "TZ": "UTC0",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"},
    }
    time.tzset()
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")  # the encoding of files and pipes opened without one
    for name in ("no_proxy", "NO_PROXY"):  # the tests' servers are on this machine
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    reset_signals()


def reset_signals() -> None:
    """Undo what `nohup`, a background job or another parent left ignored or blocked: children would inherit it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    # Python itself ignores SIGPIPE and SIGXFSZ, and `subprocess` resets them. Under `nohup` the tests must survive their
    # terminal: a handler that does nothing has the same effect as ignoring, and no child inherits it.
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: lambda *_: None}
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handlers.get(number, signal.SIG_DFL))


isolate()


def whole_data(name: str) -> Path:
    """The folder `name` of the complete datasets; skips the calling test if it does not exist."""
    folder = Path(os.environ.get(WHOLE_DATA) or os.devnull) / name
    if not folder.is_dir():
        pytest.skip(f"needs {name} in the folder that {WHOLE_DATA} names: see tests/data/README.md")
    return folder


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "root(what): needs root, to do `what`; skipped for other users")


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("root")
    if marker and os.geteuid() != 0:
        pytest.skip(f"needs root, to {marker.args[0]}")


@pytest.fixture(scope="session", autouse=True)
def _state_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the benchmark's state files out of the user's own folder."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
