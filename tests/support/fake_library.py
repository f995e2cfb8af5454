"""Builds a small C library that replaces one of the system's by LD_PRELOAD or LD_LIBRARY_PATH."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def build(source: str, library: Path, *flags: str) -> Path:
    """Compile `source` (a file next to this one) into `library` and return it; skips the test without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip(f"needs a C compiler (cc, gcc or clang), to build {source}")
    library.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", *flags, "-o", library, HERE / source], check=True)
    return library
