"""script/setup.sh: creates the environment once, repairs a broken one, and reports each failure in one line.

Each test has its own small checkout: the real scripts, a real virtual environment and a real pip, but lock files of two
tiny packages in a local folder, so that no network is needed.
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
RETRYING = "set-up: the package index does not answer, trying again\n"


class Checkout:
    """A small checkout whose lock files list `tiny` (and `tiny-test` as a test tool), and the folder of their wheels."""

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

    def lock(self, file: str, names: list[str], version: str = "1.0", megabytes: int = 0) -> None:
        lines = [f"{name}=={version} \\\n    --hash=sha256:{self._wheel(name, version, megabytes)}\n" for name in names]
        (self.root / file).write_text("".join(lines))

    def _wheel(self, name: str, version: str, megabytes: int) -> str:
        path = self.wheels / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            for member, text in {
                f"{name}.py": f"VERSION = {version!r}\n",
                f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
                f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                f"{name}.txt": " " * megabytes * 1_000_000,
                f"{info}/RECORD": "",
            }.items():
                # With a fixed date, the wheel always has the same hash.
                wheel.writestr(zipfile.ZipInfo(member, (2024, 1, 1, 0, 0, 0)), text, zipfile.ZIP_DEFLATED)
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
    """A checkout that is set up, with user settings that must not interfere. Tests that use it leave it set up."""
    checkout = Checkout(tmp_path_factory.mktemp("finished"))
    settings = {"PYTHONSAFEPATH": "1", "PYTHONPATH": "/nonexistent", "PIP_USER": "1", "PIP_TARGET": "/nonexistent"}
    done = checkout.set_up(**settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout == checkout.python + "\n"
    assert "making the Python environment" in done.stderr
    assert "Installing collected packages: tiny" in done.stderr, "pip's own progress is shown"
    return checkout


@pytest.fixture
def copied(finished, checkout) -> Checkout:
    """A checkout with a copy of the finished environment, as if it had been made there."""
    shutil.copytree(finished.root / ".venv", checkout.root / ".venv", symlinks=True)
    home = checkout.root / ".venv/setup/home"
    home.write_text(home.read_text().replace(str(finished.root), str(checkout.root)))
    return checkout


def one_error_line(done: subprocess.CompletedProcess, pip_runs: bool = False) -> str:
    """The error line, the last on stderr. Before it are only set-up's own lines, and pip's progress where pip runs."""
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    if pip_runs:
        errors = [line for line in lines if "error" in line.lower() or "Traceback" in line]
    else:
        errors = [line for line in lines if not line.startswith("set-up: ")]
    assert errors == lines[-1:], done.stderr
    assert lines[-1].startswith("error: ")
    assert " - " in lines[-1], "a remedy follows"
    return lines[-1]


def test_an_up_to_date_environment_is_left_unchanged(finished):
    assert finished.version() == "1.0"
    before = os.stat(finished.root / ".venv/setup/home").st_mtime_ns
    done = finished.set_up()
    assert (done.returncode, done.stdout, done.stderr) == (0, finished.python + "\n", "")
    assert os.stat(finished.root / ".venv/setup/home").st_mtime_ns == before


def test_it_runs_from_any_working_directory_without_environment_variables(finished, tmp_path):
    done = subprocess.run(
        ["env", "-i", "PATH=/usr/bin:/bin", *finished.command()], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, finished.python + "\n", "")


def test_test_extras_are_added_and_a_changed_lock_updates_the_environment(copied):
    done = copied.set_up("test")
    assert done.stdout == copied.python + "\n", done.stderr
    assert copied.version("tiny_test") == "1.0"
    assert copied.set_up().stderr == "", "the test environment contains what the benchmark needs"
    copied.lock("requirements.lock", ["tiny"], "2.0")
    done = copied.set_up()
    assert done.returncode == 0
    assert "making" not in done.stderr, "the environment is updated, not rebuilt"
    assert copied.version() == "2.0"
    copied.lock("requirements-test.lock", ["tiny", "tiny_test"], "2.0")
    assert copied.set_up("test").returncode == 0
    assert copied.version("tiny_test") == "2.0"


def silent_index() -> tuple[socket.socket, threading.Event, str]:
    """A package index that accepts connections and never answers; the event is set by the first connection."""
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


def test_after_a_kill_the_environment_is_rebuilt_even_from_its_own_python(copied):
    copied.lock("requirements.lock", ["tiny"], "2.0")
    server, called, address = silent_index()
    settings = copied.settings(PIP_INDEX_URL=address)
    del settings["PIP_NO_INDEX"], settings["PIP_FIND_LINKS"]
    process = subprocess.Popen(copied.command(), env=settings, stderr=subprocess.DEVNULL, start_new_session=True)
    assert called.wait(60)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    server.close()
    # What a kill during the copying leaves: a package that looks installed and is not.
    packages = next((copied.root / ".venv/lib").glob("python*")) / "site-packages"
    (packages / "tiny-1.0.dist-info").rename(packages / "tiny-2.0.dist-info")
    (packages / "tiny-2.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 2.0\n")
    # From an activated environment, the python3 that runs set-up is in the very folder that it empties.
    done = copied.set_up(PATH=f"{copied.root}/.venv/bin:{SETTINGS['PATH']}")
    assert done.returncode == 0, done.stderr
    assert "an earlier set-up was interrupted: starting from scratch" in done.stderr
    assert copied.version() == "2.0"


def test_a_retry_is_reported_at_once_and_a_signal_stops_pip_too(copied):
    copied.lock("requirements.lock", ["tiny"], "2.0")
    server, called, address = silent_index()
    settings = copied.settings(PIP_INDEX_URL=address, PIP_TIMEOUT="1")
    del settings["PIP_NO_INDEX"], settings["PIP_FIND_LINKS"]
    process = subprocess.Popen(
        copied.command(), env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert called.wait(60)
    assert process.stderr is not None
    assert RETRYING in process.stderr, "it is reported while pip still waits for the index"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    server.close()
    assert (process.returncode, out) == (2, "")
    assert "signal 15" in err
    assert "Traceback" not in err
    assert not still_alive(process.pid), "no process of it is left"


def still_alive(group: int) -> bool:
    """Whether the process group still has members after a few seconds."""
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
    errors = "".join(err for _, err in answers)
    assert errors.count("making the Python environment") == 1
    assert "waiting for it" in errors
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
@pytest.mark.parametrize("missing", ["python", "pip"])
def test_an_environment_whose_python_or_pip_is_missing_is_rebuilt(finished, missing):
    # The lock has changed, so that set-up looks at the environment.
    (finished.root / ".venv/setup/requirements.lock").unlink()
    if missing == "python":
        python = Path(finished.python)
        python.unlink()
        python.symlink_to("/nonexistent/python3")
    else:
        # `import pip` still works.
        shutil.rmtree(next((finished.root / ".venv").glob("lib/python3*/site-packages/pip/_internal")))
    done = finished.set_up()
    assert done.returncode == 0, done.stderr
    assert "no longer works" in done.stderr
    assert finished.version() == "1.0"


def everything_in(folder: Path) -> dict[str, tuple]:
    """Type, size, modification time and link target of each entry, which differ after any change."""
    return {
        str(path): (state.st_mode, state.st_size, state.st_mtime_ns, os.readlink(path) if path.is_symlink() else None)
        for path in [folder, *sorted(folder.rglob("*"))]
        for state in [path.lstat()]
    }


def test_a_link_in_place_of_the_environment_is_not_followed(finished, checkout):
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
    """.venv as left by an interrupted set-up, which the next one empties."""
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
    assert f"contains a link to a place outside it ({name})" in one_error_line(checkout.set_up())
    assert (everything_in(venv), everything_in(elsewhere)) == before


def test_an_environment_made_by_the_user_is_left_unchanged(finished, checkout):
    venv = checkout.root / ".venv"
    shutil.copytree(finished.root / ".venv", venv, symlinks=True, ignore=shutil.ignore_patterns("setup"))
    (venv / "notes").write_text("precious")
    before = everything_in(venv)
    line = one_error_line(checkout.set_up("test"))
    assert ".venv was not made by set-up - move it away" in line
    assert f"PYTHON={venv}/bin/python" in line
    assert everything_in(venv) == before


@pytest.mark.root("give a folder to another user")
def test_another_users_environment_is_left_unchanged(checkout):
    venv = made_by_set_up(checkout)
    try:
        os.chown(venv, 4321, 4321)
    except OSError as error:
        pytest.skip(f"this machine has no other users: {error}")
    assert "belongs to another user (uid 4321)" in one_error_line(checkout.set_up())
    assert (venv / "setup" / "unfinished").exists()


@pytest.mark.parametrize(
    ("mounted", "expected"),
    [(".venv", "is the environment of the checkout"), (".venv/lib of it", "contains a mount (lib of it)")],
)
def test_a_mounted_environment_is_left_unchanged(finished, checkout, mounted, expected):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    made_by_set_up(checkout)
    (checkout.root / mounted).mkdir(exist_ok=True)
    before = everything_in(finished.root / ".venv")
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(finished.root / ".venv"), str(checkout.root / mounted)]
    done = subprocess.run([*command, *checkout.command()], env=checkout.settings(), capture_output=True, text=True)
    assert expected in one_error_line(done)
    assert everything_in(finished.root / ".venv") == before


@pytest.fixture
def outdated(copied) -> Checkout:
    """A checkout whose lock was changed after its environment was made."""
    copied.lock("requirements.lock", ["tiny"], "2.0")
    return copied


def test_without_a_network_one_line_is_reported_and_the_environment_still_works(outdated):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    settings = outdated.settings(PIP_INDEX_URL=f"http://127.0.0.1:{closed}/simple", PIP_RETRIES="2")
    del settings["PIP_NO_INDEX"], settings["PIP_FIND_LINKS"]
    done = subprocess.run(outdated.command(), env=settings, capture_output=True, text=True, timeout=120)
    line = one_error_line(done, pip_runs=True)
    assert done.stderr.count(RETRYING) == 1, "of several retries, the first is reported"
    assert "index cannot be reached" in line
    assert "PIP_INDEX_URL" in line
    assert "Connection refused" in (outdated.root / ".venv/setup/log").read_text(), "pip's own message is in the log"
    assert outdated.version() == "1.0", "what was there still works"
    done = outdated.set_up()
    assert done.returncode == 0
    assert "from scratch" not in done.stderr, "it is updated when the network is back"
    assert outdated.version() == "2.0"


def test_a_package_with_another_hash_is_refused(outdated):
    with zipfile.ZipFile(outdated.wheels / "tiny-2.0-py3-none-any.whl", "a") as changed:
        changed.writestr("evil.py", "")
    assert "hash of a downloaded package differs" in one_error_line(outdated.set_up(), pip_runs=True)
    assert outdated.version() == "1.0"


def test_a_package_missing_from_the_index_is_named(outdated):
    (outdated.wheels / "tiny-2.0-py3-none-any.whl").unlink()
    assert "has no tiny==2.0" in one_error_line(outdated.set_up(), pip_runs=True)


@pytest.fixture
def offline(outdated, tmp_path):
    """Sets up the outdated checkout without a package index, from folders of wheels in the working directory."""
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


def test_a_folder_of_wheels_is_enough_for_the_benchmark_and_the_tests(outdated, offline, tmp_path):
    done = offline("all the wheels")
    assert done.returncode == 0, done.stderr
    assert outdated.version() == "2.0"
    done = offline("~/all the wheels", "test", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert outdated.version("tiny_test") == "1.0"


def test_a_missing_wheel_is_named_and_not_taken_from_another_source(outdated, offline, tmp_path):
    (tmp_path / "all the wheels" / "tiny-2.0-py3-none-any.whl").unlink()
    line = one_error_line(offline("all the wheels", PIP_FIND_LINKS=str(outdated.wheels)), pip_runs=True)
    assert f"{tmp_path}/all the wheels: there is no wheel of tiny==2.0 for Python 3." in line
    assert "pip download -d FOLDER --no-deps --require-hashes --only-binary :all: -r requirements.lock" in line
    assert outdated.version() == "1.0", "what was there still works"


def test_a_truncated_wheel_is_named(outdated, offline, tmp_path):
    wheel = tmp_path / "all the wheels" / "tiny-2.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes()[:-100])
    line = one_error_line(offline("all the wheels"), pip_runs=True)
    assert f"{wheel}: the hash of a wheel differs from the lock file" in line
    assert outdated.version() == "1.0"


def test_an_invalid_folder_of_wheels_is_refused_before_anything_is_created(checkout, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "WHEELS is a folder without wheels" in one_error_line(checkout.set_up(WHEELS=str(tmp_path / "empty")))
    assert "WHEELS is not a folder" in one_error_line(checkout.set_up(WHEELS=str(tmp_path / "nowhere")))
    assert not (checkout.root / ".venv").exists()


def test_a_full_disk_is_reported_in_one_line(copied):
    """The checkout is on a real file system that is too small for the new package."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    copied.lock("requirements.lock", ["tiny"], "2.0", megabytes=64)
    small = copied.root.parent / "small"
    small.mkdir()
    script = """mount -t tmpfs -o size=64m none "$1" && cp -a "$2/." "$1" && mount --bind "$1" "$2" && shift 2 && exec "$@" """
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(small), str(copied.root), *copied.command()]
    done = subprocess.run(command, env=copied.settings(), capture_output=True, text=True)
    line = one_error_line(done, pip_runs=True)
    assert "the disk is full" in line
    assert "larger disk" in line


def test_a_file_in_place_of_the_environment_is_reported_in_one_line(checkout):
    (checkout.root / ".venv").write_text("in the way")
    assert "the environment cannot be made: " in one_error_line(checkout.set_up())


def test_a_python_chosen_by_the_user_is_used_as_it_is(finished, checkout):
    done = checkout.set_up(PYTHON=finished.python, PYTHONSAFEPATH="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, finished.python + "\n", "")
    assert not (checkout.root / ".venv").exists(), "nothing is created"
    assert "lacks tiny_test" in one_error_line(checkout.set_up("test", PYTHON=finished.python))
    assert "is not a program" in one_error_line(checkout.set_up(PYTHON="/nonexistent/python"))
    assert "is not a Python" in one_error_line(checkout.set_up(PYTHON="/bin/ls"))


def test_a_relative_path_of_python_becomes_absolute(finished, checkout):
    done = subprocess.run(
        checkout.command(), env=checkout.settings(PYTHON=".venv/bin/python"), cwd=finished.root, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stdout == str(finished.root / ".venv/bin/python") + "\n"


PINNED = {"torch": "2.11.0", "torchaudio": "2.11.0"}


def with_torch(checkout: Checkout, python: str, **versions: str) -> subprocess.CompletedProcess:
    """Set up with PYTHON, with torch and torchaudio of these versions represented by their METADATA only."""
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
def test_the_pinned_pytorch_causes_no_warning(finished, checkout, version):
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
def test_a_pytorch_other_than_the_pinned_one_causes_a_warning(finished, checkout, torch, torchaudio, warned, fp32):
    done = with_torch(checkout, finished.python, torch=torch, torchaudio=torchaudio)
    assert (done.returncode, done.stdout) == (0, finished.python + "\n")
    lines = done.stderr.splitlines()
    assert len(lines) == len(warned)
    for line, name in zip(lines, warned, strict=True):
        assert line.startswith(f"set-up: warning: PYTHON has {name}, not the pinned 2.11.0: ")
        assert "not comparable" in line
        assert ("gru_dtype" in line) == (fp32 and name.startswith("torch "))


@pytest.mark.parametrize(
    ("torch", "torchaudio", "error", "remedy"),
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
def test_an_incompatible_pytorch_is_refused(finished, checkout, torch, torchaudio, error, remedy):
    line = one_error_line(with_torch(checkout, finished.python, torch=torch, torchaudio=torchaudio))
    assert error in line
    assert remedy in line and "unset PYTHON" in line


def test_a_missing_torchaudio_is_the_only_message(finished, checkout):
    done = with_torch(checkout, finished.python, torch="2.4.0")
    assert "PYTHON lacks torchaudio" in one_error_line(done)
    assert len(done.stderr.splitlines()) == 1


def fake_python(folder: Path, version: tuple[int, ...], otherwise: str = "") -> Path:
    """A folder for PATH whose python3 reports another version, and whatever `otherwise` changes."""
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
        ((3, 12), "os.confstr = lambda name: None", "C library (not glibc)"),
    ],
)
def test_an_unsupported_python_is_named_with_the_remedy(checkout, tmp_path, version, otherwise, expected):
    tools = fake_python(tmp_path / "bin", version, otherwise)
    for tool in ["sh", "dirname", "cmp", "env"]:
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    assert expected in one_error_line(checkout.set_up(PATH=str(tools)))
    assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize("system", ["Darwin arm64", "MINGW64_NT-10.0-19045 x86_64", "Linux riscv64", "Linux i686"])
def test_an_unsupported_system_is_referred_to_a_container_or_warned_with_a_users_python(
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


def test_without_any_python_one_line_is_reported(checkout, tmp_path):
    (tmp_path / "bin").mkdir()
    for tool in ["sh", "dirname", "cmp"]:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    assert "no Python 3.11 to 3.14 found" in one_error_line(checkout.set_up(PATH=str(tmp_path / "bin")))


def test_an_unknown_argument_is_refused(checkout):
    assert "unknown argument 'tset'" in one_error_line(checkout.set_up("tset"))


@pytest.fixture
def index(checkout):
    """Checks the locks of the small checkout against a package index with its wheels, as a folder of pages."""
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
    # A marker is evaluated for the platform being checked, not for this machine.
    tests.write_text(tests.read_text().replace("tiny_test==1.0", "tiny_test==1.0 ; platform_machine == 'x86_64'"))
    done = index()
    assert done.returncode == 1, done.stderr
    lines = iter(done.stdout.splitlines())
    for machine, python in itertools.product(["x86_64", "aarch64"], ["3.11", "3.12", "3.13", "3.14"]):
        line = next(lines)
        assert line.startswith(
            f"requirements.lock, Linux {machine}, Python {python}: the lock has no hash of a wheel of tiny=="
        )
    for machine, python in itertools.product(["x86_64", "aarch64"], ["3.11", "3.12", "3.13", "3.14"]):
        place, line = next(lines).split(": ", 1)
        assert place == f"requirements-test.lock, Linux {machine}, Python {python}"
        if machine == "aarch64":
            assert line == "1 wheels"
        else:
            assert line == "2 wheels" if python == "3.12" else "==1.0 has no wheels with" in line, line
    assert not (checkout.root / ".venv").exists(), "nothing is installed"


def test_locks_that_cannot_be_checked_are_reported_in_one_line(index):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    line = one_error_line(index(f"http://127.0.0.1:{closed}/simple"))
    assert "the package index does not answer" in line and "PIP_INDEX_URL" in line
