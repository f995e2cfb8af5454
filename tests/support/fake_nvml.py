"""Builds fake_nvml.c into libnvidia-ml.so.1 and runs Python with it, as if this machine had NVIDIA's driver."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.support import fake_library

UUIDS = [f"GPU-00000000-0000-0000-0000-00000000000{index}" for index in range(2)]
REFUSED_BY_GPU_1 = {"temperature_c", "tensor_active_pct"}
"""The readings that GPU 1 answers with "not supported"."""


def build(folder: Path, *flags: str) -> Path:
    """The folder that holds the compiled library; skips the test without a C compiler."""
    return fake_library.build("fake_nvml.c", folder / "libnvidia-ml.so.1", *flags).parent


def environment(folder: Path, **settings: object) -> dict[str, str]:
    """The environment in which NVML is the library in `folder`; settings become FAKE_NVML_<NAME>."""
    path = f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    switches = {f"FAKE_NVML_{name.upper()}": str(value) for name, value in settings.items()}
    return os.environ | {"LD_LIBRARY_PATH": path, "PYTHONPATH": str(ROOT)} | switches


def run_python(code: str, folder: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new Python with the fake library; a failure shows its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(folder, **settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done
