"""A minimal Debian or Ubuntu in a folder, for tests of a machine on which nothing has been set up.

DEBOOTSTRAP_OPTIONS adds options for debootstrap: a distribution other than the machine's own may need `--keyring=FILE`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def needs(*tools: str) -> None:
    """Skip the test if one of the tools is missing, or if it does not run as root."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    if os.getuid() != 0:
        pytest.skip("needs root, for debootstrap and chroot")


DEBIAN, UBUNTU = "Debian 12", "Ubuntu 24.04"
_SOURCES = {
    DEBIAN: ["bookworm"],
    # debootstrap's script for gutsy works for every later Ubuntu; an older debootstrap has none named noble.
    UBUNTU: ["noble", "http://archive.ubuntu.com/ubuntu", "/usr/share/debootstrap/scripts/gutsy"],
}


def make_root(folder: Path, *packages: str, distribution: str = DEBIAN) -> Path:
    """Install the distribution's minimal variant and `packages` in `folder`."""
    release, *source = _SOURCES[distribution]
    options = [f"--include={','.join(packages)}"] if packages else []
    options += ["--components=main,universe"] if distribution == UBUNTU else []
    options += shlex.split(os.environ.get("DEBOOTSTRAP_OPTIONS", ""))
    command = ["debootstrap", "--variant=minbase", *options, release, str(folder), *source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def pip_settings(ca_bundle: str) -> str:
    """The contents of a pip.conf with this machine's package index, and its certificates in `ca_bundle`."""
    settings = Path("/etc/pip.conf").read_text() if Path("/etc/pip.conf").exists() else "[global]\n"
    if "cert" not in settings:
        settings += f"\ncert = {CA_BUNDLE}\n"
    return settings.replace(str(CA_BUNDLE), ca_bundle)
