"""Check that each pin of the lock files has a wheel with a locked hash on every platform listed in docs/setup.md.

    python -m script.check_locks

Installs nothing and downloads no wheel. uv, which also makes the lock files (script/lock.sh), lists the files on the
package index and reports which of them it would install on a given platform (as PEP 751's pylock.toml). pip's dry run is
not an alternative: it downloads every wheel whose hash it checks, gigabytes for each platform, and evaluates the lock's
markers for the machine that it runs on.

The package index and its certificates are pip's (PIP_INDEX_URL, PIP_CERT, or index-url and cert in pip's settings), unless
uv's own are set (UV_DEFAULT_INDEX, SSL_CERT_FILE). Exit status: 0 every pin has a wheel, 1 a pin has none, 2 the check could
not be done.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor

from common.errors import EXIT_FAILED, EXIT_OK, UserError, run_cli
from script.pip_install import ROOT, RUNTIME_LOCK, TEST_LOCK

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
LIBRARY = "manylinux_2_28"
"""The oldest C library that the wheels must support: PyTorch's need glibc 2.28."""


def main() -> int:
    """Check both lock files for each machine and Python version; print a line for each."""
    argparse.ArgumentParser(prog="python -m script.check_locks", description=__doc__).parse_args()
    environment = os.environ | {"UV_SYSTEM_CERTS": "1", "UV_NO_PROGRESS": "1", "UV_HTTP_RETRIES": "1"}
    settings = _settings_of_pip()
    for name, setting in {"UV_DEFAULT_INDEX": "index-url", "SSL_CERT_FILE": "cert"}.items():
        if setting in settings:
            environment.setdefault(name, settings[setting])
    cases = list(itertools.product((RUNTIME_LOCK, TEST_LOCK), MACHINES, PYTHONS))
    status = EXIT_OK
    # Almost all the time is spent waiting for the index.
    pool = ThreadPoolExecutor(max_workers=4)
    try:
        results = pool.map(lambda case: check(case[0], case[1], case[2], environment), cases)
        for (lock, machine, python), (wrong, count) in zip(cases, results, strict=True):
            print(f"{lock}, Linux {machine}, Python {python}: {'; '.join(wrong) or f'{count} wheels'}", flush=True)
            if wrong:
                status = EXIT_FAILED
    finally:
        pool.shutdown(cancel_futures=True)
    return status


def check(lock: str, machine: str, python: str, environment: dict[str, str]) -> tuple[list[str], int]:
    """The lock file's problems on one platform, and its number of wheels there. Raises UserError if the index does not answer."""
    hashes = locked_hashes((ROOT / lock).read_text(encoding="utf-8"))
    done = subprocess.run(
        [_uv(), "pip", "compile", "--quiet", "--no-deps", "--only-binary", ":all:", "--format", "pylock.toml",
         "--no-header", "--no-annotate", "--python", sys.executable, "--python-version", python,
         "--python-platform", f"{machine}-{LIBRARY}", str(ROOT / lock)],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    errors = " ".join(done.stderr.split())
    if done.returncode == 1 and "No solution found" in errors:
        return [re.split(r" and you require |, we can conclude", re.sub(r"^.*cause: (Because )?", "", errors))[0]], 0
    if done.returncode:
        fetching = re.search(r"Failed to fetch: \S+", errors)
        raise UserError(
            f"the package index does not answer ({fetching[0] if fetching else errors.removeprefix('error: ')[:200]})",
            where=lock,
            remedy="check the network, or name a reachable index in PIP_INDEX_URL",
        )
    packages = tomllib.loads(done.stdout).get("packages", [])
    wrong = [
        f"the lock has no hash of a wheel of {pin}"
        for pin, wheels in ((f"{p['name']}=={p['version']}", p.get("wheels", [])) for p in packages)
        if not any(wheel["hashes"]["sha256"] in hashes.get(pin, set()) for wheel in wheels)
    ]
    return wrong, len(packages)


def locked_hashes(text: str) -> dict[str, set[str]]:
    """The hashes of each pin (`name==version`) of a lock file."""
    found: dict[str, set[str]] = {}
    for pin in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]:
        name, version = re.split(r"==|[\s;\\]", pin, maxsplit=2)[:2]
        name = re.sub(r"[-_.]+", "-", name).lower()
        found[f"{name}=={version}"] = set(re.findall(r"--hash=sha256:(\w+)", pin))
    return found


def _uv() -> str:
    bin_folder = os.path.dirname(sys.executable)
    found = shutil.which("uv", path=os.pathsep.join([bin_folder, os.environ.get("PATH", os.defpath)]))
    if found is None:
        raise UserError("uv is not installed", remedy="run this with the Python that `sh script/setup.sh test` prints")
    return found


def _settings_of_pip() -> dict[str, str]:
    """pip's settings by name (`index-url`); variables override files. `pip config get` finds less than `list`."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    found = re.findall(r"^(global|install|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
    return {name: value for where in ("global", "install", ":env:") for place, name, value in found if place == where}


if __name__ == "__main__":
    sys.exit(run_cli(main))
