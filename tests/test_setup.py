"""script/setup.sh: makes the environment once, mends what is broken, and says in one line why it cannot.

Each test has its own small checkout: the real scripts, a real virtual environment and a real pip, but lock files of two
tiny packages that lie in a folder beside it, so that no network is needed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"PATH": f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin", "PIP_CONFIG_FILE": os.devnull}


class Checkout:
    """A small checkout whose lock files name `tiny` (and `tiny-test` for the tests), and the folder of their wheels."""

    def __init__(self, folder: Path) -> None:
        self.root, self.wheels = folder / "a checkout", folder / "wheels"
        for name in ["script/setup.sh", "script/set_up.py", "script/pip_install.py"]:
            self._copy(name)
        for name in ["datasets/__init__.py", "datasets/errors.py", "datasets/progress.py"]:
            self._copy(name)
        self.wheels.mkdir()
        self.lock("requirements.lock", ["tiny"])
        self.lock("requirements-test.lock", ["tiny", "tiny_test"])
        (self.root / "pyproject.toml").write_text(
            '[project]\ndependencies = ["tiny==1.0"]\n[project.optional-dependencies]\ntest = ["tiny_test"]\n'
        )

    def _copy(self, name: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, self.root / name)

    def lock(self, file: str, names: list[str], version: str = "1.0") -> None:
        lines = [f"{name}=={version} \\\n    --hash=sha256:{self._wheel(name, version)}\n" for name in names]
        (self.root / file).write_text("".join(lines))

    def _wheel(self, name: str, version: str) -> str:
        path = self.wheels / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as wheel:
            for member, text in {
                f"{name}.py": f"VERSION = {version!r}\n" + "# filling\n" * 200_000,
                f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
                f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                f"{info}/RECORD": "",
            }.items():
                # A fixed date: the same wheel, and so the same hash, whenever it is made.
                wheel.writestr(zipfile.ZipInfo(member, (2024, 1, 1, 0, 0, 0)), text)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def command(self, *arguments: str) -> list[str]:
        return ["sh", str(self.root / "script" / "setup.sh"), *arguments]

    def settings(self, **more: str) -> dict[str, str]:
        return SETTINGS | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)} | more

    def set_up(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*arguments), env=self.settings(**settings), capture_output=True, text=True, timeout=120
        )

    @property
    def python(self) -> str:
        return str(self.root / ".venv" / "bin" / "python")

    def version(self, name: str = "tiny") -> str | None:
        command = [self.python, "-c", f"import {name}; print({name}.VERSION)"]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Checkout:
    """A checkout that is set up. Tests that use it leave it set up."""
    checkout = Checkout(tmp_path_factory.mktemp("finished"))
    done = checkout.set_up()
    assert done.returncode == 0, done.stderr
    assert done.stdout == checkout.python + "\n"
    assert "making the Python environment" in done.stderr
    return checkout


def one_error_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("set-up: ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert " - " in lines[0], "a remedy follows"
    return lines[0]


def test_the_second_time_nothing_is_done(finished):
    assert finished.version() == "1.0"
    before = os.stat(finished.root / ".venv/setup/home").st_mtime_ns
    done = finished.set_up()
    assert (done.returncode, done.stdout, done.stderr) == (0, finished.python + "\n", "")
    assert os.stat(finished.root / ".venv/setup/home").st_mtime_ns == before


def test_an_empty_environment_and_another_working_directory_suffice(finished, tmp_path):
    done = subprocess.run(
        ["env", "-i", "PATH=/usr/bin:/bin", *finished.command()], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, finished.python + "\n", "")


def test_test_extras_are_added_and_a_new_lock_is_followed(checkout):
    # With settings of the user's that must not lead astray.
    done = checkout.set_up(
        "test", PYTHONSAFEPATH="1", PYTHONPATH="/nonexistent", PIP_USER="1", PIP_TARGET="/nonexistent"
    )
    assert done.stdout == checkout.python + "\n", done.stderr
    assert checkout.version("tiny_test") == "1.0"
    assert checkout.set_up().stderr == "", "the tests' environment has what the benchmark needs"
    checkout.lock("requirements.lock", ["tiny"], "2.0")
    done = checkout.set_up()
    assert done.returncode == 0
    assert "making" not in done.stderr, "what is there is built upon"
    assert checkout.version() == "2.0"
    checkout.lock("requirements-test.lock", ["tiny", "tiny_test"], "2.0")
    assert checkout.set_up("test").returncode == 0
    assert checkout.version("tiny_test") == "2.0"


def silent_index() -> tuple[socket.socket, threading.Event, str]:
    """A package index that takes the connection and never answers; the event says that somebody has called."""
    server = socket.create_server(("127.0.0.1", 0))
    called, kept = threading.Event(), []

    def serve() -> None:
        while True:
            try:
                kept.append(server.accept())
            except OSError:
                return
            called.set()

    threading.Thread(target=serve, daemon=True).start()
    return server, called, f"http://127.0.0.1:{server.getsockname()[1]}/simple"


def test_killed_in_the_middle_it_starts_anew(checkout):
    server, called, address = silent_index()
    settings = checkout.settings(PIP_INDEX_URL=address)
    del settings["PIP_NO_INDEX"], settings["PIP_FIND_LINKS"]
    process = subprocess.Popen(checkout.command(), env=settings, stderr=subprocess.DEVNULL, start_new_session=True)
    assert called.wait(60)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    server.close()
    # What a kill in mid-copy leaves: a package that looks installed and is not.
    packages = next((checkout.root / ".venv/lib").glob("python*")) / "site-packages"
    (packages / "tiny-1.0.dist-info").mkdir()
    (packages / "tiny-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    done = checkout.set_up()
    assert done.returncode == 0, done.stderr
    assert "interrupted" in done.stderr
    assert checkout.version() == "1.0"


@pytest.mark.long
def test_ended_by_a_signal_it_takes_pip_along_and_says_so(checkout):
    server, called, address = silent_index()
    settings = checkout.settings(PIP_INDEX_URL=address)
    del settings["PIP_NO_INDEX"], settings["PIP_FIND_LINKS"]
    process = subprocess.Popen(
        checkout.command(), env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert called.wait(60)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    server.close()
    assert (process.returncode, out) == (2, "")
    assert "signal 15" in err
    assert "Traceback" not in err
    assert not still_alive(process.pid), "nothing of it runs on"


def still_alive(group: int) -> bool:
    """Whether the process group still has members a few seconds later."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.long
def test_two_at_once_make_one_environment(checkout):
    processes = [
        subprocess.Popen(checkout.command(), env=checkout.settings(), stdout=-1, stderr=-1, text=True) for _ in range(2)
    ]
    answers = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert [out for out, _ in answers] == [checkout.python + "\n"] * 2
    said = "".join(err for _, err in answers)
    assert said.count("making the Python environment") == 1
    assert "waiting for it" in said
    assert checkout.version() == "1.0"


@pytest.mark.long
def test_a_moved_checkout_is_set_up_again(finished, tmp_path):
    moved = Checkout(tmp_path)
    shutil.copytree(finished.root / ".venv", moved.root / ".venv", symlinks=True)
    done = moved.set_up()
    assert done.returncode == 0, done.stderr
    assert "has moved" in done.stderr
    assert moved.version() == "1.0"
    shebang = (moved.root / ".venv/bin/pip").read_text().splitlines()[:2]
    assert str(finished.root) not in "".join(shebang)


@pytest.mark.long
def test_an_environment_whose_python_is_gone_is_made_anew(finished):
    python = Path(finished.python)
    python.unlink()
    python.symlink_to("/nonexistent/python3")
    done = finished.set_up()
    assert done.returncode == 0, done.stderr
    assert "does not work any more" in done.stderr
    assert finished.version() == "1.0"


@pytest.fixture
def outdated(finished):
    """The finished checkout with a new lock that its environment does not follow yet; mended again after the test."""
    finished.lock("requirements.lock", ["tiny"], "2.0")
    yield finished
    finished.lock("requirements.lock", ["tiny"], "1.0")
    assert finished.set_up().returncode == 0
    assert finished.version() == "1.0"


def test_no_network_is_one_line_and_harms_nothing(outdated):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    settings = outdated.settings(PIP_INDEX_URL=f"http://127.0.0.1:{closed}/simple", PIP_RETRIES="1")
    del settings["PIP_NO_INDEX"], settings["PIP_FIND_LINKS"]
    done = subprocess.run(outdated.command(), env=settings, capture_output=True, text=True, timeout=120)
    line = one_error_line(done)
    assert "index cannot be reached" in line
    assert "PIP_INDEX_URL" in line
    assert "Connection refused" in (outdated.root / ".venv/setup/log").read_text(), "pip's own words are kept"
    assert outdated.version() == "1.0", "what was there still works"
    done = outdated.set_up()
    assert done.returncode == 0
    assert "starting anew" not in done.stderr, "and is built upon when the network is back"
    assert outdated.version() == "2.0"


def test_a_package_with_another_hash_is_refused(outdated):
    with zipfile.ZipFile(outdated.wheels / "tiny-2.0-py3-none-any.whl", "a") as changed:
        changed.writestr("evil.py", "")
    assert "hash differs" in one_error_line(outdated.set_up())
    assert outdated.version() == "1.0"


def test_a_package_that_the_index_lacks_is_named(outdated):
    (outdated.wheels / "tiny-2.0-py3-none-any.whl").unlink()
    assert "has no tiny==2.0" in one_error_line(outdated.set_up())


def test_a_full_disk_is_one_line(tmp_path):
    """The checkout on a real file system that is too small for the environment."""
    script = f"""mount -t tmpfs -o size=24m none '{tmp_path}' && cd '{ROOT}' && '{sys.executable}' -c '
import sys; sys.path.insert(0, "tests")
from pathlib import Path
from test_setup import Checkout
done = Checkout(Path("{tmp_path}")).set_up()
sys.stdout.write(done.stdout); sys.stderr.write(done.stderr); sys.exit(done.returncode)'"""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets us mount nothing")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=120)
    line = one_error_line(done)
    assert "the disk is full" in line
    assert "larger disk" in line


def test_a_checkout_that_cannot_be_written_is_one_line(checkout):
    (checkout.root / ".venv").write_text("in the way")
    assert one_error_line(checkout.set_up())


def test_a_python_of_the_users_is_used_as_it_is(finished, checkout):
    done = checkout.set_up(PYTHON=finished.python, PYTHONSAFEPATH="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, finished.python + "\n", "")
    assert not (checkout.root / ".venv").exists(), "nothing is made"
    assert "lacks tiny_test" in one_error_line(checkout.set_up("test", PYTHON=finished.python))
    assert "is not a program" in one_error_line(checkout.set_up(PYTHON="/nonexistent/python"))
    assert "is not a Python" in one_error_line(checkout.set_up(PYTHON="/bin/ls"))


def test_a_python_by_a_relative_path_is_answered_with_an_absolute_one(finished, checkout):
    done = subprocess.run(
        checkout.command(), env=checkout.settings(PYTHON=".venv/bin/python"), cwd=finished.root, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stdout == str(finished.root / ".venv/bin/python") + "\n"


PINNED = {"torch": "2.11.0", "torchaudio": "2.11.0"}


def with_torch(checkout: Checkout, python: str, **versions: str) -> subprocess.CompletedProcess:
    """Set up with PYTHON, as if it had torch and torchaudio of these versions: all that is there is their METADATA."""
    lock = "".join(f"{name}=={version} \\\n    --hash=sha256:{'0' * 64}\n" for name, version in PINNED.items())
    (checkout.root / "requirements.lock").write_text(lock)
    named = ", ".join(f'"{name}=={version}"' for name, version in PINNED.items())
    (checkout.root / "pyproject.toml").write_text(f"[project]\ndependencies = [{named}]\n")
    site = checkout.root.parent / "site"
    shutil.rmtree(site, ignore_errors=True)
    for name, version in versions.items():
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (site / f"{name}.py").write_text("raise SystemExit('the check imports nothing')\n")
    return checkout.set_up(PYTHON=python, PYTHONPATH=str(site))


@pytest.mark.parametrize("version", ["2.11.0", "2.11.0+cu130"])
def test_the_pinned_pytorch_of_the_users_passes_in_silence(finished, checkout, version):
    done = with_torch(checkout, finished.python, torch=version, torchaudio="2.11.0")
    assert (done.returncode, done.stdout, done.stderr) == (0, finished.python + "\n", "")


@pytest.mark.parametrize(
    ("torch", "torchaudio", "warned", "fp32"),
    [
        ("2.11.1", "2.11.0", ["torch 2.11.1"], False),
        ("2.13.0+cu130", "2.11.0", ["torch 2.13.0"], False),  # torchaudio 2.11 is made for later ones too
        ("2.10.0+cu128", "2.10.0", ["torch 2.10.0", "torchaudio 2.10.0"], True),
        ("2.5.0", "2.5.1", ["torch 2.5.0", "torchaudio 2.5.1"], True),
        ("2.11.0a0+fe05266f", "2.11.0", ["torch 2.11.0a0"], False),
    ],
)
def test_another_pytorch_than_the_pinned_one_is_warned_of(finished, checkout, torch, torchaudio, warned, fp32):
    done = with_torch(checkout, finished.python, torch=torch, torchaudio=torchaudio)
    assert (done.returncode, done.stdout) == (0, finished.python + "\n")
    lines = done.stderr.splitlines()
    assert len(lines) == len(warned)
    for line, name in zip(lines, warned, strict=True):
        assert line.startswith(f"set-up: warning: PYTHON has {name}, not the pinned 2.11.0: ")
        assert "not comparable" in line
        assert ("gru_dtype" in line) == (fp32 and name.startswith("torch "))


@pytest.mark.parametrize(
    ("torch", "torchaudio", "said", "remedy"),
    [
        ("2.10.0", "2.11.0", "torch 2.10.0 and torchaudio 2.11.0 do not work together", "install torchaudio 2.10 "),
        ("2.11.0", "2.10.0", "torch 2.11.0 and torchaudio 2.10.0 do not work together", "install torchaudio 2.11 "),
        ("2.13.0", "2.9.1", "torch 2.13.0 and torchaudio 2.9.1 do not work together", "install torchaudio 2.11 "),
        (
            "2.4.1+cu121",
            "2.4.1",
            "torch 2.4.1 is too old: the trainer needs 2.5 or newer",
            "install torch and torchaudio as in requirements.lock ",
        ),
    ],
)
def test_a_pytorch_that_cannot_work_is_refused(finished, checkout, torch, torchaudio, said, remedy):
    line = one_error_line(with_torch(checkout, finished.python, torch=torch, torchaudio=torchaudio))
    assert said in line
    assert remedy in line and "unset PYTHON" in line


def test_a_python_without_torchaudio_lacks_it_and_no_more_is_said(finished, checkout):
    done = with_torch(checkout, finished.python, torch="2.4.0")
    assert "PYTHON lacks torchaudio" in one_error_line(done)
    assert len(done.stderr.splitlines()) == 1


def fake_python(folder: Path, version: tuple[int, int], has_venv: bool = True) -> Path:
    """A folder for PATH whose python3 answers the set-up's questions as another Python would."""
    folder.mkdir()
    path = folder / "python3"
    code = f"import sys; sys.version_info = {(*version, 0, 'final', 0)}; "
    code += "" if has_venv else "sys.modules['ensurepip'] = None; "
    path.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" -I -c "{code}$1"\n')
    path.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("version", "has_venv", "expected"),
    [((3, 9), True, "python3 is 3.9"), ((3, 15), True, "python3 is 3.15"), ((3, 12), False, "python3-venv")],
)
def test_a_python_that_will_not_do_is_named_with_the_remedy(checkout, tmp_path, version, has_venv, expected):
    tools = fake_python(tmp_path / "bin", version, has_venv)
    for tool in ["sh", "dirname", "cmp", "env"]:
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    assert expected in one_error_line(checkout.set_up(PATH=str(tools)))


def test_no_python_at_all(checkout, tmp_path):
    (tmp_path / "bin").mkdir()
    for tool in ["sh", "dirname", "cmp"]:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    assert "no Python 3.11 to 3.14 found" in one_error_line(checkout.set_up(PATH=str(tmp_path / "bin")))


def test_an_unknown_argument_is_refused(checkout):
    assert "unknown argument 'tset'" in one_error_line(checkout.set_up("tset"))
