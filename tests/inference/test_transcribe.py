"""Transcription of any file: every sample rate and number of channels, long files in pieces, files that are not audio."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from reference_model import transcribe
from reference_model.checkpoints.checkpoint_files import checkpoint_path
from reference_model.checkpoints.loading import load_trained
from reference_model.inference import transcription
from reference_model.inference.audio_input import blocks_16k, pieces
from reference_model.inference.engine_choice import open_engine
from reference_model.inference.locate import find_clips
from reference_model.inference.onnx_conversion import export
from reference_model.model.alphabet import LABELS
from reference_model.model.greedy import greedy_from_labels, greedy_words
from tests.support.corpus import speak, tiny_corpus, tiny_params
from tests.support.training import arguments, train

CPU = torch.device("cpu")
FEATURES = tiny_params().features


def read_16k(path: Path) -> np.ndarray:
    return np.concatenate(list(blocks_16k(str(path))))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network trained on the tones of the tiny corpus."""
    top = tmp_path_factory.mktemp("transcribe")
    corpus = tiny_corpus(top / "tiny", train=48, val=4)
    changes = {"model__rnn_hidden": 32, "train__max_epochs": 2}
    train(arguments(corpus.folder, top, "--epochs", "6", **changes))
    return checkpoint_path(top, 6)


def say(text: str, seed: int = 5) -> np.ndarray:
    return speak(text, np.random.default_rng(seed))


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_any_sample_rate_is_read_as_the_same_sound(tmp_path, rate_hz):
    time_s = np.arange(rate_hz * 12) / rate_hz
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 440 * time_s), rate_hz)
    audio = read_16k(tmp_path / "tone.wav")
    assert audio.dtype == np.float32
    assert abs(len(audio) - 12 * 16_000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(audio)) / 16_000)
    assert np.abs(audio - expected)[400:-400].max() < 0.01


def test_channels_are_averaged(tmp_path):
    left, right = np.full(16_000, 0.5), np.full(16_000, -0.1)
    soundfile.write(tmp_path / "two.flac", np.stack([left, right], 1), 16_000)
    np.testing.assert_allclose(read_16k(tmp_path / "two.flac"), 0.2, atol=1e-4)


def test_long_audio_is_cut_at_quiet_points_without_loss():
    rng = np.random.default_rng(0)
    audio = (0.3 * rng.standard_normal(16_000 * 70)).astype(np.float32)
    for quiet_s in (25, 47):
        audio[quiet_s * 16_000 : (quiet_s + 1) * 16_000] *= 0.001
    cut = list(pieces([audio], 30.0))
    assert np.array_equal(np.concatenate(cut), audio)
    ends_s = np.cumsum([len(piece) for piece in cut]) / 16_000
    assert 25 <= ends_s[0] <= 26
    assert 47 <= ends_s[1] <= 48
    assert max(len(piece) for piece in cut) <= 30 * 16_000
    assert [len(piece) for piece in pieces([audio[:1000]], 30.0)] == [1000]
    assert max(map(len, pieces([np.zeros(16_000 * 100, np.float32)], 30.0))) <= 30 * 16_000
    by_blocks = list(pieces(np.array_split(audio, 173), 30.0))
    assert [len(piece) for piece in by_blocks] == [len(piece) for piece in cut], "however it comes in"


def test_at_most_a_piece_and_a_block_are_in_memory():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield np.zeros(16_000, np.float32)

    cut = pieces(endless(), 30.0)
    for _ in range(5):
        next(cut)
    assert taken <= 5 * 30 + 31


def test_a_file_with_another_rate_gives_the_same_text(trained, tmp_path, capsys):
    import soxr

    audio = say("FEED ACE BAD")
    soundfile.write(tmp_path / "plain.flac", audio, 16_000)
    faster = soxr.resample(audio, 16_000, 44_100)
    soundfile.write(tmp_path / "stereo.wav", np.stack([faster, faster], 1), 44_100)
    export(load_trained(trained), tmp_path / "m.onnx")
    for network in (["--checkpoint", str(trained)], ["--onnx", str(tmp_path / "m.onnx")]):
        files = [str(tmp_path / "plain.flac"), str(tmp_path / "stereo.wav")]
        assert transcribe.main([*files, *network, "--device", "cpu"]) == 0
        lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert [name for name, _ in lines] == files
        assert lines[0][1] == lines[1][1]
        assert len(lines[0][1]) >= 5
    assert transcribe.main([files[0], "--checkpoint", str(trained), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == lines[0][1]


def test_each_piece_has_its_own_text_and_its_own_position(trained):
    opened = open_engine(trained, "auto", CPU)
    parts = [say("BAD CAB DAB FEED", 1), say("ACE", 2), np.zeros(1, np.float32), say("CAB FEED", 3)] * 3
    blocks = [np.concatenate([part, np.zeros(4_000, np.float32)]) for part in parts]
    whole = transcription.transcribe(blocks, opened, piece_s=1.5)
    cut = list(pieces(blocks, 1.5))
    assert len(cut) > transcription.BATCH_SIZE
    alone = [transcription.transcribe([piece], opened) for piece in cut]
    assert [piece.text for piece in whole.pieces] == [each.text for each in alone]
    assert whole.text == " ".join(each.text for each in alone if each.text)
    starts_s = np.cumsum([0, *map(len, cut)]) / 16_000
    assert [piece.start_s for piece in whole.pieces] == pytest.approx(starts_s[:-1], abs=6e-4)
    assert [piece.end_s for piece in whole.pieces] == pytest.approx(starts_s[1:], abs=6e-4)
    for piece, each in zip(whole.pieces, alone, strict=True):
        shifted = [word.start_s + piece.start_s for word in each.pieces[0].words]
        assert [word.start_s for word in piece.words] == pytest.approx(shifted, abs=2e-3)
    assert whole.duration_s == pytest.approx(starts_s[-1], abs=6e-4)


class ConstantEngine:
    """An engine that outputs the same labels for any input."""

    device = CPU

    def __init__(self, labels: str) -> None:
        self.labels = labels

    def __call__(self, features, frames):
        values = torch.zeros(len(self.labels), len(features), len(LABELS))
        for frame, label in enumerate(self.labels):
            values[frame, :, LABELS.index(label)] = 1.0
        return values, torch.full((len(features),), len(self.labels))


def test_words_have_the_times_of_their_letters_frames():
    """An output frame sees 31 feature frames, 10 ms apart, starting at twice its number: its centre is 15 frames later."""
    opened = SimpleNamespace(engine=ConstantEngine("__AA_A  _BB_ "), trained=SimpleNamespace(features=FEATURES))
    transcript = transcription.transcribe([say("BAD CAB FEED")], opened)
    assert transcript.text == "AA B"
    (piece,) = transcript.pieces
    first, second = piece.words
    assert (first.text, second.text) == ("AA", "B")
    assert (first.start_s, first.end_s) == pytest.approx((0.15 + 0.02 * 2 - 0.01, 0.15 + 0.02 * 5 + 0.01))
    assert (second.start_s, second.end_s) == pytest.approx((0.15 + 0.02 * 9 - 0.01, 0.15 + 0.02 * 10 + 0.01))


@settings(deadline=None)
@given(st.text(LABELS, max_size=30))
def test_words_with_frames_are_those_of_the_greedy_text(labels):
    best = np.array([LABELS.index(label) for label in labels], np.int64)
    words = greedy_words(best)
    assert [word for word, _, _ in words] == greedy_from_labels(best[:, None], np.array([len(best)]))[0].split()
    assert all(labels[first] == word[0] and labels[last] == word[-1] for word, first, last in words)
    bounds = [frame for _, first, last in words for frame in (first, last)]
    assert bounds == sorted(bounds)


def test_word_times_match_the_tones(trained):
    """The tiny corpus has 0.15 s of tone per letter; here a second of silence separates two words."""
    audio = np.concatenate([say("FEED"), np.zeros(16_000, np.float32), say("CAB")])
    words = transcription.transcribe([audio], open_engine(trained, "auto", CPU)).pieces[0].words
    assert words[0].start_s < len(say("FEED")) / 16_000
    assert words[-1].end_s > len(audio) / 16_000 - 0.6
    assert all(word.end_s <= len(audio) / 16_000 for word in words)


@pytest.mark.parametrize("form", ["text", "json"])
def test_one_unreadable_file_does_not_stop_the_others(trained, tmp_path, capsys, form):
    soundfile.write(tmp_path / "good.wav", say("FEED ACE BAD"), 16_000)
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "a\nb").mkdir()
    names = ["good.wav", "missing.wav", "a\nb", "text.wav", "good.wav"]
    files = [str(tmp_path / name) for name in names]
    options = ["--json"] if form == "json" else []
    assert transcribe.main([*files, "--checkpoint", str(trained), "--device", "cpu", *options]) == 2
    out, err = capsys.readouterr()
    faults = err.splitlines()
    assert [line.startswith("error: ") for line in faults] == [True] * 3
    for line, name in zip(
        faults, ["missing.wav: no such", "a\\nb: a folder", "text.wav: the audio cannot"], strict=True
    ):
        assert name in line
    if form == "text":
        first, last = out.splitlines()
        assert first == last and first.startswith(files[0] + "\t")
    else:
        lines = [json.loads(line) for line in out.splitlines()]
        assert [each["file"] for each in lines] == files
        assert len({tuple(each) for each in lines}) == 1, "the same fields for every file"
        assert lines[0] == lines[-1] and lines[0]["error"] is None and len(lines[0]["text"]) >= 5
        assert lines[0]["text"] == " ".join(word["text"] for word in lines[0]["pieces"][0]["words"])
        assert "error: " + lines[1]["error"] == faults[0] and lines[1]["text"] is None


def test_the_reason_for_an_empty_text_is_reported(trained, tmp_path, capsys):
    for name, audio in (
        ("short", say("BAD")[:4_799]),
        ("silence", np.zeros(32_000, np.float32)),
        ("dither", np.random.default_rng(0).integers(-1, 2, 32_000) / 32768),
    ):
        soundfile.write(tmp_path / f"{name}.wav", audio, 16_000)
    soundfile.write(tmp_path / "moment.wav", [0.1], 48_000)
    files = [str(tmp_path / f"{name}.wav") for name in ("short", "silence", "dither", "moment")]
    assert transcribe.main([*files, "--checkpoint", str(trained), "--device", "cpu", "--json"]) == 0
    out, err = capsys.readouterr()
    transcripts = [json.loads(line) for line in out.splitlines()]
    assert [each["text"] for each in transcripts] == [""] * 4
    for each, note, why in zip(
        transcripts,
        err.splitlines(),
        ["too short: 0.300 s, the network needs 0.30 s", "silence", "silence", "too short"],
        strict=True,
    ):
        assert each["empty_because"].startswith(why)
        assert note == f"note: {each['file']}: no text: {each['empty_because']}"


def test_an_utterance_without_recognized_letters_has_its_reason():
    opened = SimpleNamespace(engine=ConstantEngine("____ _"), trained=SimpleNamespace(features=FEATURES))
    assert "recognized no letters" in transcription.transcribe([say("BAD")], opened).empty_because


@pytest.mark.parametrize("form", ["WAV", "FLAC", "as sox pipes it", "as ffmpeg pipes it"])
def test_audio_is_read_from_a_pipe(trained, tmp_path, capsys, monkeypatch, form):
    """sox and ffmpeg cannot rewrite a WAV header on a pipe, and leave an impossible length in it."""
    audio = say("FEED ACE BAD")
    sound = io.BytesIO()
    soundfile.write(sound, audio, 16_000, format="FLAC" if form == "FLAC" else "WAV", subtype="PCM_16")
    data = bytearray(sound.getvalue())
    if form.startswith("as"):
        length = 0x7FFFF000 if "sox" in form else 0xFFFFFFFF
        data[4:8] = struct.pack("<I", min(length + 36, 0xFFFFFFFF))
        data[40:44] = struct.pack("<I", length)
    (tmp_path / "plain.wav").write_bytes(sound.getvalue())
    assert transcribe.main([str(tmp_path / "plain.wav"), "--checkpoint", str(trained), "--device", "cpu"]) == 0
    expected = capsys.readouterr().out
    receiving, sending = os.pipe()
    with open(sending, "wb") as pipe, open(receiving) as stdin:
        threading.Thread(target=lambda: (pipe.write(data), pipe.close())).start()
        monkeypatch.setattr(sys, "stdin", stdin)
        assert transcribe.main(["-", "--checkpoint", str(trained), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == expected
    assert expected.strip()


def test_a_named_pipe_is_read_as_well(tmp_path):
    soundfile.write(tmp_path / "a.wav", say("BAD"), 16_000)
    os.mkfifo(tmp_path / "pipe")
    data = (tmp_path / "a.wav").read_bytes()
    threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[data]).start()
    np.testing.assert_array_equal(read_16k(tmp_path / "pipe"), read_16k(tmp_path / "a.wav"))


@pytest.mark.parametrize("stdin", [os.devnull, None])
def test_an_empty_stdin_is_reported(trained, capsys, monkeypatch, stdin):
    monkeypatch.setattr(sys, "stdin", open(stdin) if stdin else None)
    assert transcribe.main(["-", "--checkpoint", str(trained), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: stdin: ")


def test_stdin_can_be_named_once(trained):
    with pytest.raises(UserError, match="once"):
        transcribe.main(["-", "-", "--checkpoint", str(trained), "--device", "cpu"])


def test_a_name_that_is_not_utf8_is_accepted(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    path = folder / os.fsdecode(b"\xff.wav")
    soundfile.write(os.fsencode(path), say("BAD CAB"), 16_000)
    samples = len(read_16k(path))
    (folder / "said.txt").write_text("BAD CAB")
    path.rename(folder / "said.wav")
    (folder / "list.csv").write_text("said.wav,said.txt\n")
    (utterance,) = find_clips(str(folder / "list.csv"), None, tmp_path, print).manifest.utterances
    assert round(utterance.duration_s * 16_000) == samples > 0
    (folder / "said.wav").write_text("text")
    with pytest.raises(UserError, match=r"cannot be read \(Format not recognised\)"):
        find_clips(str(folder / "list.csv"), None, tmp_path, print)


def test_files_that_are_not_audio_are_named(tmp_path):
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "whole.flac", say("BAD CAB FEED"), 16_000)
    (tmp_path / "short.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:3000])
    for name in ("text.wav", "empty.wav", "nan.wav", "short.flac", "missing.wav", "text.wav/below.wav"):
        with pytest.raises(UserError, match=name):
            read_16k(tmp_path / name)
    with pytest.raises(UserError, match="null: not an audio file"):
        read_16k(Path("/dev/null"))
