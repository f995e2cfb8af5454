"""Importing a user's own corpus, and the error for each kind of row that cannot be used."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import EXIT_ERROR, EXIT_OK, UserError, run_cli
from datasets import audio
from datasets.commands import main
from datasets.dataset import is_prepared, read_dataset
from datasets.geometry import ctc_frames_needed
from datasets.imported import _in_processes, import_corpus, left_out_path, network_output_frames
from datasets.manifest import read_csv
from datasets.pack import pack
from tests.conftest import DATA

ROOT = Path(__file__).resolve().parents[2]


def tone(path, seconds=1.0, rate_hz=16000, hz=(440.0,), **options):
    """Write a file with one sine for each channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    soundfile.write(path, np.stack([0.5 * np.sin(2 * np.pi * f * t) for f in hz], axis=1), rate_hz, **options)
    return path


class Corpus:
    """A corpus to import: rows are added to its CSV files as `AUDIO, TRANSCRIPT`."""

    def __init__(self, folder):
        self.folder = folder
        self.csvs = {"train": folder / "train.csv", "val": folder / "val.csv"}
        self.out = folder / "data" / "mine"
        tone(folder / "val.wav")
        self.row("val", "val.wav", text="FINE")

    def row(self, split, audio_path, transcript=None, text=None):
        if transcript is None:
            transcript = f"{Path(audio_path).with_suffix('')}-{split}.txt"
            (self.folder / transcript).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / transcript).write_text(text, encoding="utf-8")
        with open(self.csvs[split], "a", encoding="utf-8") as file:
            file.write(f"{audio_path},{transcript}\n")

    def add_valid(self, split="train", name="valid.wav", text="all is well"):
        tone(self.folder / name)
        self.row(split, name, text=text)

    def import_rows(self, **options):
        return import_corpus(self.csvs, self.out, **{"processes": 1} | options)


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


def spectrum_peak_hz(samples):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return np.argmax(spectrum) * 16000 / len(samples)


def test_a_corpus_in_a_folder_whose_name_is_not_utf8(corpus, tmp_path):
    corpus.add_valid()
    # Absolute, so that each row has the whole path.
    elsewhere = tmp_path.with_name(os.fsdecode(b"caf\xe9"))
    tmp_path.rename(elsewhere)
    csvs = {split: elsewhere / path.name for split, path in corpus.csvs.items()}
    dataset = import_corpus(csvs, elsewhere / "mine", processes=1)
    assert pack(dataset, processes=1) == elsewhere / "mine.packed"
    assert os.fsencode(elsewhere / "valid.wav") in (elsewhere / "mine.sources.csv").read_bytes()


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "new\nline"])
def test_an_unprintable_name_is_rejected(corpus, name):
    corpus.add_valid()
    with pytest.raises(UserError, match="cannot be a dataset's name"):
        corpus.import_rows(name=name)
    corpus.out = corpus.out.with_name(name)
    with pytest.raises(UserError, match="cannot be a dataset's name"):
        corpus.import_rows()


def test_any_rate_and_any_channels_become_16_khz_mono_flac(corpus):
    files = {
        "a.wav": dict(rate_hz=44100, hz=(300.0, 300.0)),
        "b.flac": dict(rate_hz=8000, hz=(500.0,)),
        "c.wav": dict(rate_hz=16000, hz=(700.0,) * 6, subtype="FLOAT"),
        "d.wav": dict(rate_hz=48000, hz=(900.0,), subtype="PCM_24"),
        "e.wav": dict(rate_hz=11025, hz=(1100.0,), subtype="PCM_U8"),
    }
    for name, options in files.items():
        tone(corpus.folder / name, **options)
        corpus.row("train", name, text="it is  on\n")
    dataset = corpus.import_rows()
    found = sorted(dataset.manifest("train"), key=lambda u: u.id)
    for (name, options), utterance in zip(files.items(), found, strict=True):
        info = soundfile.info(dataset.folder / utterance.audio)
        assert (info.format, info.subtype, info.channels, info.samplerate) == ("FLAC", "PCM_16", 1, 16000), name
        samples, _ = soundfile.read(dataset.folder / utterance.audio)
        assert utterance.duration_s == pytest.approx(1.0, abs=0.001) and utterance.text == "IT IS ON"
        assert spectrum_peak_hz(samples) == pytest.approx(options["hz"][0], abs=2)
        assert np.abs(samples[2000:-2000]).max() == pytest.approx(0.5, abs=0.02)


def test_channels_are_mixed_not_chosen(corpus):
    t = np.arange(16000) / 16000
    left = 0.5 * np.sin(2 * np.pi * 440 * t)
    soundfile.write(corpus.folder / "x.wav", np.stack([left, np.zeros_like(left)], axis=1), 16000)
    corpus.row("train", "x.wav", text="half")
    dataset = corpus.import_rows()
    samples, _ = soundfile.read(dataset.manifest("train").audio_path(dataset.manifest("train").utterances[0]))
    assert np.allclose(samples, left / 2, atol=1e-4)


def test_16_bit_16_khz_speech_is_kept_bit_for_bit(corpus):
    samples = np.random.default_rng(1).integers(-32768, 32768, 16000, dtype=np.int16)
    soundfile.write(corpus.folder / "x.wav", samples, 16000)
    corpus.row("train", "x.wav", text="noise")
    dataset = corpus.import_rows()
    utterance = dataset.manifest("train").utterances[0]
    assert np.array_equal(soundfile.read(dataset.folder / utterance.audio, dtype="int16")[0], samples)


def test_the_result_is_a_prepared_dataset(corpus):
    corpus.add_valid()
    dataset = corpus.import_rows(name="My corpus")
    assert is_prepared(corpus.out) and read_dataset(corpus.out) == dataset
    assert dataset.name == "My corpus" and dataset.layout == "LibriSpeech"
    utterance = dataset.manifest("train").utterances[0]
    assert utterance.audio == "train/1/1/1-1-0000.flac"
    assert (dataset.folder / "train/1/1/1-1.trans.txt").read_text() == "1-1-0000 ALL IS WELL\n"
    (_, audio_path, transcript), *_ = read_csv(dataset.folder / "mine_train_manifest.csv")
    assert audio_path == dataset.folder / utterance.audio and transcript.is_file()
    sources = (corpus.out.parent / "mine.sources.csv").read_text().splitlines()
    assert sources == [f"1-1-0000,{corpus.folder / 'valid.wav'}", f"2-1-0000,{corpus.folder / 'val.wav'}"]
    assert not (corpus.out.parent / ".mine.part").exists()


def test_the_result_can_be_imported_again(corpus):
    corpus.add_valid()
    dataset = corpus.import_rows()
    csvs = {split: dataset.folder / entry.csv for split, entry in dataset.splits.items()}
    again = import_corpus(csvs, corpus.folder / "again" / "mine", processes=1)
    assert again.digest == dataset.digest


def test_equal_file_names_in_different_folders_are_distinct(corpus):
    for folder, hz in (("a", 300.0), ("b", 800.0)):
        tone(corpus.folder / folder / "x.wav", hz=(hz,))
        corpus.row("train", f"{folder}/x.wav", text=f"from {folder}")
    manifest = corpus.import_rows().manifest("train")
    peaks = {u.text: spectrum_peak_hz(soundfile.read(manifest.audio_path(u))[0]) for u in manifest}
    assert peaks == {"FROM A": pytest.approx(300, abs=2), "FROM B": pytest.approx(800, abs=2)}


def test_a_chapter_file_gives_each_recording_its_line(corpus):
    (corpus.folder / "7-8.trans.txt").write_text("7-8-0000 FIRST ONE\n7-8-0001 SECOND ONE\n")
    for number in (1, 0):
        tone(corpus.folder / f"7-8-000{number}.flac")
        corpus.row("train", f"7-8-000{number}.flac", "7-8.trans.txt")
    found = {u.id: u.text for u in corpus.import_rows().manifest("train")}
    assert found == {"1-1-0000": "SECOND ONE", "1-1-0001": "FIRST ONE"}


def test_any_number_of_processes_gives_the_same_bytes(corpus):
    for number in range(40):
        corpus.add_valid(name=f"{number}.wav", text="same " * (number % 3 + 1))
    one = corpus.import_rows()
    two = import_corpus(corpus.csvs, corpus.folder / "two" / "mine", processes=2)
    assert one.digest == two.digest


# Errors.


def damaged(change):
    def make(corpus):
        path = tone(corpus.folder / "bad.wav", rate_hz=8000)
        path.write_bytes(change(path.read_bytes()))
        corpus.row("train", "bad.wav", text="bad")

    return make


def damaged_flac(change):
    def make(corpus):
        path = corpus.folder / "bad.flac"
        soundfile.write(path, np.random.default_rng(0).normal(size=16000) * 0.1, 16000)
        path.write_bytes(change(path.read_bytes()))
        corpus.row("train", "bad.flac", text="bad")

    return make


def transcript(content):
    def make(corpus):
        tone(corpus.folder / "bad.wav")
        (corpus.folder / "bad.txt").write_bytes(content)
        corpus.row("train", "bad.wav", "bad.txt")

    return make


def chapter(content):
    def make(corpus):
        tone(corpus.folder / "bad.wav")
        (corpus.folder / "bad.trans.txt").write_text(content)
        corpus.row("train", "bad.wav", "bad.trans.txt")

    return make


def sound(samples, subtype=None, text="bad"):
    def make(corpus):
        soundfile.write(corpus.folder / "bad.wav", np.asarray(samples), 16000, subtype=subtype)
        corpus.row("train", "bad.wav", text=text)

    return make


def missing(corpus):
    corpus.row("train", "none.wav", text="bad")


def folder_for_audio(corpus):
    (corpus.folder / "bad.wav").mkdir()
    corpus.row("train", "bad.wav", text="bad")


def pipe_for_audio(corpus):
    os.mkfifo(corpus.folder / "bad.wav")
    corpus.row("train", "bad.wav", text="bad")


def same_audio_twice(corpus):
    (corpus.folder / "link.wav").symlink_to(corpus.folder / "valid.wav")
    corpus.row("train", "link.wav", text="again")


def no_transcript(corpus):
    tone(corpus.folder / "bad.wav")
    corpus.row("train", "bad.wav", "none.txt")


ERRORS = {
    "unknown character": (transcript(b"caf\xc3\xa9 3"), r"'3' 'É'"),
    "empty transcript": (transcript(b" \n"), "transcript is empty"),
    "binary transcript": (transcript(b"\xff\xfe\x00"), "not text in UTF-8"),
    "no transcript": (no_transcript, "no such transcript"),
    "no line in the chapter": (chapter("other WORDS\n"), "no line for bad"),
    "two lines in the chapter": (chapter("bad ONE\nbad TWO\n"), "second line for bad"),
    "missing audio": (missing, "no such audio file"),
    "a folder": (folder_for_audio, "no such audio file"),
    "a pipe": (pipe_for_audio, "no such audio file"),
    "empty file": (damaged(lambda _: b""), "neither FLAC nor WAV"),
    "not audio": (damaged(lambda _: os.urandom(3000)), "neither FLAC nor WAV"),
    "no samples": (sound([]), "audio is empty"),
    "half a header": (damaged(lambda data: data[:30]), "cannot be read"),
    "truncated WAV": (damaged(lambda data: data[:-1000]), "truncated: 15000 of 16000 bytes"),
    "truncated FLAC": (damaged_flac(lambda data: data[:-5000]), "cannot be read|truncated"),
    "flipped bits": (
        damaged_flac(lambda data: data[:9000] + bytes([data[9000] ^ 255]) + data[9001:]),
        "cannot be read",
    ),
    "too short": (sound(np.full(6000, 0.1)), "too short: 0.38 s"),
    "silent": (sound(np.zeros(16000)), "silent"),
    "not numbers": (sound([0.1, np.nan] * 8000, "FLOAT"), "not finite numbers"),
    "too long": (sound(np.full(16000 * 121, 0.1)), "longer than 120 s"),
    "too many words": (sound(np.full(8000, 0.1), text="far too much for half a second"), "are too many for 0.50 s"),
    "the same audio twice": (same_audio_twice, r"is already in .*train.csv:1"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_a_row_that_cannot_be_used_is_named_or_left_out(corpus, error):
    make, message = ERRORS[error]
    corpus.add_valid()
    make(corpus)
    corpus.add_valid(name="last.wav")
    with pytest.raises(UserError, match=message) as caught:
        corpus.import_rows()
    assert caught.value.where == f"{corpus.csvs['train']}:2" and caught.value.remedy
    assert not corpus.out.exists() and not is_prepared(corpus.out)

    dataset = corpus.import_rows(skip_bad=True)
    assert [u.id for u in sorted(dataset.manifest("train"), key=lambda u: u.id)] == ["1-1-0000", "1-1-0002"]
    (line,) = left_out_path(corpus.out).read_text().splitlines()
    assert line.startswith(f"{corpus.csvs['train']}:2: ")
    assert dataset.provenance["left_out"] == 1


def test_audio_in_both_splits_is_rejected(corpus):
    corpus.add_valid()
    corpus.row("val", "valid.wav", text="seen")
    with pytest.raises(UserError, match="is already in") as caught:
        corpus.import_rows()
    assert caught.value.where == f"{corpus.csvs['val']}:2"


def test_an_import_without_usable_rows_is_an_error(corpus):
    missing(corpus)
    with pytest.raises(UserError, match="no usable row is left"):
        corpus.import_rows(skip_bad=True)
    assert not corpus.out.exists()


def test_an_empty_or_missing_csv_is_an_error(corpus):
    with pytest.raises(UserError, match="no such manifest"):
        corpus.import_rows()
    corpus.csvs["train"].write_text("\n")
    with pytest.raises(UserError, match="no rows"):
        corpus.import_rows()


def test_a_malformed_row_is_never_skipped(corpus):
    corpus.add_valid()
    with open(corpus.csvs["train"], "a") as file:
        file.write("one column\n")
    with pytest.raises(UserError, match="two columns"):
        corpus.import_rows(skip_bad=True)


def test_an_existing_folder_is_not_changed(corpus):
    corpus.add_valid()
    corpus.out.mkdir(parents=True)
    with pytest.raises(UserError, match="already"):
        corpus.import_rows()


def test_a_complete_import_removes_an_older_list_of_rows_left_out(corpus):
    corpus.add_valid()
    corpus.out.parent.mkdir(parents=True)
    left_out_path(corpus.out).write_text("old")
    corpus.import_rows()
    assert not left_out_path(corpus.out).exists()


def test_an_interrupted_import_leaves_no_dataset_and_the_next_one_starts_clean(corpus, monkeypatch):
    corpus.add_valid()

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("datasets.imported._write_split", stop)
        with pytest.raises(KeyboardInterrupt):
            corpus.import_rows()
    assert not corpus.out.exists()
    stray = corpus.out.parent / ".mine.part" / "tree" / "stray"
    stray.write_text("x")
    dataset = corpus.import_rows()
    assert not (dataset.folder / "stray").exists()


def test_a_text_needs_as_many_output_frames_as_ctc_requires():
    assert ctc_frames_needed("SEEN") == 5 and ctc_frames_needed("A") == 1
    assert network_output_frames(160 * 30) == 1 and network_output_frames(160 * 30 - 1) == 0


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_audio_is_read_or_rejected(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    kind = data.draw(st.sampled_from(["wav", "flac"]))
    path = tone(folder / f"fuzz.{kind}", seconds=0.05, rate_hz=8000)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        samples, rate_hz = audio.read(path)
    except UserError:
        return
    assert samples.ndim == 2 and len(samples) and np.isfinite(samples).all() and rate_hz > 0


def test_a_worker_that_dies_is_a_clear_error():
    with pytest.raises(UserError, match="worker process died"):
        list(_in_processes(os._exit, [9], 1))


# The command, and real speech.


def run_import(*arguments, **options):
    command = [sys.executable, "-m", "datasets", "import", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def test_a_failed_write_is_not_an_error_of_a_row(corpus):
    corpus.add_valid()
    # With a limit on file sizes a write fails in the middle, as with a full disk.
    limit = (9_000, 9_000)
    failed = run_import(
        *["--train", corpus.csvs["train"], "--val", corpus.csvs["val"], "--out", corpus.out, "--skip-bad"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    assert "too large" in failed.stderr.splitlines()[-1]
    assert not corpus.out.exists()


def test_the_command_reports_rows_left_out(corpus, capfd):
    corpus.add_valid()
    missing(corpus)
    files = {"--train": corpus.csvs["train"], "--val": corpus.csvs["val"], "--out": corpus.out}
    arguments = ["import", *(str(each) for option in files.items() for each in option), "--processes", "1"]
    assert run_cli(lambda: main(arguments)) == EXIT_ERROR
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {corpus.csvs['train']}:2: no such audio file")
    assert run_cli(lambda: main([*arguments, "--skip-bad"])) == EXIT_OK
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "mine train: 1 utterances, 1 s\n" in printed.err
    assert f"1 row left out: see {left_out_path(corpus.out)}" in printed.err


def test_real_recordings_are_imported(tmp_path):
    recordings = DATA / "fsdd" / "recordings"
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for split, speakers in (("train", ("george", "jackson", "lucas", "nicolas")), ("val", ("theo", "yweweler"))):
        rows = []
        for path in sorted(recordings.glob("*.wav")):
            digit, speaker, _ = path.stem.split("_")
            if speaker in speakers:
                text = tmp_path / f"{path.stem}.txt"
                text.write_text(words[int(digit)])
                rows.append(f"{path},{text}\n")
        (tmp_path / f"{split}.csv").write_text("".join(rows))
    csvs = {split: tmp_path / f"{split}.csv" for split in ("train", "val")}
    dataset = import_corpus(csvs, tmp_path / "digits", skip_bad=True)
    left_out = left_out_path(tmp_path / "digits").read_text().splitlines()
    assert len(dataset.manifest("train")) + len(dataset.manifest("val")) + len(left_out) == 6 * 10
    # Single digits are short: all rows left out are too short.
    assert len(dataset.manifest("train")) > 20
    assert all("too short" in line or "too many for" in line for line in left_out)
