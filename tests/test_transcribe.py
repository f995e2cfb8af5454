"""Text for any file: every rate and number of channels, long ones in pieces, and files that are no audio."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile
import torch

from datasets.errors import UserError
from reference_model import transcribe
from reference_model.checkpoint import load_trained
from reference_model.checkpoint_file import checkpoint_path
from reference_model.export_onnx import export
from reference_model.locate import find_clips
from reference_model.opened_engine import open_engine
from reference_model.train import main as train
from tests.corpus import speak, tiny_corpus, tiny_params

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that has learnt the tones of the tiny corpus."""
    top = tmp_path_factory.mktemp("transcribe")
    corpus = tiny_corpus(top / "tiny", train=48, val=4)
    tiny_params(top / "params.yaml", model__rnn_hidden=32, train__max_epochs=2)
    command = ["--params", str(top / "params.yaml"), "--data", str(corpus.folder), "--run-dir", str(top)]
    train([*command, "--seed", "1", "--device", "cpu", "--epochs", "6"])
    return checkpoint_path(top, 6)


def say(text: str, seed: int = 5) -> np.ndarray:
    return speak(text, np.random.default_rng(seed))


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_any_rate_comes_in_as_the_same_sound(tmp_path, rate_hz):
    time_s = np.arange(rate_hz * 12) / rate_hz
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 440 * time_s), rate_hz)
    audio = transcribe.read_16k(tmp_path / "tone.wav")
    assert audio.dtype == np.float32
    assert abs(len(audio) - 12 * 16_000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(audio)) / 16_000)
    assert np.abs(audio - expected)[400:-400].max() < 0.01


def test_channels_are_averaged(tmp_path):
    left, right = np.full(16_000, 0.5), np.full(16_000, -0.1)
    soundfile.write(tmp_path / "two.flac", np.stack([left, right], 1), 16_000)
    np.testing.assert_allclose(transcribe.read_16k(tmp_path / "two.flac"), 0.2, atol=1e-4)


def test_long_audio_is_cut_where_it_is_quiet_and_nothing_is_lost():
    rng = np.random.default_rng(0)
    audio = (0.3 * rng.standard_normal(16_000 * 70)).astype(np.float32)
    for quiet_s in (25, 47):
        audio[quiet_s * 16_000 : (quiet_s + 1) * 16_000] *= 0.001
    pieces = transcribe.cut(audio, 30.0)
    assert np.array_equal(np.concatenate(pieces), audio)
    ends_s = np.cumsum([len(piece) for piece in pieces]) / 16_000
    assert 25 <= ends_s[0] <= 26
    assert 47 <= ends_s[1] <= 48
    assert max(len(piece) for piece in pieces) <= 30 * 16_000
    assert [len(piece) for piece in transcribe.cut(audio[:1000], 30.0)] == [1000]
    assert max(map(len, transcribe.cut(np.zeros(16_000 * 100, np.float32), 30.0))) <= 30 * 16_000


def test_a_file_of_another_rate_reads_as_the_original(trained, tmp_path, capsys):
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


def test_pieces_come_in_order_whatever_their_lengths(trained):
    """Long, short, middling: batches are sorted by length, the text is not."""
    opened = open_engine(trained, "auto", CPU)
    parts = [say("BAD CAB DAB FEED", 1), say("ACE", 2), say("CAB FEED", 3)]
    gap = np.zeros(8_000, np.float32)
    alone = " ".join(transcribe.transcribe(np.concatenate([part, gap]), opened) for part in parts)
    whole = np.concatenate([np.concatenate([part, gap]) for part in parts])
    pieces = [np.concatenate([part, gap]) for part in parts]
    original = transcribe.cut
    try:
        transcribe.cut = lambda audio, longest_s: pieces
        assert transcribe.transcribe(whole, opened).split() == alone.split()
    finally:
        transcribe.cut = original


def test_a_moment_of_sound_is_no_text_and_no_error(trained):
    assert transcribe.transcribe(np.zeros(50, np.float32), open_engine(trained, "auto", CPU)) == ""


def test_a_name_that_is_not_utf8_is_no_fault(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    path = folder / os.fsdecode(b"\xff.wav")
    soundfile.write(os.fsencode(path), say("BAD CAB"), 16_000)
    samples = len(transcribe.read_16k(path))
    (folder / "said.txt").write_text("BAD CAB")
    path.rename(folder / "said.wav")
    (folder / "list.csv").write_text("said.wav,said.txt\n")
    (utterance,) = find_clips(str(folder / "list.csv"), None, tmp_path, print).manifest.utterances
    assert round(utterance.duration_s * 16_000) == samples > 0
    (folder / "said.wav").write_text("text")
    with pytest.raises(UserError, match=r"cannot be read \(Format not recognised\)"):
        find_clips(str(folder / "list.csv"), None, tmp_path, print)


def test_what_is_no_audio_is_named(trained, tmp_path):
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "whole.flac", say("BAD CAB FEED"), 16_000)
    (tmp_path / "short.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:3000])
    for name in ("text.wav", "empty.wav", "nan.wav", "short.flac", "missing.wav"):
        with pytest.raises(UserError, match=name):
            transcribe.read_16k(tmp_path / name)
