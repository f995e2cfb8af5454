"""script/setup.sh: makes the environment once, mends what is broken, and says in one line why it cannot.

Each test has its own small checkout: the real scripts, a real virtual environment and a real pip, but lock files of two
tiny packages that lie in a folder beside it, so that no network is needed.
"""

from __future__ import annotations

import hashlib
import itertools
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

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"PATH": f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin", "PIP_CONFIG_FILE": os.devnull}


class Checkout:
    """A small checkout whose lock files name `tiny` (and `tiny-test` for the tests), and the folder of their wheels."""

    def __init__(self, folder: Path) -> None:
        self.root, self.wheels = folder / "a checkout", folder / "wheels"
        for name in ["setup.sh", "set_up.py", "pip_install.py", "venv_guard.py", "check_locks.py"]:
            self._copy(f"script/{name}")
        for name in ["common/__init__.py", "common/errors.py", "common/locks.py", "common/progress.py"]:
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


def everything_in(folder: Path) -> dict[str, tuple]:
    """What would tell of any change: each entry's kind, size, time of change and link."""
    return {
        str(path): (state.st_mode, state.st_size, state.st_mtime_ns, os.readlink(path) if path.is_symlink() else None)
        for path in [folder, *sorted(folder.rglob("*"))]
        for state in [path.lstat()]
    }


def test_nothing_behind_a_link_in_the_place_of_the_environment_is_touched(finished, checkout):
    venv = checkout.root / ".venv"
    venv.symlink_to(finished.root / ".venv")
    before = everything_in(finished.root)
    line = one_error_line(checkout.set_up("test"))
    assert f"{venv}: .venv is a link to {finished.root}/.venv" in line
    assert "remove the link" in line
    assert f"PYTHON={finished.root}/.venv/bin/python" in line
    assert everything_in(finished.root) == before
    done = checkout.set_up(PYTHON=f"{finished.root}/.venv/bin/python")
    assert done.returncode == 0, "the remedy works"
    venv.unlink()
    venv.symlink_to(checkout.root.parent / "nowhere")
    assert "is a link" in one_error_line(checkout.set_up())
    assert not (checkout.root.parent / "nowhere").exists()


def made_by_set_up(checkout: Checkout) -> Path:
    """.venv as an interrupted set-up leaves it, which the next one empties."""
    venv = checkout.root / ".venv"
    (venv / "setup").mkdir(parents=True)
    (venv / "setup" / "lock").touch()
    (venv / "setup" / "unfinished").touch()
    return venv


@pytest.mark.parametrize(
    "name", ["bin", "lib", "lib/python3.11/site-packages/torch", "setup/tmp", "setup/log", "setup"]
)
def test_a_link_inside_the_environment_is_not_followed(checkout, name):
    elsewhere = checkout.root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").write_text("precious")
    venv = made_by_set_up(checkout)
    if name == "setup":
        shutil.rmtree(venv / "setup")
    link = venv / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere / "lock" if name == "setup/log" else elsewhere)
    before = everything_in(venv), everything_in(elsewhere)
    assert f"holds a link to elsewhere ({name})" in one_error_line(checkout.set_up())
    assert (everything_in(venv), everything_in(elsewhere)) == before


def test_an_environment_of_the_users_own_is_neither_emptied_nor_installed_into(finished, checkout):
    venv = checkout.root / ".venv"
    shutil.copytree(finished.root / ".venv", venv, symlinks=True, ignore=shutil.ignore_patterns("setup"))
    (venv / "notes").write_text("precious")
    before = everything_in(venv)
    line = one_error_line(checkout.set_up("test"))
    assert ".venv was not made by set-up - move it away" in line
    assert f"PYTHON={venv}/bin/python" in line
    assert everything_in(venv) == before


@pytest.mark.root("give a folder to another user")
def test_another_users_environment_is_left_alone(checkout):
    venv = made_by_set_up(checkout)
    try:
        os.chown(venv, 4321, 4321)
    except OSError as error:
        pytest.skip(f"this machine has no other users: {error}")
    assert "belongs to another user (number 4321)" in one_error_line(checkout.set_up())
    assert (venv / "setup" / "unfinished").exists()


@pytest.mark.parametrize(
    ("mounted", "expected"),
    [(".venv", "is the environment of the checkout"), (".venv/lib of it", "holds a mount (lib of it)")],
)
def test_an_environment_that_is_mounted_here_is_left_alone(finished, checkout, mounted, expected):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets us mount nothing")
    made_by_set_up(checkout)
    (checkout.root / mounted).mkdir(exist_ok=True)
    before = everything_in(finished.root / ".venv")
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(finished.root / ".venv"), str(checkout.root / mounted)]
    done = subprocess.run([*command, *checkout.command()], env=checkout.settings(), capture_output=True, text=True)
    assert expected in one_error_line(done)
    assert everything_in(finished.root / ".venv") == before


def test_from_an_activated_environment_it_is_made_anew(finished):
    """The python3 that starts set-up lies in the very folder that is emptied."""
    (finished.root / ".venv/setup/unfinished").touch()
    done = finished.set_up(PATH=f"{finished.root}/.venv/bin:{SETTINGS['PATH']}")
    assert done.returncode == 0, done.stderr
    assert "starting anew" in done.stderr
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


@pytest.fixture
def offline(outdated, tmp_path):
    """Sets up the outdated checkout where there is no package index, from folders of wheels beside the working directory."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]

    def set_up(wheels: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
        nowhere = {"PIP_INDEX_URL": f"http://127.0.0.1:{closed}/simple", "PIP_RETRIES": "0", "WHEELS": wheels}
        return subprocess.run(
            outdated.command(*arguments), env=SETTINGS | nowhere | settings, cwd=tmp_path, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip

    shutil.copytree(outdated.wheels, tmp_path / "all the wheels")
    return set_up


def test_a_folder_of_wheels_is_enough_for_run_and_tests(outdated, offline, tmp_path):
    done = offline("all the wheels")
    assert done.returncode == 0, done.stderr
    assert outdated.version() == "2.0"
    done = offline("~/all the wheels", "test", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert outdated.version("tiny_test") == "1.0"
    # As the other tests expect it.
    subprocess.run([outdated.python, "-m", "pip", "uninstall", "--quiet", "--yes", "tiny_test"], check=True)
    (outdated.root / ".venv/setup/requirements-test.lock").unlink()


def test_a_wheel_that_the_folder_lacks_is_named_and_taken_from_nowhere_else(outdated, offline, tmp_path):
    (tmp_path / "all the wheels" / "tiny-2.0-py3-none-any.whl").unlink()
    line = one_error_line(offline("all the wheels", PIP_FIND_LINKS=str(outdated.wheels)))
    assert f"{tmp_path}/all the wheels: there is no wheel of tiny==2.0 for Python 3." in line
    assert "pip download -d FOLDER --no-deps --require-hashes --only-binary :all: -r requirements.lock" in line
    assert outdated.version() == "1.0", "what was there still works"


def test_a_wheel_that_was_cut_off_is_named(outdated, offline, tmp_path):
    wheel = tmp_path / "all the wheels" / "tiny-2.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes()[:-100])
    line = one_error_line(offline("all the wheels"))
    assert f"{wheel}: a wheel is not the one that the lock file names" in line
    assert outdated.version() == "1.0"


def test_what_is_no_folder_of_wheels_is_refused_before_anything_is_made(checkout, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "WHEELS is a folder without wheels" in one_error_line(checkout.set_up(WHEELS=str(tmp_path / "empty")))
    assert "WHEELS is not a folder" in one_error_line(checkout.set_up(WHEELS=str(tmp_path / "nowhere")))
    assert not (checkout.root / ".venv").exists()


def test_a_full_disk_is_one_line(tmp_path):
    """The checkout on a real file system that is too small for the environment."""
    script = f"""mount -t tmpfs -o size=24m none '{tmp_path}' && cd '{ROOT}' && '{sys.executable}' -c '
import sys
from pathlib import Path
from tests.project.test_setup import Checkout
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


def fake_python(folder: Path, version: tuple[int, ...], otherwise: str = "") -> Path:
    """A folder for PATH whose python3 answers the set-up's questions as another Python would."""
    folder.mkdir()
    path = folder / "python3"
    numbers = (*version, 0, 0)[:3]
    code = f"import os, sys, types; sys.version_info = {(*numbers, 'final', 0)}; {otherwise}"
    path.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" -I -c "{code}$1"\n')
    path.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("version", "otherwise", "expected"),
    [
        ((3, 9), "", "python3 is 3.9"),
        ((3, 15), "", "python3 is 3.15"),
        ((3, 14, 1), "", "python3 is 3.14.1, which NetworkX refuses"),
        ((3, 12), "sys.modules['ensurepip'] = None", "python3-venv"),
        ((3, 11), "sys.implementation = types.SimpleNamespace(name='pypy')", "python3 is pypy of Python 3.11"),
        ((3, 13), "sys.abiflags = 't'", "python3 is a free-threaded 3.13"),
        ((3, 13), "sys.maxsize = 2**31 - 1", "python3 is a 32-bit 3.13"),
        ((3, 12), "os.confstr = lambda name: 'glibc 2.17'", "C library (glibc 2.17)"),
        ((3, 12), "os.confstr = lambda name: None", "C library (another than glibc)"),
    ],
)
def test_a_python_that_will_not_do_is_named_with_the_remedy(checkout, tmp_path, version, otherwise, expected):
    tools = fake_python(tmp_path / "bin", version, otherwise)
    for tool in ["sh", "dirname", "cmp", "env"]:
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    assert expected in one_error_line(checkout.set_up(PATH=str(tools)))
    assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize("system", ["Darwin arm64", "MINGW64_NT-10.0-19045 x86_64", "Linux riscv64", "Linux i686"])
def test_another_system_is_sent_to_a_container_and_only_warned_of_with_a_python_of_the_users(
    finished, checkout, tmp_path, system
):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uname").write_text(f"#!/bin/sh\necho '{system}'\n")
    (tmp_path / "bin" / "uname").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{SETTINGS['PATH']}"
    line = one_error_line(checkout.set_up(PATH=path))
    assert f"this is {system}" in line
    assert "container" in line and "WSL2" in line and "docs/setup.md" in line
    assert not (checkout.root / ".venv").exists()
    done = checkout.set_up(PATH=path, PYTHON=finished.python)
    assert (done.returncode, done.stdout) == (0, finished.python + "\n")
    assert done.stderr.startswith(f"set-up: warning: this is {system}, ")
    assert done.stderr.count("\n") == 1


def test_no_python_at_all(checkout, tmp_path):
    (tmp_path / "bin").mkdir()
    for tool in ["sh", "dirname", "cmp"]:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    assert "no Python 3.11 to 3.14 found" in one_error_line(checkout.set_up(PATH=str(tmp_path / "bin")))


def test_an_unknown_argument_is_refused(checkout):
    assert "unknown argument 'tset'" in one_error_line(checkout.set_up("tset"))


@pytest.fixture
def index(checkout):
    """Checks the locks of the small checkout against a package index that has its wheels, as a folder of pages."""
    if not (Path(sys.executable).parent / "uv").exists():
        pytest.skip("uv is not installed")

    def check(address: str | None = None) -> subprocess.CompletedProcess:
        pages = checkout.root.parent / "index"
        for wheel in checkout.wheels.glob("*.whl"):
            page = pages / wheel.name.partition("-")[0].replace("_", "-") / "index.html"
            page.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            page.write_text(f'<a href="{wheel.as_uri()}#sha256={digest}">{wheel.name}</a>\n')
        return subprocess.run(
            [sys.executable, "-m", "script.check_locks"], cwd=checkout.root, capture_output=True, text=True, timeout=120,
            env=SETTINGS | {"PIP_INDEX_URL": address or pages.as_uri(), "UV_CACHE_DIR": str(pages / "cache"), "HOME": str(pages)},
        )  # fmt: skip

    return check


def test_the_locks_are_checked_for_every_platform_without_installing(index, checkout):
    lock, tests = checkout.root / "requirements.lock", checkout.root / "requirements-test.lock"
    lock.write_text(lock.read_text()[:-8] + "0000000\n")
    name = "tiny_test-1.0-{}.whl"
    (checkout.wheels / name.format("py3-none-any")).rename(
        checkout.wheels / name.format("cp312-cp312-manylinux_2_17_x86_64")
    )
    # A marker is asked about the platform in question, not about this machine.
    tests.write_text(tests.read_text().replace("tiny_test==1.0", "tiny_test==1.0 ; platform_machine == 'x86_64'"))
    done = index()
    assert done.returncode == 1, done.stderr
    lines = iter(done.stdout.splitlines())
    for machine, python in itertools.product(["x86_64", "aarch64"], ["3.11", "3.12", "3.13", "3.14"]):
        line = next(lines)
        assert line.startswith(
            f"requirements.lock, Linux {machine}, Python {python}: the lock has the hash of no wheel of tiny=="
        )
    for machine, python in itertools.product(["x86_64", "aarch64"], ["3.11", "3.12", "3.13", "3.14"]):
        place, line = next(lines).split(": ", 1)
        assert place == f"requirements-test.lock, Linux {machine}, Python {python}"
        if machine == "aarch64":
            assert line == "1 wheels"
        else:
            assert line == "2 wheels" if python == "3.12" else "==1.0 has no wheels with" in line, line
    assert not (checkout.root / ".venv").exists(), "nothing is installed"


def test_locks_that_cannot_be_checked_are_one_line(index):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    line = one_error_line(index(f"http://127.0.0.1:{closed}/simple"))
    assert "the package index does not answer" in line and "PIP_INDEX_URL" in line
