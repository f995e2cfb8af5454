"""A download gives the published bytes or a helpful error, for all faults of servers and disks."""

import hashlib
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common.errors import UserError
from datasets.librispeech import fetch as module
from datasets.librispeech.fetch import FetchEvents, RemoteFile, Stopped, fetch, part_path
from tests.support.harness import small_disk
from tests.support.http_server import Server, serve

DATA = random.Random(5).randbytes(300_000)
NAME = "dev-clean.tar.gz"
WANTED = RemoteFile(NAME, len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def server(tmp_path: Path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / NAME).write_bytes(DATA)
    with serve(folder) as running:
        yield running


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def received() -> list[int]:
    return []


@pytest.fixture
def get(tmp_path: Path, server: Server, messages: list[str], received: list[int]):
    def get(*mirrors: str, wanted: RemoteFile = WANTED) -> Path:
        events = FetchEvents(received.append, messages.append, threading.Event())
        path = fetch(wanted, mirrors or [server.url], tmp_path / "here", events, pause_s=0.01)
        assert path.read_bytes() == DATA
        assert not part_path(path).exists()
        return path

    return get


def start_part(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "here").mkdir(exist_ok=True)
    (tmp_path / "here" / (NAME + ".part")).write_bytes(data)


def test_a_file_is_downloaded(get, server: Server, received: list[int]):
    get()
    assert server.log == [(NAME, None)]
    assert sum(received) == len(DATA)


def test_a_download_is_resumed(get, server: Server, tmp_path: Path, received: list[int]):
    start_part(tmp_path, DATA[:123_456])
    get()
    assert server.log == [(NAME, "bytes=123456-")]
    assert sum(received) == len(DATA) - 123_456


def test_a_valid_file_is_not_fetched_again(get, server: Server, tmp_path: Path):
    get()
    get()
    (tmp_path / "here" / (NAME + ".ok")).unlink()
    get()
    assert len(server.log) == 1


def test_a_modified_file_is_checked_again_and_renamed(get, server: Server, tmp_path: Path, messages: list[str]):
    path = get()
    path.write_bytes(DATA[:-1] + b"?")
    get()
    assert (tmp_path / "here" / (NAME + ".wrong")).read_bytes() == DATA[:-1] + b"?"
    assert any("not the published SHA-256" in line and "renamed to" in line for line in messages)
    path.write_bytes(b"not an archive")
    get()
    assert (tmp_path / "here" / (NAME + ".wrong2")).exists()
    assert any("has 14 bytes, not 300,000" in line for line in messages)


def test_without_range_support_the_download_starts_again(get, server: Server, tmp_path: Path, messages: list[str]):
    server.faults.ranges = False
    start_part(tmp_path, DATA[:1000])
    get()
    assert any("cannot resume" in line for line in messages)


def test_temporary_errors_are_retried(get, server: Server):
    server.faults.statuses = [503, 429, 500]
    get()
    assert len(server.log) == 4


def test_a_stalled_connection_is_reopened_and_resumed(get, server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "STALL_TIMEOUT_S", 0.3)
    server.faults.stall_after = [100_000]
    get()
    assert server.log == [(NAME, None), (NAME, "bytes=100000-")]


@pytest.mark.parametrize("announced", [True, False])
def test_truncated_bodies_are_resumed(get, server: Server, announced: bool):
    server.faults.announce_length = announced
    server.faults.cut_after = [10_000] * 12
    get()
    assert [asked for _, asked in server.log] == [None] + [f"bytes={n}0000-" for n in range(1, 13)]


def test_a_file_with_a_flipped_byte_is_deleted_and_fetched_again(get, server: Server, messages: list[str]):
    server.faults.flip_at = [200_000]
    get()
    assert server.log == [(NAME, None), (NAME, None)]
    assert any("not have the published SHA-256 and was deleted" in line for line in messages)


def test_a_wrong_partial_file_is_deleted(get, server: Server, tmp_path: Path):
    start_part(tmp_path, bytes(5000))
    get()
    start_part(tmp_path, bytes(500_000))  # longer than the complete file
    (tmp_path / "here" / NAME).unlink()
    get()


def test_a_complete_partial_file_needs_no_server(get, server: Server, tmp_path: Path):
    start_part(tmp_path, DATA)
    get()
    assert server.log == []


def test_a_mirror_with_a_file_of_another_size_is_skipped(get, server: Server, tmp_path: Path, messages: list[str]):
    other = tmp_path / "other"
    other.mkdir()
    (other / NAME).write_bytes(DATA + b"!")
    with serve(other) as wrong:
        get(wrong.url, server.url)
    assert any("has 300,001 bytes, not 300,000" in line for line in messages)


def test_contents_that_are_always_wrong_are_reported(get, server: Server, tmp_path: Path):
    (server.folder / NAME).write_bytes(bytes(len(DATA)))
    with pytest.raises(UserError, match=r"no mirror delivered.*published SHA-256.*--from-dir"):
        get()
    assert not (tmp_path / "here" / NAME).exists()
    assert not (tmp_path / "here" / (NAME + ".part")).exists()


def test_unreachable_mirrors_are_skipped(get, server: Server, messages: list[str]):
    get("http://127.0.0.1:1/", server.url + "404/nowhere?", "http://name.invalid/", server.url)
    assert any("http://127.0.0.1:1/: cannot be reached" in line for line in messages)


def test_a_file_that_no_mirror_has_is_reported(get, server: Server):
    (server.folder / NAME).unlink()
    with pytest.raises(UserError, match=r"HTTP 404.*--base-url"):
        get()
    assert len(server.log) == 1  # a 404 is not retried


def test_without_a_network_the_download_gives_up(get):
    with pytest.raises(UserError, match="cannot be reached"):
        get("http://127.0.0.1:1/")


def test_an_invalid_url_is_reported(get):
    with pytest.raises(UserError, match="no mirror delivered"):
        get("nonsense/")


def test_cancelling_keeps_the_received_bytes(server: Server, tmp_path: Path):
    stopped = threading.Event()
    with pytest.raises(Stopped):
        fetch(WANTED, [server.url], tmp_path / "here", FetchEvents(lambda count: stopped.set(), print, stopped))
    kept = (tmp_path / "here" / (NAME + ".part")).read_bytes()
    assert kept
    assert DATA.startswith(kept)


def test_a_killed_download_is_resumed(get, server: Server, tmp_path: Path):
    server.faults.rate = 200_000
    script = (
        "import sys, threading; from pathlib import Path; from datasets.librispeech.fetch import *\n"
        f"fetch(RemoteFile({NAME!r}, {len(DATA)}, {WANTED.sha256!r}), [sys.argv[1]], Path(sys.argv[2]),"
        "FetchEvents(print, print, threading.Event()))"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", script, server.url, tmp_path / "here"], cwd=root)
    part = tmp_path / "here" / (NAME + ".part")
    deadline = time.monotonic() + 200
    while not (part.exists() and part.stat().st_size > 20_000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    assert 0 < have < len(DATA)
    server.faults.rate = None
    get()
    assert server.log[-1] == (NAME, f"bytes={have}-")


@pytest.mark.root("mount a small file system")
def test_a_full_disk_keeps_the_received_bytes(server: Server, tmp_path: Path):
    small = tmp_path / "here"
    with small_disk(small, "128k"):
        with pytest.raises(OSError, match="No space left"):
            fetch(WANTED, [server.url], small, FetchEvents(lambda n: None, print, threading.Event()))
        kept = (small / (NAME + ".part")).read_bytes()
        assert len(kept) > 10_000
        assert DATA.startswith(kept)
        subprocess.run(["mount", "-o", "remount,size=1m", small], check=True)
        path = fetch(WANTED, [server.url], small, FetchEvents(lambda n: None, print, threading.Event()))
        assert path.read_bytes() == DATA
        assert server.log[-1] == (NAME, f"bytes={len(kept)}-")
