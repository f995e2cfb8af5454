"""The checksums of a folder equal those of GNU tar and sha256sum, and depend only on the contents."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from datasets.checksums import digest, tarball
from datasets.checksums.digest import derive_digest, digest_tree, sum_batch, sum_of, sum_tree
from datasets.checksums.posix_cksum import combine, crc_of, file_cksum
from tests.support.gnu_tar import TAR, as_gnu_tar_1_34, gnu_cksum, gnu_tar


def coreutils_tree_sha256(folder: Path) -> str:
    script = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0r sha256sum -- | sha256sum"
    return subprocess.run(["sh", "-c", script], cwd=folder, check=True, capture_output=True, text=True).stdout[:64]


def assert_equals_gnu(folder: Path, processes: int | None = None) -> None:
    found = digest_tree(folder, processes)
    assert b"".join(map(bytes, tarball.stream(folder))) == gnu_tar(folder)
    assert (found.tar_cksum, found.tar_bytes) == gnu_cksum(folder)
    assert found.tree_sha256 == coreutils_tree_sha256(folder)
    assert found.tar_bytes == tarball.tar_bytes(folder)
    assert found.files == sum(path.is_file() for path in folder.rglob("*"))


def put(folder: Path, name: str | bytes, data: bytes = b"data") -> Path:
    path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A tree of all kinds of names and files that a dataset may have."""
    folder = tmp_path / "odd set"
    for name in [
        "a/x",
        "a-b/x",
        "a.b/x",
        "a!",
        "ab",
        " leading",
        "trailing ",
        "é/ü.flac",
        "日本/語",
        "new\nline",
        "back\\slash",
        "-rf",
    ]:
        put(folder, name, name.encode())
    put(folder, b"latin\xe9", b"not UTF-8")
    for size in (0, 1, 511, 512, 513, 10_240, tarball.READ_BYTES, tarball.READ_BYTES + 1):
        put(folder, f"sizes/{size}", b"\xa5" * size)
    (folder / "empty/nested").mkdir(parents=True)
    return folder


def test_odd_names_and_sizes_equal_gnu_tar(odd: Path):
    assert_equals_gnu(odd)


def test_empty_folder(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert_equals_gnu(tmp_path / "empty")


def test_long_names_are_split_as_gnu_tar_splits_them(tmp_path: Path):
    folder = tmp_path / "set"
    folder.mkdir()
    accepted = rejected = 0
    for last in (1, 94, 95, 96, 99, 100, 101):
        for parts in (
            (),
            (40,),
            (94,),
            (50, 50),
            (100,),
            (49, 49, 49),
            (50, 50, 50),
            (50, 50, 51),
            (75, 75),
            (74, 75),
            (150,),
            (151,),
            (155,),
        ):
            shutil.rmtree(folder)
            where = folder
            for part in parts:
                where = where / ("d" * part)
            where.mkdir(parents=True)
            (where / ("f" * last)).write_bytes(b"x")
            (where / ("e" * last)).mkdir()
            done = subprocess.run([*TAR, "set"], cwd=tmp_path, capture_output=True)
            if done.returncode == 0:
                assert b"".join(map(bytes, tarball.stream(folder))) == as_gnu_tar_1_34(done.stdout)
                accepted += 1
            else:
                with pytest.raises(UserError, match="does not fit into a ustar tar"):
                    digest_tree(folder)
                rejected += 1
    assert accepted > 30 and rejected > 10


def test_a_name_that_is_too_long_is_named(tmp_path: Path):
    put(tmp_path / "set", "x" * 120)
    with pytest.raises(UserError, match="x" * 120):
        digest_tree(tmp_path / "set")


def test_hard_links_are_stored_as_gnu_tar_stores_them(tmp_path: Path):
    first = put(tmp_path / "set", "b/first", b"once" * 1000)
    os.link(first, tmp_path / "set/c")
    os.link(first, tmp_path / "outside")
    os.link(first, tmp_path / "set/a")
    assert_equals_gnu(tmp_path / "set")


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("a"), os.mkfifo], ids=["symbolic link", "pipe"])
def test_links_and_special_files_are_rejected_by_name(odd: Path, make):
    make(odd / "a" / "strange")
    with pytest.raises(UserError, match=r"odd set/a/strange.*dataset may not hold"):
        digest_tree(odd)


def test_a_link_to_the_folder_is_followed(odd: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / odd.name
    link.symlink_to(odd)
    assert digest_tree(link) == digest_tree(odd)


def test_a_relative_folder_has_the_same_digest(odd: Path, monkeypatch: pytest.MonkeyPatch):
    expected = digest_tree(odd)
    monkeypatch.chdir(odd)
    assert digest_tree(".") == expected == digest_tree("a/..")


@pytest.mark.parametrize("what", ["missing", "file"])
def test_a_missing_folder_or_a_file_is_rejected(tmp_path: Path, what: str):
    put(tmp_path, "file")
    with pytest.raises(UserError, match=what if what == "file" else "no such folder"):
        digest_tree(tmp_path / what)


def test_the_digest_depends_only_on_the_contents(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = digest_tree(odd)
    old = os.umask(0o077)
    try:
        # Copied in reverse order, with another umask, other times and other modes.
        twin = tmp_path / "twin" / odd.name
        for path in sorted(odd.rglob("*"), reverse=True):
            target = twin / path.relative_to(odd)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target) if path.is_file() else target.mkdir(exist_ok=True)
    finally:
        os.umask(old)
    for number, path in enumerate(twin.rglob("*")):
        os.utime(path, (number * 1000, number * 1000))
        path.chmod(0o1777 if path.is_dir() else (0o400, 0o755, 0o4711)[number % 3])
        if os.geteuid() == 0:
            os.chown(path, 1234, 4321)
    assert digest_tree(twin) == expected
    monkeypatch.setattr(digest, "BATCH_FILES", 3)
    assert {digest_tree(twin, processes) for processes in (1, 2, 5)} == {expected}
    assert_equals_gnu(twin, processes=2)


def test_set_id_bits_of_folders_change_the_tar_but_not_the_plain_cksum(odd: Path, monkeypatch: pytest.MonkeyPatch):
    plain = sum_tree(odd)
    assert plain.plain_cksum == plain.digest.tar_cksum
    monkeypatch.setattr(digest, "BATCH_FILES", 3)
    for path in [odd, *odd.rglob("*")]:
        if path.is_dir():
            path.chmod(0o2770)
    (odd / "a").chmod(0o6700)
    assert_equals_gnu(odd)
    shared = sum_tree(odd, processes=2)
    assert shared.digest.tar_cksum != plain.digest.tar_cksum
    assert shared.plain_cksum == plain.digest.tar_cksum


@pytest.fixture
def many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of enough batches for worker processes."""
    monkeypatch.setattr(digest, "BATCH_FILES", 32)
    for number in range(400):
        put(tmp_path / "set", f"{number % 7}/{number % 31}/{number}", os.urandom(number * 7 % 1500))
    return tmp_path / "set"


def test_many_batches_in_processes_equal_gnu_tar(many_batches: Path):
    assert_equals_gnu(many_batches, processes=3)


def test_processes_are_spawned_if_threads_are_running(many_batches: Path):
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        assert digest_tree(many_batches, processes=2) == digest_tree(many_batches, processes=1)
    finally:
        release.set()
        thread.join()


def test_a_file_that_changes_while_being_read_is_an_error(odd: Path):
    pieces = tarball.stream(odd)
    next(pieces)  # the folder's own header
    put(odd, " leading", b"longer than before")
    list_of_members = tarball.members(odd)
    stale = next(m for m in list_of_members if m.size)
    put(odd, stale.path, b"another length")
    with pytest.raises(UserError, match="changed while it was read"):
        list(tarball.file_pieces(os.fsencode(odd), stale, bytearray(100)))
    (odd / os.fsdecode(stale.path)).unlink()
    with pytest.raises(FileNotFoundError):
        list(tarball.file_pieces(os.fsencode(odd), stale, bytearray(100)))


def test_progress_ends_at_the_tars_length(odd: Path):
    seen: list[int] = []
    digest_tree(odd, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == tarball.tar_bytes(odd)


def test_lines_are_those_of_sha256sum(odd: Path):
    # `sha256sum -c` parses the escaped names independently.
    found = sum_tree(odd)
    check = subprocess.run(["sha256sum", "-c", "--quiet"], cwd=odd, input=b"".join(found.lines), capture_output=True)
    assert check.returncode == 0, check.stderr
    names = {digest.path_of_line(line) for line in found.lines}
    assert names == {os.fsencode(p.relative_to(odd)) for p in odd.rglob("*") if p.is_file()}


def test_an_error_in_a_worker_process_is_raised(odd: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digest, "BATCH_FILES", 2)
    put(odd, "é/" + "x" * 120)
    with pytest.raises(UserError, match="does not fit into a ustar tar"):
        digest_tree(odd, processes=3)


def test_a_killed_worker_process_is_an_error(odd: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digest, "BATCH_FILES", 2)
    monkeypatch.setattr(digest, "sum_batch", kill_this_process)
    with pytest.raises(UserError, match="a worker process was killed"):
        digest_tree(odd, processes=3)


def kill_this_process(*arguments):
    os.kill(os.getpid(), 9)


def test_file_cksum_equals_coreutils(tmp_path: Path):
    for size in (0, 1, 255, 256, tarball.READ_BYTES + 7):
        path = put(tmp_path, "file", os.urandom(size))
        crc, length, _ = subprocess.run(["cksum", path], check=True, capture_output=True).stdout.split()
        assert file_cksum(path) == (int(crc), int(length))


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_combining_equals_appending(a: bytes, b: bytes):
    assert combine(crc_of(a), crc_of(b), len(b)) == crc_of(a + b)


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    # sha256sum, used for the comparison, reads standard input for "-".
    lambda name: name not in (".", "..", "-")
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.lists(names, min_size=1, max_size=3), st.binary(max_size=600)), max_size=8))
def test_any_tree_equals_gnu_tar(tmp_path: Path, files):
    folder = tmp_path / "any"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for parts, data in files:
        try:
            put(folder, "/".join(parts), data)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    assert_equals_gnu(folder)


def test_the_derived_digest_equals_that_of_reading(odd: Path):
    (odd / "empty/nested").rmdir()
    (odd / "empty").rmdir()
    files = [sum_of(str(p.relative_to(odd)), p.read_bytes()) for p in odd.rglob("*") if p.is_file()]
    found = sum_tree(odd)
    assert derive_digest(odd.name, reversed(files)) == (found.digest, found.lines)
    assert derive_digest("x", [])[0].tar_bytes == tarball.RECORD


def test_a_cache_saves_reading_unchanged_batches(odd: Path, monkeypatch: pytest.MonkeyPatch):
    class DictCache(dict):
        put = dict.__setitem__

    monkeypatch.setattr(digest, "BATCH_FILES", 3)
    expected, cache = sum_tree(odd), DictCache()
    assert sum_tree(odd, 1, cache=cache) == expected
    read: list = []
    monkeypatch.setattr(
        digest, "sum_batch", lambda root, batch, sha256: read.append(batch) or sum_batch(root, batch, sha256)
    )
    assert sum_tree(odd, 1, cache=cache) == expected
    assert not read
    put(odd, "ab", b"other")
    changed = sum_tree(odd, 1, cache=cache)
    assert len(read) == 1
    assert changed.digest != expected.digest
    assert_equals_gnu(odd, 1)
