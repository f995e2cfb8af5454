"""First use: a fresh Debian or Ubuntu with Python, venv and git, and the README's commands exactly as written."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.record import read_record
from tests.conftest import ROOT
from tests.support import debian

HOME, CHECKOUT = "home/newcomer", "home/newcomer/deepspeech2"


def readme_commands() -> list[str]:
    """The commands of the README's first block, without their comments."""
    block = (ROOT / "README.md").read_text().split("```sh\n", 1)[1].split("```", 1)[0]
    return [re.sub(r"\s+#.*", "", line) for line in block.splitlines()]


@pytest.fixture(params=[debian.DEBIAN, debian.UBUNTU])
def root(request, tmp_path) -> Iterator[Path]:
    """The fresh machine, with a clone of this repository in its only user's home directory."""
    debian.needs("debootstrap", "unshare", "git")
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("needs a repository to clone")
    folder = debian.make_root(tmp_path / "root", "python3", "python3-venv", "git", distribution=request.param)
    try:
        # The network's settings, not the user's: name resolution, certificates and the package index.
        for name in ["resolv.conf", "hosts"]:
            shutil.copyfile(f"/etc/{name}", folder / "etc" / name)
        shutil.copyfile(debian.CA_BUNDLE, folder / "etc" / "host-ca.crt")
        (folder / "etc" / "pip.conf").write_text(debian.pip_settings("/etc/host-ca.crt"))
        # uid 4000, because uid 1000 is taken by a default user on some systems.
        subprocess.run(["chroot", folder, "useradd", "--create-home", "--uid", "4000", "newcomer"], check=True)
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, folder / CHECKOUT], check=True)
        subprocess.run(["chroot", folder, "chown", "--recursive", "newcomer:", f"/{HOME}"], check=True)
        yield folder
    finally:
        shutil.rmtree(folder)  # it takes gigabytes


def run_in(root: Path, command: str, user: int = 4000) -> subprocess.CompletedProcess[str]:
    """`command` in a shell in the checkout on that machine, with an empty environment, as its ordinary user or as root (0)."""
    enter = f"""mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount --rbind /sys "$0/sys" &&
        exec chroot --userspec={user}:{user} "$0" env -i /bin/bash -c 'cd /{CHECKOUT} && eval "$0"' "$1" """
    # The mounts and every process end with the shell.
    namespace = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    return subprocess.run([*namespace, "sh", "-c", enter, root, command], capture_output=True, text=True)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_readmes_commands_work_on_a_fresh_machine(root):
    run_and_time, verify = readme_commands()
    assert run_and_time.startswith("time sh ") and run_and_time.endswith("| tee log")

    first = run_in(root, run_and_time)
    assert first.returncode == 0, first.stderr
    assert first.stdout and all(line.startswith(":::MLLOG ") for line in first.stdout.splitlines())
    assert (root / CHECKOUT / "log").read_text() == first.stdout
    (run_dir,) = (root / CHECKOUT / "runs" / "mini").iterdir()
    assert read_record(run_dir).status == "success"
    assert first.stderr.startswith("set-up: making the Python environment in ")
    assert "target reached: WER " in first.stderr
    assert re.search(r"^real\t", first.stderr, re.MULTILINE)
    for word in ["Traceback", "error", "rror:", "arning"]:
        assert word not in first.stderr

    second = run_in(root, verify)
    assert (second.returncode, second.stdout.splitlines()[-1]) == (0, "Dataset Checksum Passed."), second.stderr

    (next_step,) = re.findall(r"^  next +(.*)$", first.stderr, re.MULTILINE)
    compared = run_in(root, next_step)
    assert compared.returncode == 0, compared.stderr
    assert "mini" in compared.stdout
    assert run_in(root, "git status --porcelain").stdout == "", "git ignores all created files"


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_ci_passes_on_a_fresh_machine(root):
    # As root, as on most build machines: .ci/run itself then runs the tests as an ordinary user.
    subprocess.run(["chown", "--recursive", "0:0", root / CHECKOUT], check=True)
    # In a chroot, mount namespaces cannot expose files in a home directory that this user cannot enter.
    (root / HOME).chmod(0o755)
    done = run_in(root, "CI=true HOME=/root bash .ci/run", user=0)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
    assert re.search(r"\b[1-9]\d{3} passed.*$", done.stdout.splitlines()[-1]), (
        "the suite as an ordinary user comes last"
    )
