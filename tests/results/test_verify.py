"""Verification passes a correct dataset, names the files that differ, and has the right exit status."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.harness.run_dataset import valid_stamp
from common.errors import UserError, run_cli
from datasets import references
from datasets.checksums.digest import digest_and_write_sums, digest_tree, sums_path
from datasets.dataset import (
    Dataset,
    Split,
    Stamp,
    TreeDigest,
    delete_stamp,
    read_dataset,
    read_stamp,
    stamp_path,
    write_description,
    write_stamp,
)
from datasets.librispeech.archives import PUBLISHED
from results.dataset_check.difference import compare_lines
from results.dataset_check.partial_sums import Cache
from results.dataset_check.verify import FAILED, PASSED, main
from tests.support.gnu_tar import gnu_cksum, gnu_tar

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small prepared dataset."""
    folder = tmp_path / "mine"
    for number in range(40):
        path = folder / f"train/{number % 3}/{number % 5}/{number}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * (1000 + 77 * number))
    describe(folder)
    return folder


def describe(folder: Path, layout: str = "flac", provenance: dict | None = None) -> Dataset:
    splits = {"train": Split("mine_train_manifest.jsonl", "mine_train_manifest.csv", 40, 1.0, 3)}
    dataset = Dataset(folder, folder.name, layout, splits, digest_and_write_sums(folder), provenance or {})
    write_description(dataset)
    return dataset


def verify(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def command(*arguments: object, **options) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "results", "verify-dataset", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, **options)


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]):
    """Runs the command in this process, as `run_cli` does, and returns status, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = run_cli(lambda: verify(*arguments))
        except SystemExit as usage_error:
            status = usage_error.code
        return status, *capsys.readouterr()

    return run


def test_a_correct_dataset_passes_with_the_sums_of_tar_and_cksum(folder: Path):
    before = sorted(folder.rglob("*"))
    done = subprocess.run(["sh", ROOT / "verify_dataset.sh", folder], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"equal to the sums recorded when the dataset was prepared\n{PASSED}\n")
    assert sorted(folder.rglob("*")) == before
    crc, length = gnu_cksum(folder)
    assert f"cksum   {crc} {length}  " in done.stdout
    stamp = read_stamp(folder)
    assert stamp is not None
    assert stamp.passed
    assert stamp.tree_sha256 in done.stdout
    assert stamp.verified_at.endswith("Z")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)


FILE = "train/1/2/7.flac"
DAMAGE = {
    "one flipped bit": (lambda f: flip(f / FILE), [f"changed: {FILE}"]),
    "missing": (lambda f: (f / FILE).unlink(), [f"missing: {FILE}"]),
    "extra": (lambda f: (f / "train/extra file").touch(), ["extra: train/extra file"]),
    "renamed": (lambda f: (f / FILE).rename(f / "z"), [f"missing: {FILE}", "extra: z"]),
    "all gone": (lambda f: [p.unlink() for p in f.rglob("*.flac")], ["missing: 20 more"]),
    "empty folder": (lambda f: (f / "train/new\n").mkdir(), ["all files are correct", r"empty folder: train/new\n/"]),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(folder: Path, capsys, case: str):
    damage, expected = DAMAGE[case]
    damage(folder)
    assert verify(folder) == 1
    out = capsys.readouterr().out
    assert out.endswith(FAILED + "\n")
    for text in expected:
        assert text in out
    stamp = read_stamp(folder)
    assert stamp is not None
    assert not stamp.passed
    assert verify(folder, "--quick") == 1
    assert FAILED in capsys.readouterr().out


def test_exit_status_of_the_command(folder: Path):
    flip(folder / FILE)
    done = command(folder)
    assert done.returncode == 1
    assert FAILED in done.stdout


def test_differences_are_found_in_byte_order_of_paths(tmp_path: Path):
    lines = [b"0" * 64 + b"  " + p + b"\n" for p in (b"a-b/x", b"a/x", b"b", b"\xff")]
    changed = b"1" * 64 + lines[1][64:]
    assert compare_lines(lines, lines) == ([], [], [])
    assert compare_lines(lines, [changed, lines[3]]) == ([b"a-b/x", b"b"], [], [b"a/x"])
    assert compare_lines([], lines[:1]) == ([], [b"a-b/x"], [])


def test_without_the_sums_file_it_fails_and_the_files_are_unknown(folder: Path, capsys):
    flip(folder / FILE)
    sums_path(folder).write_text("tampered")
    assert verify(folder) == 1
    assert "the files that differ are unknown: mine.sha256sums" in capsys.readouterr().out


def test_set_id_bits_of_folders_are_ignored(folder: Path, capsys):
    (folder / "train").chmod(0o2775)
    assert verify(folder) == 0
    assert PASSED in capsys.readouterr().out


def test_expectations(folder: Path, capsys):
    crc, length = gnu_cksum(folder)
    assert verify(folder, "--expect", str(crc)) == 0
    assert verify(folder, "--expect", f"{crc} {length}") == 0
    assert verify(folder, "--expect", f"{crc}:{length}", "--quick") == 0
    assert "sha256" not in capsys.readouterr().out.splitlines()[-3]
    assert verify(folder, "--expect", f"{crc}:1") == 1
    assert verify(folder, "--expect", str(crc ^ 1)) == 1
    assert verify(folder, "--expect", "0" * 64) == 1
    assert "expected sha256 0000" in capsys.readouterr().out
    tree = read_stamp(folder)
    assert tree is not None
    assert verify(folder, "--expect", tree.tree_sha256.upper()) == 0


def test_a_sum_given_by_the_user_does_not_change_the_recorded_result(folder: Path, capsys):
    assert verify(folder, "--expect", "1:2") == 1
    out = capsys.readouterr().out
    assert "equal to the sums recorded when the dataset was prepared: this is recorded" in out
    assert out.endswith(FAILED + "\n")
    stamp = read_stamp(folder)
    assert stamp is not None and stamp.passed
    # The right sum of a damaged tree passes, but the dataset is recorded as damaged.
    flip(folder / FILE)
    tree = digest_tree(folder)
    assert verify(folder, "--expect", tree.tree_sha256) == 0
    out = capsys.readouterr().out
    assert "NOT equal to the sums recorded when the dataset was prepared: this is recorded" in out
    assert out.endswith(PASSED + "\n")
    stamp = read_stamp(folder)
    assert stamp is not None and not stamp.passed


def test_without_a_description_nothing_is_recorded(folder: Path):
    (folder.parent / "mine.dataset.json").unlink()
    assert verify(folder, "--expect", digest_tree(folder).tree_sha256) == 0
    assert verify(folder, "--expect", "1:2") == 1
    assert read_stamp(folder) is None


@pytest.mark.parametrize("arguments", [["--expect", "12x"], ["--expect", "f" * 63], ["--processes", "0"], ["a", "b"]])
def test_bad_arguments_are_exit_2(folder: Path, arguments: list[str], run_command):
    assert run_command(*arguments)[0] == 2


def test_what_cannot_be_verified_is_exit_2(tmp_path: Path, folder: Path, run_command):
    status, out, err = run_command(tmp_path / "nothing")
    assert (status, out) == (2, "")
    assert "no dataset here" in err
    (tmp_path / "mine.dataset.json").unlink()
    status, out, err = run_command(folder)
    assert status == 2
    assert out.startswith("cksum   ")  # the sums are useful without a reference
    assert "--expect" in err
    (folder / "link").symlink_to("train")
    status, _, err = run_command(folder)
    assert status == 2
    assert "mine/link: a symbolic link" in err


def test_a_folder_of_datasets_is_refused(folder: Path, tmp_path: Path, run_command):
    status, out, err = run_command(tmp_path)
    assert (status, out) == (2, "")
    assert f"but is not one - give one of them: {folder}\n" in err
    assert run_command("/")[0] == 2
    done = subprocess.run(["sh", ROOT / "verify_dataset.sh", "."], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_any_name_is_escaped_in_one_line(tmp_path: Path):
    folder = tmp_path / os.fsdecode(b"caf\xe9\n")
    folder.mkdir()
    (folder / os.fsdecode(b"\xff\n")).write_bytes(b"x")
    done = command(folder, "--expect", "1", env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"})
    assert done.returncode == 1, done.stderr
    assert r"(the tar of caf\udce9\n)" in done.stdout
    assert r"are unknown: caf\udce9\n.sha256sums" in done.stdout
    folder = folder.rename(tmp_path / "new\nline")
    describe(folder)
    (folder / os.fsdecode(b"\xff\n")).rename(folder / "z")
    assert "missing: \\udcff\\n\nextra: z\n" in command(folder).stdout


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Commit a reference for `mine`."""

    def commit(digest: TreeDigest) -> None:
        path = tmp_path / "references.json"
        keys = ("tree_sha256", "tar_cksum", "tar_bytes", "files")
        path.write_text(json.dumps({"mine": {key: getattr(digest, key) for key in keys}}))
        monkeypatch.setattr(references, "COMMITTED", path)

    return commit


def test_the_committed_reference_and_this_machines_own_sums(folder: Path, capsys, committed):
    dataset = describe(folder)
    committed(dataset.digest)
    assert verify(folder) == 0
    assert "equal to the reference committed for mine" in capsys.readouterr().out
    # Another machine's synthesis produced other bytes, which its description has: no damage.
    committed(TreeDigest("a" * 64, 1, 2, 3))
    assert verify(folder) == 0
    out = capsys.readouterr().out
    assert "equal to the sums recorded when the dataset was prepared" in out
    assert "not equal to the reference committed for mine: nothing is damaged" in out
    # Damage on that machine equals neither.
    flip(folder / FILE)
    assert verify(folder) == 1
    assert f"changed: {FILE}" in capsys.readouterr().out


def test_a_dataset_without_a_description_passes_by_the_committed_reference(folder: Path, capsys, committed):
    committed(describe(folder).digest)
    (folder.parent / "mine.dataset.json").unlink()
    assert verify(folder) == 0


def test_whether_the_archives_were_the_published_ones_is_reported(folder: Path, capsys):
    describe(folder, provenance={"archives": {PUBLISHED[0].name: PUBLISHED[0].sha256}})
    assert verify(folder) == 0
    assert "equal to the content of the published archives (dev-clean)" in capsys.readouterr().out
    describe(folder, "wav", {"archives": {"dev-clean": "0"}})
    assert verify(folder) == 0
    out = capsys.readouterr().out
    assert "NOT the published ones" in out
    assert "the MLPerf reference's tar has 113,699,829,760" in out


def test_tarball_is_written_and_checked(folder: Path, tmp_path: Path, capsys, run_command):
    tar = tmp_path / "out.tar"
    assert verify(folder, "--tarball", tar) == 0
    assert tar.read_bytes() == gnu_tar(folder)
    assert verify(folder, "--tarball", tar) == 0
    flip(tar)
    assert verify(folder, "--tarball", tar) == 1
    assert capsys.readouterr().out.endswith(FAILED + "\n")
    assert verify(tmp_path / "nothing", "--tarball", tar, "--expect", "1:2") == 1
    assert run_command(tmp_path / "nothing", "--tarball", tar)[0] == 2
    for place, message in (
        (folder / "inside.tar", "cannot be in the folder"),
        (tmp_path / "no/x.tar", "no such folder"),
    ):
        status, out, err = run_command(folder, "--tarball", place)
        assert (status, out) == (2, "")  # refused before anything is read
        assert message in err


@pytest.fixture
def read_only(folder: Path) -> Iterator[Path]:
    """The dataset on a read-only disk: by a read-only mount for root, else by its folder's mode."""
    parent = folder.parent
    if os.geteuid() != 0:
        parent.chmod(0o555)
        yield folder
        parent.chmod(0o755)
        return
    if subprocess.run(["mount", "--bind", parent, parent], capture_output=True).returncode:
        pytest.skip("needs permission to mount, which this container's root does not have")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", parent], check=True)
        yield folder
    finally:
        subprocess.run(["umount", parent], check=True)


def test_on_a_read_only_disk_the_verification_is_recorded_in_the_users_folder(
    read_only: Path, tmp_path_factory, monkeypatch, capsys
):
    state = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    assert verify(read_only, "--cache") == 0
    (stamp,) = (state / "deepspeech2-benchmark").iterdir()
    assert f"recorded for this user's later runs in {stamp}" in capsys.readouterr().err
    assert not stamp_path(read_only).exists()
    assert valid_stamp(read_dataset(read_only)) is not None, "what a run uses"

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("another")))
    assert read_stamp(read_only) is None
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    os.utime(stamp, ns=(0, 0))
    assert read_stamp(read_only) is None, "the dataset was prepared again since"


def test_without_a_writable_folder_it_passes_with_a_warning_and_a_remedy(
    read_only: Path, tmp_path_factory, monkeypatch, capsys
):
    blocked = tmp_path_factory.mktemp("state") / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(blocked))
    assert verify(read_only) == 0
    err = capsys.readouterr().err
    assert "not recorded for later runs (Not a directory" in err
    assert "set XDG_STATE_HOME" in err
    with pytest.raises(UserError, match=r"the cache cannot be written \(Not a directory\) - run without --cache"):
        verify(read_only, "--cache")


def test_the_newest_verification_counts_wherever_it_is_recorded(folder: Path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    old, new = (Stamp(f"2026-01-0{day}T00:00:00Z", "ab" * 32, True) for day in (1, 2))
    with monkeypatch.context() as unwritable:
        unwritable.setattr(os, "access", lambda *_: False)
        elsewhere = write_stamp(folder, new)
    assert elsewhere != stamp_path(folder)
    assert write_stamp(folder, old) == stamp_path(folder)
    assert read_stamp(folder) == new
    delete_stamp(folder)
    assert read_stamp(folder) is None
    assert not elsewhere.exists()


def test_the_cache_is_used_once_and_then_deleted(folder: Path, capsys):
    cache = Cache(folder)
    assert cache.path.parent == folder.parent
    assert verify(folder, "--cache") == 0
    assert not cache.path.exists()
    for odd in (b'{"key": "00", "crc"', b"[1]\n", b"5\n", b"\0\n", b'{"key": "00", "lines": 3}\n'):
        cache.path.write_bytes(odd)  # truncated, or written by another program
        assert verify(folder, "--cache") == 0
        assert not cache.path.exists()


KILLED_AFTER_ONE_BATCH = """
import os, signal, sys
from results.dataset_check import partial_sums, verify

store = partial_sums.Cache.put

def store_and_die(*arguments):
    store(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

partial_sums.Cache.put = store_and_die
verify.main(sys.argv[1:])
"""


def test_a_killed_verification_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(300):  # more than one batch
        (folder / f"{number}.flac").write_bytes(b"%d" % number)
    describe(folder)
    line = [sys.executable, "-c", KILLED_AFTER_ONE_BATCH, folder, "--cache", "--processes", "1"]
    assert subprocess.run(line, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    found = []
    lookup = Cache.get
    monkeypatch.setattr(Cache, "get", lambda self, key: found.append(lookup(self, key)) or found[-1])
    assert verify(folder, "--cache") == 0
    assert [sums is not None for sums in found] == [True, False]
    assert not (tmp_path / "mine.verifying.jsonl").exists()
