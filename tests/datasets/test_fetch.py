"""A download ends with the published bytes or with words that help, whatever the server and the disk do."""

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
from datasets.librispeech.fetch import Reports, Stopped, Wanted, fetch, part_path
from tests.support.harness import small_disk
from tests.support.http_server import Server, serve

DATA = random.Random(5).randbytes(300_000)
NAME = "dev-clean.tar.gz"
WANTED = Wanted(NAME, len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def server(tmp_path: Path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / NAME).write_bytes(DATA)
    with serve(folder) as running:
        yield running


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def arrived() -> list[int]:
    return []


@pytest.fixture
def get(tmp_path: Path, server: Server, said: list[str], arrived: list[int]):
    def get(*mirrors: str, wanted: Wanted = WANTED) -> Path:
        reports = Reports(arrived.append, said.append, threading.Event())
        path = fetch(wanted, mirrors or [server.url], tmp_path / "here", reports, pause_s=0.01)
        assert path.read_bytes() == DATA
        assert not part_path(path).exists()
        return path

    return get


def start_part(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "here").mkdir(exist_ok=True)
    (tmp_path / "here" / (NAME + ".part")).write_bytes(data)


def test_plain(get, server: Server, arrived: list[int]):
    get()
    assert server.log == [(NAME, None)]
    assert sum(arrived) == len(DATA)


def test_resumes_where_it_was(get, server: Server, tmp_path: Path, arrived: list[int]):
    start_part(tmp_path, DATA[:123_456])
    get()
    assert server.log == [(NAME, "bytes=123456-")]
    assert sum(arrived) == len(DATA) - 123_456


def test_what_is_there_and_right_is_not_fetched_again(get, server: Server, tmp_path: Path):
    get()
    get()
    (tmp_path / "here" / (NAME + ".ok")).unlink()
    get()
    assert len(server.log) == 1


def test_touched_file_is_read_again_and_found_wrong(get, server: Server, tmp_path: Path, said: list[str]):
    path = get()
    path.write_bytes(DATA[:-1] + b"?")
    get()
    assert (tmp_path / "here" / (NAME + ".wrong")).read_bytes() == DATA[:-1] + b"?"
    assert any("not the published SHA-256" in line and "moved aside to" in line for line in said)
    path.write_bytes(b"not an archive")
    get()
    assert (tmp_path / "here" / (NAME + ".wrong2")).exists()
    assert any("has 14 bytes, not 300,000" in line for line in said)


def test_no_range_support_starts_again(get, server: Server, tmp_path: Path, said: list[str]):
    server.faults.ranges = False
    start_part(tmp_path, DATA[:1000])
    get()
    assert any("cannot resume" in line for line in said)


def test_503_then_fine(get, server: Server):
    server.faults.statuses = [503, 429, 500]
    get()
    assert len(server.log) == 4


def test_stalled_connection_is_made_anew_and_resumed(get, server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "STALLED_AFTER_S", 0.3)
    server.faults.stall_after = [100_000]
    get()
    assert server.log == [(NAME, None), (NAME, "bytes=100000-")]


@pytest.mark.parametrize("announced", [True, False])
def test_truncated_bodies_are_resumed(get, server: Server, announced: bool):
    server.faults.announce_length = announced
    server.faults.cut_after = [10_000] * 12
    get()
    assert [asked for _, asked in server.log] == [None] + [f"bytes={n}0000-" for n in range(1, 13)]


def test_flipped_byte_is_thrown_away_and_fetched_anew(get, server: Server, said: list[str]):
    server.faults.flip_at = [200_000]
    get()
    assert server.log == [(NAME, None), (NAME, None)]
    assert any("not have the published SHA-256" in line for line in said)


def test_wrong_part_from_before_is_thrown_away(get, server: Server, tmp_path: Path):
    start_part(tmp_path, bytes(5000))
    get()
    start_part(tmp_path, bytes(500_000))  # longer than the whole
    (tmp_path / "here" / NAME).unlink()
    get()


def test_part_that_is_already_whole_needs_no_server(get, server: Server, tmp_path: Path):
    start_part(tmp_path, DATA)
    get()
    assert server.log == []


def test_wrong_file_under_the_right_name_on_the_server(get, server: Server, tmp_path: Path, said: list[str]):
    other = tmp_path / "other"
    other.mkdir()
    (other / NAME).write_bytes(DATA + b"!")
    with serve(other) as wrong:
        get(wrong.url, server.url)
    assert any("has 300,001 bytes, not 300,000" in line for line in said)


def test_always_wrong_contents_end_in_words(get, server: Server, tmp_path: Path):
    (server.folder / NAME).write_bytes(bytes(len(DATA)))
    with pytest.raises(UserError, match=r"no mirror gave.*published SHA-256.*--from-dir"):
        get()
    assert not (tmp_path / "here" / NAME).exists()
    assert not (tmp_path / "here" / (NAME + ".part")).exists()


def test_first_mirror_dead(get, server: Server, said: list[str]):
    get("http://127.0.0.1:1/", server.url + "404/nowhere?", "http://name.invalid/", server.url)
    assert any("http://127.0.0.1:1/: cannot be reached" in line for line in said)


def test_missing_everywhere(get, server: Server):
    (server.folder / NAME).unlink()
    with pytest.raises(UserError, match=r"HTTP 404.*--base-url"):
        get()
    assert len(server.log) == 1  # a 404 is not asked twice


def test_no_network_gives_up(get):
    with pytest.raises(UserError, match="cannot be reached"):
        get("http://127.0.0.1:1/")


def test_not_an_address(get):
    with pytest.raises(UserError, match="no mirror gave"):
        get("nonsense/")


def test_stopping_keeps_what_arrived(server: Server, tmp_path: Path):
    stopped = threading.Event()
    with pytest.raises(Stopped):
        fetch(WANTED, [server.url], tmp_path / "here", Reports(lambda count: stopped.set(), print, stopped))
    kept = (tmp_path / "here" / (NAME + ".part")).read_bytes()
    assert kept
    assert DATA.startswith(kept)


def test_killed_while_downloading_goes_on(get, server: Server, tmp_path: Path):
    server.faults.rate = 200_000
    script = (
        "import sys, threading; from pathlib import Path; from datasets.librispeech.fetch import *\n"
        f"fetch(Wanted({NAME!r}, {len(DATA)}, {WANTED.sha256!r}), [sys.argv[1]], Path(sys.argv[2]),"
        "Reports(print, print, threading.Event()))"
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
def test_full_disk_keeps_what_arrived(server: Server, tmp_path: Path):
    small = tmp_path / "here"
    with small_disk(small, "128k"):
        with pytest.raises(OSError, match="No space left"):
            fetch(WANTED, [server.url], small, Reports(lambda n: None, print, threading.Event()))
        kept = (small / (NAME + ".part")).read_bytes()
        assert len(kept) > 10_000
        assert DATA.startswith(kept)
        subprocess.run(["mount", "-o", "remount,size=1m", small], check=True)
        path = fetch(WANTED, [server.url], small, Reports(lambda n: None, print, threading.Event()))
        assert path.read_bytes() == DATA
        assert server.log[-1] == (NAME, f"bytes={len(kept)}-")
