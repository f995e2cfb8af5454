"""The container: the commands that its scripts give to an engine, and (long) a real image in which the main job runs."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import debian

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def engine(tmp_path):
    """Runs a script of docker/ with fake `docker`, `podman` and `nvidia-smi` commands that record their arguments."""
    tools, recorded = tmp_path / "bin", tmp_path / "recorded"
    tools.mkdir()

    def run(script: str, *arguments: str, gpu: bool = False, have: str = "docker", **variables: str) -> list[str]:
        shutil.rmtree(tools)
        tools.mkdir()
        record = f'#!/bin/sh\nprintf "%s\\0" "${{0##*/}}" "$@" >"{recorded}"\n'
        for name, text in {have: record, "nvidia-smi": f"#!/bin/sh\nexit {0 if gpu else 9}\n"}.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        settings = {"PATH": f"{tools}:/usr/bin:/bin", "ENGINE": have, "IMAGE": "the-image"} | variables
        settings.setdefault("DATA_DIR", str(tmp_path / "data"))
        settings.setdefault("RESULTS_DIR", str(tmp_path / "runs"))
        done = subprocess.run(
            ["sh", str(ROOT / script), *arguments], env=settings, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "", "stdout is reserved for the command inside"
        return recorded.read_text().split("\0")[:-1] if recorded.exists() else []

    return run


def values_of(command: list[str], option: str) -> list[str]:
    """Every argument that follows `option`."""
    return [after for before, after in itertools.pairwise(command) if before == option]


@pytest.mark.parametrize("script", ["docker/build-docker.sh", "script/docker/build-docker.sh"])
def test_build_passes_the_checkout_and_the_settings_to_the_engine(engine, script):
    command = engine(script, "--no-cache", BASE_IMAGE="debian:12", EXTRAS="test")
    assert command[:2] == ["docker", "build"]
    assert command[-1] == str(ROOT)
    assert values_of(command, "--file") == [str(ROOT / "docker" / "Dockerfile")]
    assert {"BASE_IMAGE=debian:12", "EXTRAS=test"} <= set(values_of(command, "--build-arg"))
    assert "--no-cache" in command


def test_a_run_mounts_the_checkout_read_only_and_runs_as_the_caller(engine, tmp_path):
    command = engine("docker/run-dev.sh", "sh", "-c", 'echo "a  b" $HOME', DATA_DIR="my data", SEED="3")
    assert command[-4:] == ["the-image", "sh", "-c", 'echo "a  b" $HOME'], "arguments are passed unchanged"
    assert values_of(command, "--user") == [f"{os.getuid()}:{os.getgid()}"]
    assert values_of(command, "--volume") == [
        f"{ROOT}:/workspace/deepspeech2:ro",
        f"{tmp_path / 'my data'}:/data",
        f"{tmp_path / 'runs'}:/runs",
    ]
    assert (tmp_path / "my data").is_dir(), "created as the caller: the engine would create it as root"
    assert values_of(command, "--env") == ["SEED"]
    assert "--gpus" not in command
    assert "--network" not in command
    assert "--tty" not in command


def test_a_run_uses_the_gpus_if_there_are_any(engine):
    assert values_of(engine("docker/run-dev.sh", gpu=True), "--gpus") == ["all"]
    assert "--gpus" not in engine("docker/run-dev.sh", gpu=True, GPUS="none")
    assert values_of(engine("docker/run-dev.sh", gpu=True, have="podman"), "--device") == ["nvidia.com/gpu=all"]


def test_a_run_of_several_machines_uses_the_hosts_network(engine):
    command = engine("docker/run-dev.sh", NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1")
    assert values_of(command, "--network") == ["host"]
    assert set(values_of(command, "--env")) == {"NNODES", "NODE_RANK", "MASTER_ADDR"}


def test_a_dry_run_does_nothing(engine, tmp_path):
    assert engine("docker/run-dev.sh", "--dry-run") == []
    assert engine("docker/build-docker.sh", "--dry-run") == []
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("script", ["build-docker.sh", "run-dev.sh"])
def test_without_an_engine_one_line_names_the_remedy(script, tmp_path):
    for tool in ["sh", "dirname", "git"]:
        if found := shutil.which(tool):
            (tmp_path / tool).symlink_to(found)
    done = subprocess.run(
        ["sh", str(ROOT / "docker" / script)], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no container engine found - install one")
    assert done.stderr.count("\n") == 1


def apptainer_sections() -> dict[str, list[str]]:
    """The lines of each section of docker/benchmark.def; the lines before the first section under ''."""
    sections: dict[str, list[str]] = {"": []}
    for line in (ROOT / "docker" / "benchmark.def").read_text().splitlines():
        if line.startswith("%"):
            sections[name := line[1:].strip()] = []
        elif line.strip() and not line.startswith("#"):
            sections[name if len(sections) > 1 else ""].append(line.strip())
    return sections


def dockerfile() -> str:
    """The Dockerfile with each instruction on one line."""
    return (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ")


def test_the_dockerfile_and_apptainers_definition_run_the_same_steps():
    sections = apptainer_sections()
    steps = re.findall(r"docker/install\.sh (\w+)", "\n".join(sections["post"]))
    assert steps == re.findall(r"docker/install\.sh (\w+)", dockerfile()) == ["system", "packages"]
    arguments = dict(line.split("=", 1) for line in sections["arguments"])
    assert sections[""] == ["Bootstrap: docker", "From: {{ BASE_IMAGE }}"]
    assert arguments == dict(re.findall(r"^ARG (BASE_IMAGE|EXTRAS)=(.*)$", dockerfile(), re.MULTILINE))
    (env,) = re.findall(r"^ENV (.*)$", dockerfile(), re.MULTILINE)
    docker_env = dict(setting.split("=", 1) for setting in env.split())
    # Apptainer runs as the caller, with the caller's home and name.
    del docker_env["HOME"]
    docker_env["LOGNAME"] = f"${{LOGNAME:-{docker_env['LOGNAME']}}}"
    exported = [line.removeprefix("export ") for line in sections["environment"] if line.startswith("export ")]
    assert dict(line.split("=", 1) for line in exported) == docker_env


def test_apptainers_image_contains_the_repository_and_nothing_else():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs git, and a repository")
    tracked = {path.partition("/")[0] for path in listed.stdout.splitlines()}
    files = [line.split() for line in apptainer_sections()["files"]]
    assert {source for source, _ in files} == tracked | {".git"}
    assert all(target == f"/workspace/deepspeech2/{source}" for source, target in files)


@pytest.mark.parametrize(
    ("arguments", "expected"), [([], "main job: /opt/venv/bin/python none /data 3"), (["echo", "a  b"], "a  b")]
)
def test_apptainers_image_runs_the_main_job_or_the_command(tmp_path, arguments, expected):
    (tmp_path / "run_and_time.sh").write_text('echo "main job: $PYTHON ${PYTHONPATH-none} $DATA_DIR $SEED"\n')
    sections = apptainer_sections()
    script = "\n".join(["set -eu", *sections["environment"], *sections["runscript"]])
    script = script.replace("/workspace/deepspeech2", str(tmp_path))
    host = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/opt/module/lib", "DATA_DIR": "/home/me/data", "SEED": "3"}
    done = subprocess.run(["sh", "-c", script, "sh", *arguments], env=host, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, expected + "\n"), done.stderr


def test_an_unknown_step_of_the_image_is_refused():
    done = subprocess.run(["sh", ROOT / "docker" / "install.sh", "sytsem"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown step 'sytsem' - use system or packages\n"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_apptainers_image_runs_the_main_job(tmp_path):
    if shutil.which("apptainer") is None:
        pytest.skip("needs apptainer")
    image = tmp_path / "benchmark.sif"
    build = [
        "apptainer",
        "build",
        "--build-arg",
        "BASE_IMAGE=docker.io/library/debian:12",
        image,
        "docker/benchmark.def",
    ]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]
    for folder in ["data", "runs"]:
        (tmp_path / folder).mkdir()
    binds = f"{tmp_path}/data:/data,{tmp_path}/runs:/runs"
    done = subprocess.run(
        ["apptainer", "run", "--bind", binds, image], env=os.environ | {"VARIANT": "mini", "SEED": "1"}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert all(line.startswith(":::MLLOG ") for line in done.stdout.splitlines())
    record = json.loads(next((tmp_path / "runs").glob("mini/*/record.json")).read_text())
    assert record["status"] == "success"


def install(tmp_path: Path, system: str, *arguments: str, path: str = "/usr/sbin:/usr/bin:/sbin:/bin"):
    (tmp_path / "os-release").write_text(system)
    return subprocess.run(
        ["sh", str(ROOT / "docker" / "install_cuda_docker.sh"), *arguments],
        env={"PATH": path, "OS_RELEASE": str(tmp_path / "os-release")}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


UBUNTU = 'ID=ubuntu\nVERSION_CODENAME=noble\nPRETTY_NAME="Ubuntu 24.04"\n'
DEBIAN = 'ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian 12"\n'
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg") is None, reason="only for Debian and Ubuntu")


@needs_dpkg
@pytest.mark.parametrize(("system", "address"), [(UBUNTU, "linux/ubuntu noble"), (DEBIAN, "linux/debian bookworm")])
def test_the_installer_prints_its_plan_and_every_command(tmp_path, system, address):
    done = install(tmp_path, system, "--dry-run")
    assert done.returncode == 0, done.stderr
    plan, commands = done.stdout.split("+ ", 1)
    assert "this script will" in plan
    assert f"https://download.docker.com/{address} stable" in commands
    assert "nvidia-ctk runtime configure --runtime=docker" in commands


@needs_dpkg
def test_the_installer_refuses_unknown_systems_and_options(tmp_path):
    for system, arguments in [('ID=fedora\nPRETTY_NAME="Fedora"\n', ["--dry-run"]), (UBUNTU, ["--dryrun"])]:
        done = install(tmp_path, system, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


@pytest.fixture
def gpg_home() -> Iterator[str]:
    """A folder with a short path, because the path of gpg-agent's socket in it is limited to 107 characters (unix(7))."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@needs_dpkg
@pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gpg")
def test_the_installer_refuses_a_key_with_another_fingerprint(tmp_path, gpg_home):
    """The function that downloads a key, without the commands that would change the machine."""
    script = (ROOT / "docker" / "install_cuda_docker.sh").read_text()
    functions = script[script.index("fail() {") : script.index("dry_run=''")]
    functions += script[script.index("run() {") : script.index('[ -r "${OS_RELEASE')]
    gpg = ["gpg", "--homedir", gpg_home, "--batch"]
    making = [*gpg, "--passphrase", "", "--quick-generate-key", "somebody else", "ed25519", "sign"]
    subprocess.run(making, check=True, capture_output=True)
    key = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout
    (tmp_path / "key.asc").write_bytes(key)
    listed = subprocess.run([*gpg, "--with-colons", "--list-keys"], check=True, capture_output=True, text=True).stdout
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
    for wanted, status in [("9DC858229FC7DD38854AE2D88D81803C0EBFCD88", 2), (fingerprint, 0)]:
        call = (
            f"set -eu; dry_run=''; {functions}\nfetch_key 'file://{tmp_path}/key.asc' {wanted} '{tmp_path}/trusted.asc'"
        )
        done = subprocess.run(["sh", "-c", call], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert (tmp_path / "trusted.asc").exists() == (status == 0)
        assert not (tmp_path / "trusted.asc.new").exists()


class Buildah:
    """Builds and runs images without an engine or a daemon, with its storage in the test's folder."""

    def __init__(self, folder: Path) -> None:
        debian.needs("buildah", "debootstrap")
        self.folder = folder
        self.environment = os.environ | {"BUILDAH_ISOLATION": "chroot"}

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        command = ["buildah", "--root", f"{self.folder}/storage", "--runroot", f"{self.folder}/run", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done

    def base(self) -> str:
        """An image of a minimal Debian."""
        debian.make_root(self.folder / "debian")
        container = self("from", "scratch").stdout.strip()
        self("add", "--quiet", container, f"{self.folder}/debian", "/")
        self("commit", "--quiet", "--rm", container, "localhost/base")
        shutil.rmtree(self.folder / "debian")
        return "localhost/base"

    def network(self) -> list[str]:
        """Options with this machine's certificates and pip settings, so that pip inside reaches the package index too."""
        (self.folder / "pip.conf").write_text(debian.pip_settings("/etc/host-ca.crt"))
        return [f"--volume={debian.CA_BUNDLE}:/etc/host-ca.crt:ro", f"--volume={self.folder}/pip.conf:/etc/pip.conf:ro"]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The image, built from a minimal Debian by the unmodified Dockerfile."""
    buildah = Buildah(tmp_path_factory.mktemp("buildah"))
    yield buildah, build(buildah, ROOT, buildah.base())
    # Its files belong to other users and take gigabytes.
    buildah("rm", "--all", check=False)
    buildah("rmi", "--all", "--force", check=False)
    shutil.rmtree(buildah.folder, ignore_errors=True)


def build(buildah: Buildah, context: Path, base: str) -> str:
    arguments = ["--build-arg", f"BASE_IMAGE={base}", "--file", str(context / "docker" / "Dockerfile")]
    buildah("build", *buildah.network(), *arguments, "--tag", "localhost/deepspeech2", str(context))
    return "localhost/deepspeech2"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_image_runs_the_main_job_as_an_ordinary_user(image, tmp_path):
    buildah, name = image
    container = buildah("from", name).stdout.strip()
    data, runs = tmp_path / "data", tmp_path / "runs"
    for folder in [data, runs]:
        folder.mkdir()
        os.chown(folder, 4321, 4321)
    mounts = [f"--volume={data}:/data", f"--volume={runs}:/runs", f"--volume={ROOT}:/workspace/deepspeech2:ro"]

    def inside(*command: str, seed: str = "1") -> subprocess.CompletedProcess:
        # An arbitrary user: neither root nor the image's own user.
        options = ["--user", "4321:4321", "--env", f"SEED={seed}", "--env", "VARIANT=mini", *mounts]
        return buildah("run", *options, container, "--", *command, check=False)

    done = inside("sh", "run_and_time.sh")
    assert done.returncode == 0, done.stderr[-4000:]
    assert all(line.startswith(":::MLLOG ") for line in done.stdout.splitlines())
    record = json.loads(next(runs.glob("mini/*/record.json")).read_text())
    assert record["status"] == "success"
    assert inside("sh", "verify_dataset.sh").returncode == 0
    log = next(runs.glob("mini/*/result.txt"))
    checked = inside("python", "-m", "compliance", f"/runs/{log.relative_to(runs)}")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_image_runs_as_an_ordinary_user_and_has_no_build_tools(image):
    buildah, name = image
    container = buildah("from", name).stdout.strip()
    config = json.loads(buildah("inspect", name).stdout)["OCIv1"]["config"]
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    for tool in ["gcc", "cc", "make", "g++"]:
        assert buildah("run", container, "--", "sh", "-c", f"command -v {tool}", check=False).returncode != 0
    assert buildah("run", container, "--", "sh", "-c", "echo x >> README.md", check=False).returncode != 0
