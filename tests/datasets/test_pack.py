"""Packed audio: the same samples as the files, complete or absent, and never from another dataset."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import orjson
import pytest
import soundfile

from common.errors import EXIT_ERROR, EXIT_FAILED, EXIT_OK, UserError, run_cli
from datasets.commands import main
from datasets.dataset import read_dataset
from datasets.pack import damaged_shards, open_packed, pack, packed_path
from reference_model.data.data_loader import Recordings
from tests.conftest import ROOT
from tests.support.corpus import tiny_corpus, tiny_params

SMALL = 100_000
"""Samples per shard in these tests: a few utterances."""


@pytest.fixture
def corpus(tmp_path):
    return tiny_corpus(tmp_path / "tiny")


def test_packed_audio_is_bit_identical_to_the_files(corpus):
    pack(corpus, processes=2, shard_samples=SMALL)
    assert len(list(packed_path(corpus.folder).glob("train-*.i16"))) > 3
    for split in ("train", "val"):
        manifest = corpus.manifest(split)
        packed = open_packed(corpus, split, manifest)
        for position, utterance in enumerate(manifest):
            audio, _ = soundfile.read(manifest.audio_path(utterance), dtype="float32")
            assert np.array_equal(packed.read(position), audio)
    assert damaged_shards(corpus) == []


def test_batches_are_the_same_packed_or_not(corpus):
    pack(corpus)
    manifest, augment = corpus.manifest("train"), tiny_params(augment__tempo_min=0.9).augment
    batch = np.arange(3, 9)
    from_files = Recordings(manifest, augment, 1)[(2, batch, batch)]
    from_shards = Recordings(manifest, augment, 1, open_packed(corpus, "train", manifest))[(2, batch, batch)]
    assert from_files.waveforms.equal(from_shards.waveforms)


def test_a_dataset_without_packed_audio_opens_none(corpus):
    assert open_packed(corpus, "train", corpus.manifest("train")) is None


def test_packing_does_not_change_the_folder_and_packing_again_does_nothing(corpus):
    before = sorted(path.name for path in corpus.folder.rglob("*"))
    index = pack(corpus) / "index.json"
    written = index.stat().st_mtime_ns
    pack(corpus)
    assert index.stat().st_mtime_ns == written
    assert sorted(path.name for path in corpus.folder.rglob("*")) == before
    assert not list(corpus.folder.parent.glob(".*.part"))


def open_error(corpus) -> str:
    with pytest.raises(UserError) as caught:
        open_packed(corpus, "train", corpus.manifest("train"))
    assert "remove it" in caught.value.remedy
    return caught.value.what


def test_packed_audio_of_another_dataset_is_rejected(corpus):
    pack(corpus)
    index = packed_path(corpus.folder) / "index.json"
    whole = index.read_bytes()
    tree = orjson.loads(whole)
    index.write_bytes(orjson.dumps(tree | {"tree_sha256": "f" * 64}))
    assert "made from other contents" in open_error(corpus)
    index.write_bytes(whole[:50])
    assert "cannot be read" in open_error(corpus)
    index.write_bytes(whole)
    manifest = corpus.folder / corpus.splits["train"].manifest
    manifest.write_bytes(manifest.read_bytes().replace(b"BAD", b"CAB"))
    assert "another manifest" in open_error(corpus)


def test_a_truncated_shard_is_rejected_and_a_flipped_bit_found(corpus):
    pack(corpus)
    shard = packed_path(corpus.folder) / "train-0000.i16"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    assert "truncated" in open_error(corpus)
    shard.write_bytes(whole[:999] + bytes([whole[999] ^ 1]) + whole[1000:])
    assert damaged_shards(corpus) == [shard]
    shard.unlink()
    assert "missing" in open_error(corpus)


@pytest.mark.parametrize(
    "damage",
    [
        lambda shards: shards.clear(),
        lambda shards: shards[0].update(first=10**18),
        lambda shards: shards[0].update(utterances=0),
        lambda shards: shards.append(dict(shards[-1])),
    ],
)
def test_an_index_with_wrong_positions_is_rejected(corpus, damage):
    path = pack(corpus) / "index.json"
    tree = orjson.loads(path.read_bytes())
    damage(tree["splits"]["train"]["shards"])
    path.write_bytes(orjson.dumps(tree))
    with pytest.raises(UserError, match="the index of the packed audio is damaged"):
        open_packed(corpus, "train", corpus.manifest("train"))


@pytest.mark.parametrize("format", ["stereo", "rate", "longer", "24 bits", "garbage"])
def test_unsuitable_audio_is_named_and_nothing_is_packed(corpus, format):
    utterance = next(iter(corpus.manifest("train")))
    path = corpus.folder / utterance.audio
    samples = np.zeros(round(utterance.duration_s * 16_000), np.int16)
    if format == "garbage":
        path.write_bytes(b"no audio")
    elif format == "stereo":
        soundfile.write(path, np.stack([samples, samples], 1), 16_000)
    elif format == "rate":
        soundfile.write(path, samples, 8_000)
    elif format == "24 bits":
        soundfile.write(path, samples, 16_000, subtype="PCM_24")
    else:
        soundfile.write(path, np.append(samples, samples), 16_000)
    with pytest.raises(UserError) as caught:
        pack(corpus)
    assert str(path) in str(caught.value)
    assert not packed_path(corpus.folder).exists()


def test_a_killed_pack_never_looks_complete_and_is_resumed(corpus):
    program = (
        "import sys, time; from pathlib import Path\n"
        "import datasets.pack as pack; from datasets.dataset import read_dataset\n"
        "finished = pack._finished\n"
        "calls = []\n"
        "def slow(task, done):\n"
        "    calls.append(task)\n"
        "    if finished(task, done): time.sleep(60)\n"  # all shards are written, the index is not
        "    return finished(task, done)\n"
        "pack._finished = slow\n"
        f"pack.pack(read_dataset(Path(sys.argv[1])), 1, {SMALL})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(corpus.folder)], cwd=ROOT, start_new_session=True)
    part = corpus.folder.parent / ".tiny.packed.part"
    deadline_s = time.monotonic() + 200
    while len(list((part / "done").glob("*.json")) if part.exists() else []) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not packed_path(corpus.folder).exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (part / "done").glob("*.json")}
    assert kept
    shards = {path.stem: path.stat().st_mtime_ns for path in (part / "tree").glob("*.i16")}
    pack(corpus, shard_samples=SMALL)
    for name in kept:
        assert (packed_path(corpus.folder) / f"{name[:-5]}.i16").stat().st_mtime_ns == shards[name[:-5]]
    assert damaged_shards(corpus) == []


def test_the_command_packs_and_verifies(corpus, capsys):
    def run(*options: str) -> int:
        return run_cli(lambda: main(["pack", str(corpus.folder), *options]))

    assert run() == EXIT_OK
    assert run("--verify") == EXIT_OK
    shard = packed_path(corpus.folder) / "val-0000.i16"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    assert run("--verify") == EXIT_FAILED
    assert str(shard) in capsys.readouterr().err
    shutil.rmtree(packed_path(corpus.folder))
    assert read_dataset(corpus.folder).name == "tiny"
    assert run("--verify") == EXIT_ERROR
    assert capsys.readouterr().err.startswith("error: ")
