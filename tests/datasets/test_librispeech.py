"""LibriSpeech is prepared whole and right, or not at all, whatever happens on the way."""

import csv
import gzip
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import pytest
import soundfile

from common.errors import UserError
from datasets.checksums.digest import digest_tree
from datasets.dataset import description_path, is_prepared, read_dataset
from datasets.librispeech import assemble
from datasets.librispeech.archives import PUBLISHED, SETS, Archive
from datasets.librispeech.assemble import NAME, Options, prepare
from datasets.librispeech.unpack import unpack
from datasets.manifest import read_csv
from results.dataset_check.verify import main as verify
from tests.support.harness import small_disk
from tests.support.http_server import serve
from tests.support.libri_archives import build, flac_bytes, hash_of, published, real_chapters, write_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory):
    """A folder of good small archives and their table."""
    folder = tmp_path_factory.mktemp("shelf")
    archives = [
        build(folder, name, real_chapters(count, offset))
        for name, count, offset in [
            ("dev-clean", 2, 0), ("dev-other", 1, 3), ("test-clean", 2, 5), ("test-other", 1, 8), ("train-clean-100", 3, 10),
        ]
    ]  # fmt: skip
    return folder, archives


def run_prepare(shelf, data_dir: Path, *names: str, folder: Path | None = None, **options):
    data_dir.mkdir(exist_ok=True)
    chosen = [a for a in shelf[1] if a.name in names or not names]
    return prepare(chosen, shelf[1], data_dir, Options(from_dir=folder or shelf[0], **options))


def refused(tmp_path: Path, archive: Archive, match: str) -> None:
    """Preparing from `tmp_path/brought` ends in `match`, and nothing of it stays."""
    data = tmp_path / "data"
    with pytest.raises(UserError, match=match):
        run_prepare((tmp_path / "brought", [archive]), data)
    assert not is_prepared(data / NAME)
    assert not list((data / f"{NAME}.parts").glob("*-*"))


def test_published_table_is_the_corpus():
    assert sum(a.utterances for a in PUBLISHED if a.split == "train") == 281_241
    assert sum(a.utterances for a in PUBLISHED if a.split == "val") == 5_567
    assert {a.name for a in PUBLISHED} == set(SETS["all"])
    assert set(SETS["training"]) == set(SETS["all"]) - {"dev-other", "test-other"}
    assert SETS["clean_dev"] == SETS["clean_small"]
    with_torchaudio = pytest.importorskip("torchaudio.datasets.librispeech")._CHECKSUMS
    assert {f"http://www.openslr.org/resources/12/{a.wanted.name}": a.sha256 for a in PUBLISHED} == with_torchaudio


def test_whole_set(shelf, tmp_path: Path):
    dataset = run_prepare(shelf, tmp_path / "data", deep=True)
    folder = tmp_path / "data" / NAME
    assert read_dataset(folder) == dataset
    assert set(dataset.splits) == {"train", "val", "test", "dev-clean", "dev-other", "test-clean", "test-other"}
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"train", "val", "test"}
    by_name = {a.name: a for a in shelf[1]}
    assert dataset.splits["val"].utterances == by_name["dev-clean"].utterances + by_name["dev-other"].utterances
    assert dataset.splits["test-other"].utterances == by_name["test-other"].utterances
    assert dataset.digest == digest_tree(folder)
    check = subprocess.run(["sha256sum", "-c", "--quiet", f"../{NAME}.sha256sums"], cwd=folder, capture_output=True)
    assert check.returncode == 0, check.stderr
    assert dataset.provenance["archives"] == {a.name: a.sha256 for a in shelf[1]}
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


def test_wav_layout_is_the_references(shelf, tmp_path: Path):
    dataset = run_prepare(shelf, tmp_path / "data", "dev-clean", "train-clean-100", layout="wav")
    folder = tmp_path / "data" / NAME
    assert dataset.digest == digest_tree(folder)
    assert {p.name for p in (folder / "val").iterdir()} == {"wav", "txt"}
    flac = run_prepare(shelf, tmp_path / "flac", "dev-clean", "train-clean-100")
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
        run_prepare(shelf, tmp_path / "data", "dev-clean")


def test_subsets_come_one_after_another(shelf, tmp_path: Path):
    data = tmp_path / "data"
    first = run_prepare(shelf, data, "dev-clean", "test-clean")
    assert run_prepare(shelf, data, "dev-clean", folder=tmp_path) == first  # all there: no archive is asked for
    grown = run_prepare(shelf, data, "dev-other", "train-clean-100")
    assert set(grown.provenance["archives"]) == {"dev-clean", "test-clean", "dev-other", "train-clean-100"}
    at_once = run_prepare(shelf, tmp_path / "twin", "dev-clean", "test-clean", "dev-other", "train-clean-100")
    assert grown.digest == at_once.digest == digest_tree(data / NAME)


def test_a_damaged_set_is_mended_by_the_same_command(shelf, tmp_path: Path, capfd):
    dataset = run_prepare(shelf, tmp_path)
    one, other, third = sorted(path for path in dataset.folder.rglob("*.flac") if "val" in path.parts)[:3]
    untouched = next((dataset.folder / "train").rglob("*.flac"))
    inode = untouched.stat().st_ino
    one.unlink()
    other.write_bytes(b"")
    assert run_prepare(shelf, tmp_path) == dataset
    assert digest_tree(dataset.folder) == dataset.digest
    assert "dev-clean: 2 of its files are missing or changed; it is unpacked again" in capfd.readouterr().err
    # What sizes do not show a verification finds, and leaves word of.
    data = bytearray(third.read_bytes())
    data[-10] ^= 1
    third.write_bytes(data)
    assert run_prepare(shelf, tmp_path) == dataset
    assert verify([str(dataset.folder)]) == 1
    assert run_prepare(shelf, tmp_path) == dataset
    assert "dev-clean: 1 of its files are missing or changed" in capfd.readouterr().err
    assert verify([str(dataset.folder)]) == 0
    assert untouched.stat().st_ino == inode
    # A manifest belongs to no archive.
    (dataset.folder / "libri_val_manifest.csv").unlink()
    assert run_prepare(shelf, tmp_path) == dataset
    assert digest_tree(dataset.folder) == dataset.digest


@pytest.mark.parametrize("marks", [True, False], ids=["with marks", "without marks"])
def test_what_does_not_belong_is_named_and_nothing_else_is_done(shelf, tmp_path: Path, capfd, marks: bool):
    dataset = run_prepare(shelf, tmp_path)
    if not marks:
        shutil.rmtree(tmp_path / f"{NAME}.parts")
    (dataset.folder / "notes.txt").write_text("mine")
    (dataset.folder / "val/mine").mkdir()
    (dataset.folder / "val/mine/a.flac").touch()
    for verified in (False, True):
        if verified:
            assert verify([str(dataset.folder)]) == 1
        before = snapshot(tmp_path)
        with pytest.raises(UserError, match=r"its folder: notes\.txt, val/mine/ - remove it from there"):
            run_prepare(shelf, tmp_path, folder=tmp_path / "no archives")
        assert snapshot(tmp_path) == before
    # Once it is gone, the failed verification sends for no archive.
    (dataset.folder / "notes.txt").unlink()
    shutil.rmtree(dataset.folder / "val/mine")
    inode = next(dataset.folder.rglob("*.flac")).stat().st_ino
    assert run_prepare(shelf, tmp_path, folder=tmp_path / "no archives") == dataset
    assert next(dataset.folder.rglob("*.flac")).stat().st_ino == inode
    assert verify([str(dataset.folder)]) == 0


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (s.st_ino, s.st_mtime_ns) for path in folder.rglob("*") for s in [path.stat()]}


def test_a_damaged_set_without_marks_is_mended(shelf, tmp_path: Path):
    dataset = run_prepare(shelf, tmp_path)
    shutil.rmtree(tmp_path / f"{NAME}.parts")
    path = next(dataset.folder.rglob("*.flac"))
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    assert verify([str(dataset.folder)]) == 1
    assert run_prepare(shelf, tmp_path) == dataset
    assert verify([str(dataset.folder)]) == 0
    path.unlink()
    shutil.rmtree(tmp_path / f"{NAME}.parts")
    assert run_prepare(shelf, tmp_path) == dataset
    assert digest_tree(dataset.folder) == dataset.digest


def test_what_is_put_together_is_looked_at_before_it_is_declared_whole(shelf, tmp_path: Path):
    dataset = run_prepare(shelf, tmp_path, "dev-clean")
    description_path(dataset.folder).unlink()
    (dataset.folder / "val/stray").touch()
    with pytest.raises(UserError, match=r"lies in its folder: val/stray - "):
        run_prepare(shelf, tmp_path, "dev-clean")
    assert not is_prepared(dataset.folder)
    (dataset.folder / "val/stray").unlink()
    assert run_prepare(shelf, tmp_path, "dev-clean", folder=tmp_path / "no archives") == dataset


def test_removed_set_is_made_anew(shelf, tmp_path: Path):
    data = tmp_path / "data"
    first = run_prepare(shelf, data, "dev-clean")
    shutil.rmtree(data / NAME)
    assert run_prepare(shelf, data, "dev-clean") == first
    assert digest_tree(data / NAME) == first.digest
    description_path(data / NAME).unlink()
    next((data / NAME).rglob("*.flac")).unlink()
    assert run_prepare(shelf, data, "dev-clean") == first
    assert digest_tree(data / NAME) == first.digest


@pytest.mark.parametrize("mark", [b"", b"{", b"{}\n"])
def test_unreadable_mark_is_made_anew(shelf, tmp_path: Path, mark: bytes):
    first = run_prepare(shelf, tmp_path / "data", "dev-clean")
    description_path(first.folder).unlink()
    (tmp_path / "data" / f"{NAME}.parts" / "dev-clean.jsonl").write_bytes(mark)
    assert run_prepare(shelf, tmp_path / "data", "dev-clean") == first


@pytest.mark.parametrize("step", ["unpack", "_merge", "_write_manifests", "derive_digest", "write_description"])
def test_interrupted_at_any_step_goes_on(shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    data = tmp_path / "data"
    run_prepare(shelf, data, "dev-clean")
    calls = []
    original = getattr(assemble, step)

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == (1 if step in ("derive_digest", "write_description") else 2):
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(assemble, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_prepare(shelf, data, parallel=1)
    assert step == "unpack" or not is_prepared(data / NAME)
    monkeypatch.setattr(assemble, step, original)
    assert run_prepare(shelf, data).digest == digest_tree(data / NAME)


@pytest.mark.parametrize("kill_after_parts", [0, 1, 2])
def test_killed_while_unpacking_goes_on(shelf, tmp_path: Path, kill_after_parts: int):
    table = write_table(shelf[1], tmp_path / "table.json")
    data = tmp_path / "data"
    command = [sys.executable, "-m", "datasets", "download", "all", "--data-dir", data, "--from-dir", shelf[0]]
    command += ["--table", table, "--parallel", "1"]
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
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "prepared in" in done.stderr
    assert read_dataset(data / NAME).digest == digest_tree(data / NAME)


def test_downloaded_by_the_command(shelf, tmp_path: Path):
    table = write_table(shelf[1], tmp_path / "table.json")
    with serve(shelf[0]) as server:
        server.faults.cut_after, server.faults.statuses = [20_000, 30_000], [503]
        command = [sys.executable, "-m", "datasets", "download", "all", "--data-dir", tmp_path / "data"]
        command += ["--table", table, "--base-url", server.url, "--delete-archives", "--deep"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "HTTP 503" in done.stderr
    assert "train: " in done.stderr
    assert list((tmp_path / "data/LibriSpeech_archives").iterdir()) == []
    assert read_dataset(tmp_path / "data" / NAME).digest == digest_tree(tmp_path / "data" / NAME)


def test_archive_damaged_after_it_was_checked_is_fetched_anew(shelf, tmp_path: Path, capfd):
    archive = shelf[1][0]
    store = tmp_path / "data/LibriSpeech_archives"
    store.mkdir(parents=True)
    path = store / archive.wanted.name
    data = bytearray((shelf[0] / archive.wanted.name).read_bytes())
    path.write_bytes(data)
    with serve(shelf[0]) as server:
        options = Options(mirrors=[server.url])
        prepare([archive], shelf[1], tmp_path / "data", options)
        assert server.log == []
        shutil.rmtree(tmp_path / "data" / NAME)
        status = path.stat()
        data[len(data) // 2] ^= 1  # as a disk does it: size and times stay
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        dataset = prepare([archive], shelf[1], tmp_path / "data", options)
        assert server.log == [(archive.wanted.name, None)]
    assert dataset.digest == digest_tree(dataset.folder)
    assert "moved aside to dev-clean.tar.gz.wrong" in capfd.readouterr().err


@pytest.mark.parametrize("argument", [[], ["everything"], ["all", "extra"]])
def test_unknown_sets_show_the_usage(argument: list[str]):
    done = subprocess.run(["sh", ROOT / "script/download_dataset.sh", *argument], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage" in done.stderr
    assert done.stdout == ""


HOSTILE = {
    "../../outside.flac": "leads outside",
    "LibriSpeech/dev-clean/../../../outside": "leads outside",
    "{tmp_path}/outside": "leads outside",
    "LibriSpeech/test-clean/1/2/1-2-0000.flac": "does not belong to dev-clean",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_members_that_lead_outside_are_refused(tmp_path: Path, name: str):
    def add(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name.format(tmp_path=tmp_path))
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))

    archive = build(tmp_path / "brought", "dev-clean", real_chapters(1), extra=add)
    refused(tmp_path, archive, f"refused and nothing of it kept.*{HOSTILE[name]}")
    assert not list(tmp_path.rglob("outside*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes):
    def add(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo("LibriSpeech/dev-clean/84/121123/84-121123-9999.flac")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)

    archive = build(tmp_path / "brought", "dev-clean", real_chapters(1), extra=add)
    refused(tmp_path, archive, r"9999\.flac' is a (link|device)")


@pytest.mark.parametrize("seed", range(4))
def test_any_damage_is_refused_in_words_or_does_not_matter(tmp_path: Path, seed: int):
    """Damage to the tar, in an archive whose published hash fits: what a hash does not keep away."""
    chance = random.Random(seed)
    chapter, utterances = real_chapters(1)[0]
    build(tmp_path, "dev-clean", [(chapter, utterances[:3])])
    path = tmp_path / "dev-clean.tar.gz"
    tar = gzip.decompress(path.read_bytes())
    refusals = 0
    for _ in range(250):
        data = bytearray(tar)
        for _ in range(chance.randint(1, 3)):
            # Headers stand at multiples of 512, and most of what is in one in its first 160 bytes.
            at = 512 * chance.randrange(len(tar) // 512) + chance.randrange(chance.choice([160, 512]))
            size = b"%011o\0" % chance.choice([0, 1, 10**9, 2**33 - 1])
            data[at : at + chance.choice([0, 1, 12, 512])] = chance.choice([b"", chance.randbytes(1), size])
        path.write_bytes(gzip.compress(data, 1))
        try:
            unpack(
                path, published(path, "dev-clean", 3, 1), tmp_path / "work", "flac", lambda n: None, threading.Event()
            )
        except UserError:
            refusals += 1
            assert not (tmp_path / "work" / "dev-clean.unfinished").exists(), "nothing of it is kept"
    assert refusals > 100
    assert {path.name for path in tmp_path.iterdir()} == {"dev-clean.tar.gz", "work"}, "and nothing lies elsewhere"


def last_flac(path: str) -> bool:
    return path.endswith("0002.flac")


EDITS = {
    "missing chapter file": (lambda p, d: None if p.endswith(".trans.txt") else d, r"audio without a transcript: \d+"),
    "missing line": (
        lambda p, d: d.split(b"\n", 1)[1] if p.endswith(".txt") else d,
        r"audio without a transcript: 1 \(",
    ),
    "missing audio": (lambda p, d: None if last_flac(p) else d, "transcripts without their audio: 1"),
    "audio cut short": (lambda p, d: d[:-100] if last_flac(p) else d, r"0002\.flac: the FLAC file"),
    "audio cut in its header": (lambda p, d: d[:30] if last_flac(p) else d, r"0002\.flac: not a FLAC file"),
    "empty audio": (lambda p, d: b"" if last_flac(p) else d, r"0002\.flac: not a FLAC file"),
    "odd characters": (lambda p, d: d.replace(b" ", b" \xc3\xa9", 1) if p.endswith(".txt") else d, "alphabet"),
}


@pytest.mark.parametrize("case", EDITS)
def test_contents_that_do_not_hold_together(tmp_path: Path, case: str):
    edit, match = EDITS[case]
    refused(tmp_path, build(tmp_path / "brought", "dev-clean", real_chapters(1), edit=edit), match)


def test_another_number_of_utterances_than_published(tmp_path: Path):
    good = build(tmp_path / "brought", "dev-clean", real_chapters(1))
    wrong = Archive(**(good.__dict__ | {"utterances": good.utterances + 1}))
    refused(tmp_path, wrong, f"has {good.utterances} utterances, not the published {good.utterances + 1}")


def test_audio_of_another_rate(tmp_path: Path):
    out = io.BytesIO()
    soundfile.write(out, soundfile.read(io.BytesIO(flac_bytes(2000, 1)), dtype="int16")[0], 8_000, format="FLAC")
    archive = build(tmp_path / "brought", "dev-clean", real_chapters(1), audio=lambda u, w: out.getvalue())
    refused(tmp_path, archive, "not 16000 Hz")


@pytest.mark.parametrize("damage", ["flipped", "cut", "other", "not gzip"])
def test_damaged_archives_that_the_user_brought_are_named(shelf, tmp_path: Path, damage: str):
    brought = tmp_path / "brought"
    brought.mkdir()
    archive = shelf[1][0]
    data = bytearray((shelf[0] / archive.wanted.name).read_bytes())
    if damage == "flipped":
        data[-5000] ^= 16
    elif damage == "cut":
        del data[-5000:]
    elif damage == "not gzip":
        data[:2] = b"PK"
    else:
        data = bytearray((shelf[0] / "test-clean.tar.gz").read_bytes())
    (brought / archive.wanted.name).write_bytes(data)
    refused(tmp_path, archive, r"dev-clean\.tar\.gz: this is not the published archive")
    if damage == "cut":  # the right size by chance, in the table's eyes: only the end of the gzip stream tells
        short = published(brought / archive.wanted.name, "dev-clean", archive.utterances, 1)
        refused(tmp_path, short, r"not a tar\.gz archive|ends in the middle")
    assert (brought / archive.wanted.name).read_bytes() == data


def test_missing_brought_archive_is_named(shelf, tmp_path: Path):
    (tmp_path / "brought").mkdir()
    refused(tmp_path, shelf[1][0], r"dev-clean\.tar\.gz: this archive is missing")


def test_deep_check_sees_damage_that_headers_do_not_show(tmp_path: Path):
    def spoil(path: str, data: bytes) -> bytes:
        if not last_flac(path):
            return data
        middle = len(data) // 4
        return data[:middle] + bytes([data[middle] ^ 8]) + data[middle + 1 :]

    long_audio = flac_bytes(60_000, 3)
    archive = build(tmp_path / "brought", "dev-clean", real_chapters(1), audio=lambda u, w: long_audio, edit=spoil)
    shelf = (tmp_path / "brought", [archive])
    run_prepare(shelf, tmp_path / "shallow")  # the archive's hash vouches for it
    with pytest.raises(UserError, match=r"0002\.flac: "):
        run_prepare(shelf, tmp_path / "data", deep=True)
    assert not is_prepared(tmp_path / "data" / NAME)


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["file", "broken link"])
def test_what_lies_in_the_sets_place_is_named_before_the_work(shelf, tmp_path: Path, make):
    make(tmp_path / NAME)
    with pytest.raises(UserError, match="something else lies in the data set's place"):
        run_prepare(shelf, tmp_path)
    assert not list((tmp_path / f"{NAME}.parts").iterdir())


def test_a_set_whose_folder_lies_on_another_disk_is_refused_before_the_work(shelf, tmp_path: Path):
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs /dev/shm as a file system of its own, to be written")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / NAME).symlink_to(elsewhere)
        with pytest.raises(UserError, match="lies on another disk than the data directory"):
            run_prepare(shelf, tmp_path)
    assert not list((tmp_path / f"{NAME}.parts").iterdir())


def test_two_at_once(shelf, tmp_path: Path):
    work = tmp_path / "data" / f"{NAME}.parts"
    work.mkdir(parents=True)
    with assemble._only_one(work), pytest.raises(UserError, match="another process is preparing"):
        run_prepare(shelf, tmp_path / "data")


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 9 * 10**11, 10**11))
    with pytest.raises(UserError, match=r"123\.0 GB of free disk space are needed.*--delete-archives"):
        prepare(PUBLISHED, PUBLISHED, tmp_path, Options(mirrors=["http://127.0.0.1:1/"]))
    monkeypatch.setattr(assemble.fetch, "FRUITLESS_ROUNDS", 1)
    with pytest.raises(UserError, match=r"no mirror gave the archive"):
        prepare(PUBLISHED[:1], PUBLISHED, tmp_path, Options(mirrors=["http://127.0.0.1:1/"], delete_archives=True))


@pytest.mark.root("mount a small file system")
def test_full_disk_while_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    brought = tmp_path / "brought"
    archives = [
        build(
            brought, name, real_chapters(1, offset), audio=lambda utterance, _: flac_bytes(160_000, hash_of(utterance))
        )
        for offset, name in enumerate(("dev-clean", "test-clean"))
    ]
    shelf = (brought, archives)
    data = tmp_path / "data"
    # Half of what the archives hold: FLAC in an archive takes as much as outside.
    size = sum(path.stat().st_size for path in brought.glob("*.tar.gz")) // 2
    with small_disk(data, str(size)):
        with pytest.raises(UserError, match="free disk space are needed"):
            run_prepare(shelf, data)
        # Somebody else fills the disk after the check.
        monkeypatch.setattr(assemble, "_check_space", lambda *a: None)
        with pytest.raises(OSError, match="No space left"):
            run_prepare(shelf, data)
        assert not is_prepared(data / NAME)
        subprocess.run(["mount", "-o", "remount,size=100m", data], check=True)
        assert run_prepare(shelf, data).digest == digest_tree(data / NAME)


@pytest.mark.root("mount a file system that cannot be written")
def test_read_only_target(shelf, tmp_path: Path):
    data = tmp_path / "data"
    with small_disk(data, "1m"):
        subprocess.run(["mount", "-o", "remount,ro", data], check=True)
        command = [sys.executable, "-m", "datasets", "download", "all", "--data-dir", data, "--from-dir", shelf[0]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2
        assert "choose a folder that can be written" in done.stderr
        assert "Traceback" not in done.stderr
