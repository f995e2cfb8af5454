"""LibriSpeech is prepared completely and correctly, or not at all."""

import ast
import csv
import gzip
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from importlib.metadata import distribution
from pathlib import Path

import pytest
import soundfile

from common.errors import EXIT_ERROR, EXIT_OK, UserError, run_cli
from datasets.checksums.digest import digest_tree
from datasets.commands import main
from datasets.dataset import description_path, is_prepared, read_dataset
from datasets.librispeech import assemble
from datasets.librispeech.archives import PUBLISHED, SETS, Archive
from datasets.librispeech.assemble import NAME, Options, prepare
from datasets.librispeech.unpack import unpack
from datasets.manifest import read_csv
from datasets.staging import preparation_lock
from results.dataset_check.verify import main as verify
from tests.support.harness import small_disk
from tests.support.http_server import serve
from tests.support.libri_archives import build, flac_bytes, hash_of, published, real_chapters, write_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def published_archives(tmp_path_factory: pytest.TempPathFactory):
    """A folder of small valid archives, and their table."""
    folder = tmp_path_factory.mktemp("published_archives")
    archives = [
        build(folder, name, real_chapters(count, offset))
        for name, count, offset in [
            ("dev-clean", 2, 0), ("dev-other", 1, 3), ("test-clean", 2, 5), ("test-other", 1, 8), ("train-clean-100", 3, 10),
        ]
    ]  # fmt: skip
    return folder, archives


def run_prepare(published_archives, data_dir: Path, *names: str, folder: Path | None = None, **options):
    data_dir.mkdir(exist_ok=True)
    chosen = [a for a in published_archives[1] if a.name in names or not names]
    return prepare(
        chosen, published_archives[1], data_dir, Options(from_dir=folder or published_archives[0], **options)
    )


def download(*arguments: object) -> int:
    """The exit status of `python -m datasets download ARGUMENTS`, run in this process."""
    return run_cli(lambda: main(["download", *map(str, arguments)]))


def check_rejected(tmp_path: Path, archive: Archive, match: str) -> None:
    """Preparing from `tmp_path/local` raises `match` and leaves no part."""
    data = tmp_path / "data"
    with pytest.raises(UserError, match=match):
        run_prepare((tmp_path / "local", [archive]), data)
    assert not is_prepared(data / NAME)
    assert not list((data / f"{NAME}.parts").glob("*-*"))


def test_the_published_table_is_complete():
    assert sum(a.utterances for a in PUBLISHED if a.split == "train") == 281_241
    assert sum(a.utterances for a in PUBLISHED if a.split == "val") == 5_567
    assert {a.name for a in PUBLISHED} == set(SETS["all"])
    assert set(SETS["training"]) == set(SETS["all"]) - {"dev-other", "test-other"}
    assert SETS["clean_dev"] == SETS["clean_small"]
    # Read from the source, because importing torchaudio imports PyTorch.
    source = Path(str(distribution("torchaudio").locate_file("torchaudio/datasets/librispeech.py"))).read_text()
    torchaudio_sha256 = ast.literal_eval(re.search(r"^_CHECKSUMS = (\{.*?\})", source, re.DOTALL | re.MULTILINE)[1])
    addresses = {f"http://www.openslr.org/resources/12/{a.remote_file.name}": a.sha256 for a in PUBLISHED}
    assert addresses == torchaudio_sha256


def test_all_archives_together(published_archives, tmp_path: Path):
    dataset = run_prepare(published_archives, tmp_path / "data", deep=True)
    folder = tmp_path / "data" / NAME
    assert read_dataset(folder) == dataset
    assert set(dataset.splits) == {"train", "val", "test", "dev-clean", "dev-other", "test-clean", "test-other"}
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"train", "val", "test"}
    by_name = {a.name: a for a in published_archives[1]}
    assert dataset.splits["val"].utterances == by_name["dev-clean"].utterances + by_name["dev-other"].utterances
    assert dataset.splits["test-other"].utterances == by_name["test-other"].utterances
    assert dataset.digest == digest_tree(folder)
    check = subprocess.run(["sha256sum", "-c", "--quiet", f"../{NAME}.sha256sums"], cwd=folder, capture_output=True)
    assert check.returncode == 0, check.stderr
    assert dataset.provenance["archives"] == {a.name: a.sha256 for a in published_archives[1]}
    for split in dataset.splits:
        manifest = dataset.manifest(split)
        lengths = [u.duration_s for u in manifest]
        assert lengths == sorted(lengths)
        assert sum(lengths) == pytest.approx(dataset.splits[split].duration_s, abs=1e-3)
        rows = list(read_csv(folder / dataset.splits[split].csv))
        assert [audio for _, audio, _ in rows] == [manifest.audio_path(u) for u in manifest]
        for utterance, (_, audio, transcript) in zip(manifest, rows, strict=True):
            assert soundfile.info(audio).duration == pytest.approx(utterance.duration_s, abs=1e-6)
            assert f"{utterance.id} {utterance.text}" in transcript.read_text().splitlines()


def test_the_wav_layout_is_that_of_the_reference(published_archives, tmp_path: Path):
    dataset = run_prepare(published_archives, tmp_path / "data", "dev-clean", "train-clean-100", layout="wav")
    folder = tmp_path / "data" / NAME
    assert dataset.digest == digest_tree(folder)
    assert {p.name for p in (folder / "val").iterdir()} == {"wav", "txt"}
    flac = run_prepare(published_archives, tmp_path / "flac", "dev-clean", "train-clean-100")
    audio_path = {u.id: flac.folder / u.audio for u in flac.manifest("val")}
    for utterance in dataset.manifest("val"):
        samples, rate = soundfile.read(folder / utterance.audio, dtype="int16")
        assert (samples == soundfile.read(audio_path[utterance.id], dtype="int16")[0]).all()
        assert rate == 16_000
        assert (folder / utterance.audio).stat().st_size == 44 + 2 * len(samples)
        assert (folder / f"val/txt/{utterance.id}.txt").read_text() == utterance.text
    with open(folder / "libri_val_manifest.csv") as file:
        assert all(a.startswith("val/wav/") and t.startswith("val/txt/") for a, t in csv.reader(file))
    with pytest.raises(UserError, match="layout wav, not flac"):
        run_prepare(published_archives, tmp_path / "data", "dev-clean")


def test_subsets_can_be_added_later(published_archives, tmp_path: Path):
    data = tmp_path / "data"
    first = run_prepare(published_archives, data, "dev-clean", "test-clean")
    assert (
        run_prepare(published_archives, data, "dev-clean", folder=tmp_path) == first
    )  # complete: no archive is needed
    extended = run_prepare(published_archives, data, "dev-other", "train-clean-100")
    assert set(extended.provenance["archives"]) == {"dev-clean", "test-clean", "dev-other", "train-clean-100"}
    at_once = run_prepare(
        published_archives, tmp_path / "twin", "dev-clean", "test-clean", "dev-other", "train-clean-100"
    )
    assert extended.digest == at_once.digest == digest_tree(data / NAME)


def test_a_damaged_dataset_is_repaired_by_the_same_command(published_archives, tmp_path: Path, capfd):
    dataset = run_prepare(published_archives, tmp_path)
    one, other, third = sorted(path for path in dataset.folder.rglob("*.flac") if "val" in path.parts)[:3]
    untouched = next((dataset.folder / "train").rglob("*.flac"))
    inode = untouched.stat().st_ino
    one.unlink()
    other.write_bytes(b"")
    assert run_prepare(published_archives, tmp_path) == dataset
    assert digest_tree(dataset.folder) == dataset.digest
    assert "dev-clean: 2 of its files are missing or changed; unpacking it again" in capfd.readouterr().err
    # Damage that sizes do not show is found by a verification, which records it in its stamp.
    data = bytearray(third.read_bytes())
    data[-10] ^= 1
    third.write_bytes(data)
    assert run_prepare(published_archives, tmp_path) == dataset
    assert verify([str(dataset.folder)]) == 1
    assert run_prepare(published_archives, tmp_path) == dataset
    assert "dev-clean: 1 of its files are missing or changed" in capfd.readouterr().err
    assert verify([str(dataset.folder)]) == 0
    assert untouched.stat().st_ino == inode
    # A manifest is not part of any archive.
    (dataset.folder / "libri_val_manifest.csv").unlink()
    assert run_prepare(published_archives, tmp_path) == dataset
    assert digest_tree(dataset.folder) == dataset.digest


@pytest.mark.parametrize("markers", [True, False], ids=["with markers", "without markers"])
def test_extra_files_are_named_and_nothing_is_changed(published_archives, tmp_path: Path, capfd, markers: bool):
    dataset = run_prepare(published_archives, tmp_path)
    if not markers:
        shutil.rmtree(tmp_path / f"{NAME}.parts")
    (dataset.folder / "notes.txt").write_text("mine")
    (dataset.folder / "val/mine").mkdir()
    (dataset.folder / "val/mine/a.flac").touch()
    for verified in (False, True):
        if verified:
            assert verify([str(dataset.folder)]) == 1
        before = snapshot(tmp_path)
        with pytest.raises(UserError, match=r"its folder: notes\.txt, val/mine/ - remove them"):
            run_prepare(published_archives, tmp_path, folder=tmp_path / "no archives")
        assert snapshot(tmp_path) == before
    # After they are removed, the failed verification does not make it fetch archives.
    (dataset.folder / "notes.txt").unlink()
    shutil.rmtree(dataset.folder / "val/mine")
    inode = next(dataset.folder.rglob("*.flac")).stat().st_ino
    assert run_prepare(published_archives, tmp_path, folder=tmp_path / "no archives") == dataset
    assert next(dataset.folder.rglob("*.flac")).stat().st_ino == inode
    assert verify([str(dataset.folder)]) == 0


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (s.st_ino, s.st_mtime_ns) for path in folder.rglob("*") for s in [path.stat()]}


def test_a_damaged_dataset_without_markers_is_repaired(published_archives, tmp_path: Path):
    dataset = run_prepare(published_archives, tmp_path)
    shutil.rmtree(tmp_path / f"{NAME}.parts")
    path = next(dataset.folder.rglob("*.flac"))
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    assert verify([str(dataset.folder)]) == 1
    assert run_prepare(published_archives, tmp_path) == dataset
    assert verify([str(dataset.folder)]) == 0
    path.unlink()
    shutil.rmtree(tmp_path / f"{NAME}.parts")
    assert run_prepare(published_archives, tmp_path) == dataset
    assert digest_tree(dataset.folder) == dataset.digest


def test_the_assembled_folder_is_checked_before_the_description_is_written(published_archives, tmp_path: Path):
    dataset = run_prepare(published_archives, tmp_path, "dev-clean")
    description_path(dataset.folder).unlink()
    (dataset.folder / "val/stray").touch()
    with pytest.raises(UserError, match=r"are in its folder: val/stray - "):
        run_prepare(published_archives, tmp_path, "dev-clean")
    assert not is_prepared(dataset.folder)
    (dataset.folder / "val/stray").unlink()
    assert run_prepare(published_archives, tmp_path, "dev-clean", folder=tmp_path / "no archives") == dataset


def test_a_removed_dataset_is_made_again(published_archives, tmp_path: Path):
    data = tmp_path / "data"
    first = run_prepare(published_archives, data, "dev-clean")
    shutil.rmtree(data / NAME)
    assert run_prepare(published_archives, data, "dev-clean") == first
    assert digest_tree(data / NAME) == first.digest
    description_path(data / NAME).unlink()
    next((data / NAME).rglob("*.flac")).unlink()
    assert run_prepare(published_archives, data, "dev-clean") == first
    assert digest_tree(data / NAME) == first.digest


@pytest.mark.parametrize("marker", [b"", b"{", b"{}\n"])
def test_an_invalid_marker_is_ignored(published_archives, tmp_path: Path, marker: bytes):
    first = run_prepare(published_archives, tmp_path / "data", "dev-clean")
    description_path(first.folder).unlink()
    (tmp_path / "data" / f"{NAME}.parts" / "dev-clean.jsonl").write_bytes(marker)
    assert run_prepare(published_archives, tmp_path / "data", "dev-clean") == first


@pytest.mark.parametrize("step", ["unpack", "_merge", "_write_manifests", "derive_digest", "write_description"])
def test_preparation_resumes_after_an_interruption_at_any_step(
    published_archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    data = tmp_path / "data"
    run_prepare(published_archives, data, "dev-clean")
    calls = []
    original = getattr(assemble, step)

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == (1 if step in ("derive_digest", "write_description") else 2):
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(assemble, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_prepare(published_archives, data, parallel=1)
    assert step == "unpack" or not is_prepared(data / NAME)
    monkeypatch.setattr(assemble, step, original)
    assert run_prepare(published_archives, data).digest == digest_tree(data / NAME)


@pytest.mark.parametrize("kill_after_parts", [0, 2])
def test_preparation_resumes_after_being_killed_while_unpacking(
    published_archives, tmp_path: Path, kill_after_parts: int, capfd
):
    table = write_table(published_archives[1], tmp_path / "table.json")
    data = tmp_path / "data"
    arguments = ["all", "--data-dir", data, "--from-dir", published_archives[0], "--table", table, "--parallel", "1"]
    command = [sys.executable, "-m", "datasets", "download", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while len(list((data / f"{NAME}.parts").glob("*.jsonl"))) < kill_after_parts or not (
        list((data / f"{NAME}.parts").glob("*.unfinished")) or process.poll() is not None
    ):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode == -signal.SIGKILL:
        assert not is_prepared(data / NAME)
    assert download(*arguments) == EXIT_OK
    assert "prepared in" in capfd.readouterr().err
    assert read_dataset(data / NAME).digest == digest_tree(data / NAME)


def test_the_command_downloads_all_archives(published_archives, tmp_path: Path, capfd):
    table = write_table(published_archives[1], tmp_path / "table.json")
    with serve(published_archives[0]) as server:
        server.faults.cut_after, server.faults.statuses = [20_000, 30_000], [503]
        source = ["--table", table, "--base-url", server.url]
        assert download("all", "--data-dir", tmp_path / "data", *source, "--delete-archives", "--deep") == EXIT_OK
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "HTTP 503" in printed.err
    assert "train: " in printed.err
    assert list((tmp_path / "data/LibriSpeech_archives").iterdir()) == []
    assert read_dataset(tmp_path / "data" / NAME).digest == digest_tree(tmp_path / "data" / NAME)


def test_an_archive_damaged_after_its_check_is_fetched_again(published_archives, tmp_path: Path, capfd):
    archive = published_archives[1][0]
    store = tmp_path / "data/LibriSpeech_archives"
    store.mkdir(parents=True)
    path = store / archive.remote_file.name
    data = bytearray((published_archives[0] / archive.remote_file.name).read_bytes())
    path.write_bytes(data)
    with serve(published_archives[0]) as server:
        options = Options(mirrors=[server.url])
        prepare([archive], published_archives[1], tmp_path / "data", options)
        assert server.log == []
        shutil.rmtree(tmp_path / "data" / NAME)
        status = path.stat()
        data[len(data) // 2] ^= 1  # like a disk error: size and times stay
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        dataset = prepare([archive], published_archives[1], tmp_path / "data", options)
        assert server.log == [(archive.remote_file.name, None)]
    assert dataset.digest == digest_tree(dataset.folder)
    assert "renamed to dev-clean.tar.gz.wrong" in capfd.readouterr().err


def test_the_script_shows_the_usage_for_an_unknown_set():
    done = subprocess.run(["sh", ROOT / "script/download_dataset.sh", "everything"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["all", "extra"]])
def test_wrong_arguments_show_the_usage(arguments: list[str], capsys):
    with pytest.raises(SystemExit) as exit:
        download(*arguments)
    printed = capsys.readouterr()
    assert exit.value.code == 2 and "usage" in printed.err and printed.out == ""


MALICIOUS_NAMES = {
    "../../outside.flac": "is outside",
    "LibriSpeech/dev-clean/../../../outside": "is outside",
    "{tmp_path}/outside": "is outside",
    "LibriSpeech/test-clean/1/2/1-2-0000.flac": "does not belong to dev-clean",
}


@pytest.mark.parametrize("name", MALICIOUS_NAMES)
def test_members_outside_the_folder_are_rejected(tmp_path: Path, name: str):
    def add(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name.format(tmp_path=tmp_path))
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))

    archive = build(tmp_path / "local", "dev-clean", real_chapters(1), extra=add)
    check_rejected(tmp_path, archive, f"rejected and nothing of it kept.*{MALICIOUS_NAMES[name]}")
    assert not list(tmp_path.rglob("outside*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_rejected(tmp_path: Path, kind: bytes):
    def add(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo("LibriSpeech/dev-clean/84/121123/84-121123-9999.flac")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)

    archive = build(tmp_path / "local", "dev-clean", real_chapters(1), extra=add)
    check_rejected(tmp_path, archive, r"9999\.flac' is a (link|device)")


@pytest.mark.parametrize("seed", range(4))
def test_any_damage_is_rejected_or_harmless(tmp_path: Path, seed: int):
    """Random damage to the tar, in archives whose SHA-256 matches the table, so that the hash does not reveal it."""
    chance = random.Random(seed)
    chapter, utterances = real_chapters(1)[0]
    build(tmp_path, "dev-clean", [(chapter, utterances[:3])])
    path = tmp_path / "dev-clean.tar.gz"
    tar = gzip.decompress(path.read_bytes())
    rejected = 0
    for _ in range(100):
        data = bytearray(tar)
        for _ in range(chance.randint(1, 3)):
            # Headers are at multiples of 512, with most of their fields in the first 160 bytes.
            at = 512 * chance.randrange(len(tar) // 512) + chance.randrange(chance.choice([160, 512]))
            size = b"%011o\0" % chance.choice([0, 1, 10**9, 2**33 - 1])
            data[at : at + chance.choice([0, 1, 12, 512])] = chance.choice([b"", chance.randbytes(1), size])
        path.write_bytes(gzip.compress(data, 0))
        try:
            unpack(
                path, published(path, "dev-clean", 3, 1), tmp_path / "work", "flac", lambda n: None, threading.Event()
            )
        except UserError:
            rejected += 1
            assert not (tmp_path / "work" / "dev-clean.unfinished").exists(), "nothing of it is kept"
    assert rejected > 40
    assert {path.name for path in tmp_path.iterdir()} == {"dev-clean.tar.gz", "work"}, "nothing was written elsewhere"


def last_flac(path: str) -> bool:
    return path.endswith("0002.flac")


EDITS = {
    "missing chapter file": (lambda p, d: None if p.endswith(".trans.txt") else d, r"audio without a transcript: \d+"),
    "missing line": (
        lambda p, d: d.split(b"\n", 1)[1] if p.endswith(".txt") else d,
        r"audio without a transcript: 1 \(",
    ),
    "missing audio": (lambda p, d: None if last_flac(p) else d, "transcripts without their audio: 1"),
    "truncated audio": (lambda p, d: d[:-100] if last_flac(p) else d, r"0002\.flac: the FLAC file"),
    "audio truncated in its header": (lambda p, d: d[:30] if last_flac(p) else d, r"0002\.flac: not a FLAC file"),
    "empty audio": (lambda p, d: b"" if last_flac(p) else d, r"0002\.flac: not a FLAC file"),
    "unknown characters": (lambda p, d: d.replace(b" ", b" \xc3\xa9", 1) if p.endswith(".txt") else d, "alphabet"),
}


@pytest.mark.parametrize("case", EDITS)
def test_inconsistent_contents_are_rejected(tmp_path: Path, case: str):
    edit, match = EDITS[case]
    check_rejected(tmp_path, build(tmp_path / "local", "dev-clean", real_chapters(1), edit=edit), match)


def test_another_number_of_utterances_than_published_is_rejected(tmp_path: Path):
    valid = build(tmp_path / "local", "dev-clean", real_chapters(1))
    wrong = Archive(**(valid.__dict__ | {"utterances": valid.utterances + 1}))
    check_rejected(tmp_path, wrong, f"has {valid.utterances} utterances, not the published {valid.utterances + 1}")


def test_audio_of_another_rate_is_rejected(tmp_path: Path):
    out = io.BytesIO()
    soundfile.write(out, soundfile.read(io.BytesIO(flac_bytes(2000, 1)), dtype="int16")[0], 8_000, format="FLAC")
    archive = build(tmp_path / "local", "dev-clean", real_chapters(1), audio=lambda u, w: out.getvalue())
    check_rejected(tmp_path, archive, "not 16000 Hz")


@pytest.mark.parametrize("damage", ["flipped", "cut", "other", "not gzip"])
def test_damaged_local_archives_are_named(published_archives, tmp_path: Path, damage: str):
    local = tmp_path / "local"
    local.mkdir()
    archive = published_archives[1][0]
    data = bytearray((published_archives[0] / archive.remote_file.name).read_bytes())
    if damage == "flipped":
        data[-5000] ^= 16
    elif damage == "cut":
        del data[-5000:]
    elif damage == "not gzip":
        data[:2] = b"PK"
    else:
        data = bytearray((published_archives[0] / "test-clean.tar.gz").read_bytes())
    (local / archive.remote_file.name).write_bytes(data)
    check_rejected(tmp_path, archive, r"dev-clean\.tar\.gz: this is not the published archive")
    if damage == "cut":  # if the table has the truncated size, only the end of the gzip stream shows it
        short = published(local / archive.remote_file.name, "dev-clean", archive.utterances, 1)
        check_rejected(tmp_path, short, r"not a tar\.gz archive|ends in the middle")
    assert (local / archive.remote_file.name).read_bytes() == data


def test_a_missing_local_archive_is_named(published_archives, tmp_path: Path):
    (tmp_path / "local").mkdir()
    check_rejected(tmp_path, published_archives[1][0], r"dev-clean\.tar\.gz: this archive is missing")


def test_the_deep_check_finds_damage_that_headers_do_not_show(tmp_path: Path):
    def damage(path: str, data: bytes) -> bytes:
        if not last_flac(path):
            return data
        middle = len(data) // 4
        return data[:middle] + bytes([data[middle] ^ 8]) + data[middle + 1 :]

    long_audio = flac_bytes(60_000, 3)
    archive = build(tmp_path / "local", "dev-clean", real_chapters(1), audio=lambda u, w: long_audio, edit=damage)
    published_archives = (tmp_path / "local", [archive])
    run_prepare(published_archives, tmp_path / "shallow")  # the archive's hash matches
    with pytest.raises(UserError, match=r"0002\.flac: "):
        run_prepare(published_archives, tmp_path / "data", deep=True)
    assert not is_prepared(tmp_path / "data" / NAME)


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["file", "broken link"])
def test_a_file_in_the_place_of_the_dataset_is_named_before_the_work(published_archives, tmp_path: Path, make):
    make(tmp_path / NAME)
    with pytest.raises(UserError, match="the dataset's place is taken by something that is not a folder"):
        run_prepare(published_archives, tmp_path)
    assert not list((tmp_path / f"{NAME}.parts").iterdir())


def test_a_folder_on_another_disk_is_rejected_before_the_work(published_archives, tmp_path: Path):
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs /dev/shm as a separate, writable file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / NAME).symlink_to(elsewhere)
        with pytest.raises(UserError, match="is on another disk than the data directory"):
            run_prepare(published_archives, tmp_path)
    assert not list((tmp_path / f"{NAME}.parts").iterdir())


def test_only_one_process_prepares_at_a_time(published_archives, tmp_path: Path):
    work = tmp_path / "data" / f"{NAME}.parts"
    work.mkdir(parents=True)
    with (
        preparation_lock(work, tmp_path / "data" / NAME),
        pytest.raises(UserError, match="another process is preparing"),
    ):
        run_prepare(published_archives, tmp_path / "data")


def test_too_little_disk_space_is_reported_before_fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 9 * 10**11, 10**11))
    with pytest.raises(UserError, match=r"100\.0 GB free, 123\.0 GB needed.*--delete-archives"):
        prepare(PUBLISHED, PUBLISHED, tmp_path, Options(mirrors=["http://127.0.0.1:1/"]))
    monkeypatch.setattr(assemble.fetch, "MAX_ROUNDS_WITHOUT_PROGRESS", 1)
    with pytest.raises(UserError, match=r"no mirror delivered the archive"):
        prepare(PUBLISHED[:1], PUBLISHED, tmp_path, Options(mirrors=["http://127.0.0.1:1/"], delete_archives=True))


@pytest.mark.root("mount a small file system")
def test_preparation_resumes_after_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    local = tmp_path / "local"
    archives = [
        build(local, name, real_chapters(1, offset), audio=lambda utterance, _: flac_bytes(160_000, hash_of(utterance)))
        for offset, name in enumerate(("dev-clean", "test-clean"))
    ]
    published_archives = (local, archives)
    data = tmp_path / "data"
    # Half of the unpacked size: FLAC files take as much space in an archive as outside.
    size = sum(path.stat().st_size for path in local.glob("*.tar.gz")) // 2
    with small_disk(data, str(size)):
        with pytest.raises(UserError, match="too little disk space"):
            run_prepare(published_archives, data)
        # Another program fills the disk after the check.
        monkeypatch.setattr(assemble, "_check_space", lambda *a: None)
        with pytest.raises(OSError, match="No space left"):
            run_prepare(published_archives, data)
        assert not is_prepared(data / NAME)
        subprocess.run(["mount", "-o", "remount,size=100m", data], check=True)
        assert run_prepare(published_archives, data).digest == digest_tree(data / NAME)


@pytest.mark.root("mount a file system that cannot be written")
def test_a_read_only_target_is_reported(published_archives, tmp_path: Path, capsys):
    data = tmp_path / "data"
    with small_disk(data, "1m"):
        subprocess.run(["mount", "-o", "remount,ro", data], check=True)
        assert download("all", "--data-dir", data, "--from-dir", published_archives[0]) == EXIT_ERROR
        assert "choose a writable folder" in capsys.readouterr().err
