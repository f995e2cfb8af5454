"""The synthesised corpora: their contents, their reproducibility, and resuming after an interruption."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.errors import UserError
from datasets import audio
from datasets.commands import main
from datasets.corpora import SIZES, Sizes
from datasets.dataset import is_prepared, read_dataset
from datasets.manifest import ALPHABET, read_csv
from datasets.synthesis import grammar, plans
from datasets.synthesis.grammar import TRAIN, VAL
from datasets.synthesis.synthesise import synthesise
from datasets.synthesis.voices import Synthesiser, draw_speaker
from datasets.synthesis.workers import deferred_signals, map_in_fresh_processes
from results.dataset_check.verify import main as verify

ROOT = Path(__file__).resolve().parents[2]
MINI = plans.mini()


def part_of(corpus, train, val, each):
    """A small corpus of the same kind: the first utterances of the first chapters of each split."""
    chapters = [c for c in corpus.chapters if c.split == TRAIN][:train]
    chapters += [c for c in corpus.chapters if c.split == VAL][:val]
    short = [dataclasses.replace(c, texts=c.texts[:each], lengths_s=c.lengths_s[:each]) for c in chapters]
    return dataclasses.replace(corpus, chapters=tuple(short))


SMALL = part_of(MINI, 4, 2, 3)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return synthesise(SMALL, tmp_path_factory.mktemp("small"), processes=1)


# The contents of mini.


def texts(split):
    return [text for chapter in MINI.chapters if chapter.split == split for text in chapter.texts]


def test_mini_has_the_documented_size():
    assert len(grammar.mini().words()) >= 240
    assert len({word for text in texts(TRAIN) for word in text.split()}) >= 240
    assert 1600 <= len(texts(TRAIN)) <= 2400 and len(texts(VAL)) >= 300
    assert len({c.speaker.id for c in MINI.chapters if c.split == TRAIN}) == 80
    assert len({c.speaker.id for c in MINI.chapters if c.split == VAL}) >= 12
    assert {len(text.split()) for text in texts(TRAIN)} <= set(range(2, 7))


def test_no_validation_sentence_or_speaker_occurs_in_training():
    assert not set(texts(TRAIN)) & set(texts(VAL))
    assert len(set(texts(TRAIN))) == len(texts(TRAIN)) and len(set(texts(VAL))) == len(texts(VAL))
    voices = {split: {_voice(c.speaker) for c in MINI.chapters if c.split == split} for split in (TRAIN, VAL)}
    assert len(voices[TRAIN]) == 80 and not voices[TRAIN] & voices[VAL]


def _voice(speaker):
    return dataclasses.replace(speaker, id="")


def test_every_validation_word_occurs_often_in_training():
    trained = Counter(word for text in texts(TRAIN) for word in text.split())
    assert min(trained[word] for text in texts(VAL) for word in text.split()) >= 10


def test_both_sexes_speak_in_both_splits():
    for split in (TRAIN, VAL):
        sexes = Counter(c.speaker.sex for c in MINI.chapters if c.split == split)
        assert sexes["female"] == sexes["male"]


def test_mini_made_before_the_large_grammar_changed_is_accepted(tmp_path, small):
    """Its fingerprint used to include that grammar; such a folder need not be made again."""
    data = tmp_path / "data"
    shutil.copytree(small.folder.parent, data)
    description = data / "mini.dataset.json"
    tree = json.loads(description.read_bytes())
    assert tree["provenance"]["fingerprint"] not in plans.EQUIVALENT_FINGERPRINTS
    tree["provenance"]["fingerprint"] = next(iter(plans.EQUIVALENT_FINGERPRINTS))
    description.write_text(json.dumps(tree))
    assert synthesise(SMALL, data).digest == small.digest
    tree["provenance"]["fingerprint"] = "0" * 64
    description.write_text(json.dumps(tree))
    with pytest.raises(UserError, match="made by another version of the benchmark - keep it, or remove it"):
        synthesise(SMALL, data)


def test_the_large_grammar_has_thousands_of_words_and_a_sentence_belongs_to_one_split():
    words, some = grammar.full().words(), grammar.full(0.05)
    assert len(words) > 8000 and 1000 < len(some.words()) < 1500 and some.words() < words
    assert all(set(word) <= ALPHABET for word in words | grammar.mini().words())
    train, val = grammar.Sentences(some, "a"), grammar.Sentences(some, "b")
    drawn = {train.draw(TRAIN) for _ in range(3000)}, {val.draw(VAL) for _ in range(3000)}
    assert not drawn[0] & drawn[1]
    assert {word for sentence in drawn[0] for word in sentence.split()} == some.words()


# The layout of a synthesised corpus.


def test_the_layout_is_that_of_librispeech(small):
    for split in (TRAIN, VAL):
        for utterance in small.manifest(split):
            speaker, chapter, _ = utterance.id.split("-")
            path = small.folder / utterance.audio
            assert utterance.audio == f"{split}/{speaker}/{chapter}/{utterance.id}.flac"
            info = soundfile.info(path)
            assert (info.format, info.subtype, info.channels, info.samplerate) == ("FLAC", "PCM_16", 1, 16000)
            assert info.frames / 16000 == pytest.approx(utterance.duration_s, abs=1e-6)
            transcript = path.with_name(f"{speaker}-{chapter}.trans.txt").read_text().splitlines()
            assert f"{utterance.id} {utterance.text}" in transcript


def test_both_manifests_name_the_same_files(small):
    for split, entry in small.splits.items():
        rows = list(read_csv(small.folder / entry.csv))
        manifest = small.manifest(split)
        assert entry.csv == f"mini_{split}_manifest.csv"
        assert [path for _, path, _ in rows] == [manifest.audio_path(u) for u in manifest]
        assert all(transcript.is_file() for _, _, transcript in rows)
        assert entry.utterances == len(rows) and entry.duration_s == pytest.approx(manifest.duration_s)


def test_speech_is_audible_and_not_clipped(small):
    for utterance in small.manifest(TRAIN):
        samples, _ = soundfile.read(small.folder / utterance.audio, dtype="int16")
        assert 3000 < np.abs(samples.astype(int)).max() < 32767
        assert 0.2 < utterance.duration_s / len(utterance.text.split()) < 1.2


# Reproducibility.


def test_any_number_of_processes_gives_the_same_bytes(small, tmp_path):
    assert synthesise(SMALL, tmp_path, processes=2).digest == small.digest


def test_the_order_of_chapters_does_not_change_their_bytes(small, tmp_path):
    backwards = dataclasses.replace(SMALL, chapters=SMALL.chapters[::-1])
    assert synthesise(backwards, tmp_path, processes=1).digest == small.digest


def test_a_damaged_corpus_does_not_count_as_prepared(small, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(small.folder.parent, data)
    assert synthesise(SMALL, data, processes=1).digest == small.digest
    next((data / SMALL.name).rglob("*.flac")).unlink()
    assert verify([str(data / SMALL.name)]) == 1
    with pytest.raises(UserError, match=r"this corpus is damaged: .* - remove it \(rm -r ") as caught:
        synthesise(SMALL, data, processes=1)
    # The remedy works repeatedly: the verification stamp does not apply to the new corpus.
    subprocess.run(re.search(r"\((rm -r .*)\)", caught.value.remedy)[1], shell=True, check=True)
    for _ in range(2):
        assert synthesise(SMALL, data, processes=1).digest == small.digest


def test_the_command_makes_the_reference_mini_once(tmp_path, capfd):
    command = [sys.executable, "-m", "datasets", "synthesise", "mini", "--data-dir", str(tmp_path / "a b")]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0 and made.stdout == ""
    assert "mini train: 1,760 utterances, 43:47 min, 80 speakers" in made.stderr
    assert main(command[3:]) == 0
    assert "already prepared" in capfd.readouterr().err
    digest = read_dataset(tmp_path / "a b" / "mini").digest
    reference = json.loads((ROOT / "datasets" / "references.json").read_text())["mini"]
    if dataclasses.asdict(digest) == reference:
        return
    again = synthesise(MINI, tmp_path / "again", processes=1).digest
    assert digest == again, "two syntheses on this machine differ"
    if platform.machine() != "x86_64":
        pytest.skip("this machine makes its own mini, the same each time; the reference is x86-64's")
    pytest.fail(f"mini has changed: {digest}; raise plans.VERSIONS and renew references.json")


def test_the_first_utterances_of_synthetic_are_those_of_the_reference(tmp_path):
    """Two utterances of the first chapter of each split; the complete corpus takes minutes (the long test below)."""
    first = part_of(plans.synthetic(), 1, 1, 2)
    digest = synthesise(first, tmp_path, processes=2).digest
    known = "79046b66ff5ba43e671044a651bac7c18380f72af1b0b83f979c89478f47079e"
    if digest.tree_sha256 != known and platform.machine() != "x86_64":
        pytest.skip("this machine makes its own synthetic, the same each time; the reference is x86-64's")
    assert digest.tree_sha256 == known, "synthetic has changed: raise plans.VERSIONS and renew references.json"


@pytest.mark.long
def test_the_whole_of_synthetic_is_the_reference(tmp_path):
    digest = synthesise(plans.synthetic(), tmp_path).digest
    assert dataclasses.asdict(digest) == json.loads((ROOT / "datasets" / "references.json").read_text())["synthetic"]


def test_a_voice_depends_only_on_its_seed():
    first, same, other = (_first_words_with(seed) for seed in (7, 7, 8))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def _first_words_with(seed):
    return next(iter(map_in_fresh_processes(_first_words, [seed], 1, __name__)))


def _first_words(seed):
    # A rough voice, because the random numbers control the roughness.
    speaker = dataclasses.replace(draw_speaker("1001", "test"), roughness=7, flutter=20, breath=3)
    with Synthesiser(speaker, seed) as synthesiser:
        return synthesiser.say("hello there")


def test_ctrl_c_is_deferred_until_a_process_has_started():
    done = []
    before = signal.getsignal(signal.SIGINT)

    def start() -> None:
        with deferred_signals():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("the rest of the start")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert done == ["the rest of the start"] and signal.getsignal(signal.SIGINT) is before


# The large corpus.


def test_lengths_have_librispeechs_distribution():
    draws = [plans.length_s(TRAIN, (i + 0.5) / 10_000) for i in range(10_000)]
    assert statistics.mean(draws) == pytest.approx(12.3, abs=0.2) == plans.mean_length_s(TRAIN)
    assert 13.5 <= statistics.median(draws) <= 14.0
    assert sum(10 <= s <= 16.5 for s in draws) > 6500
    assert plans.length_s(TRAIN, 0.0) == pytest.approx(1.3) and 30 < plans.length_s(TRAIN, 1.0) <= 35
    assert statistics.mean(plans.length_s(VAL, (i + 0.5) / 10_000) for i in range(10_000)) < 9


@pytest.mark.parametrize("hours", [5, plans.SYNTHETIC_HOURS])
def test_the_large_plan_has_the_requested_hours_and_speakers(hours):
    corpus = plans.synthetic(hours)
    lengths = [s for c in corpus.chapters if c.split == TRAIN for s in c.lengths_s]
    assert sum(lengths) / 3600 == pytest.approx(hours, rel=0.05)
    speakers = {split: {c.speaker.id for c in corpus.chapters if c.split == split} for split in (TRAIN, VAL)}
    assert len(speakers[TRAIN]) >= 200 and len(speakers[VAL]) >= 30 and not speakers[TRAIN] & speakers[VAL]
    assert len({c.id for c in corpus.chapters}) == len(corpus.chapters)


def test_the_number_of_utterances_of_the_large_corpus_is_recorded():
    counted = Counter()
    for chapter in plans.synthetic().chapters:
        counted[chapter.split] += len(chapter.lengths_s)
    assert SIZES["synthetic"] == Sizes(counted[TRAIN], counted[VAL])


def test_a_smaller_corpus_uses_a_smaller_share_of_the_words():
    shares = {hours: plans.synthetic(hours).chapters[0].words_share for hours in (4, 80, 200)}
    assert shares == {4: 0.05, 80: 1.0, 200: 1.0}


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        ("synthetic-4h", 4.0),
        ("synthetic-0.5h", 0.5),
        ("synthetic", None),
        ("synthetic-80h", None),
        ("synthetic-04h", None),
        ("synthetic-4.0h", None),
        ("synthetic-0h", None),
        ("synthetic-99999h", None),
        ("synthetic-4", None),
        ("my-synthetic-4h", None),
        ("mini", None),
    ],
)
def test_a_corpus_of_another_size_has_its_hours_in_its_name(name, hours):
    assert plans.hours_of(name) == hours
    assert plans.is_synthesised(name) == (hours is not None or name in ("mini", "synthetic"))
    if hours:
        assert plans.synthetic(hours).name == name


def test_utterances_have_the_planned_lengths_up_to_35_s(tmp_path):
    corpus = part_of(plans.synthetic(0.5), 2, 1, 6)
    wanted = [1.3, 2.5, 6.0, 14.0, 16.0, 34.9]
    chapters = [dataclasses.replace(c, lengths_s=tuple(wanted), snr_db=(20.0,) * 6) for c in corpus.chapters]
    dataset = synthesise(dataclasses.replace(corpus, chapters=tuple(chapters)), tmp_path)
    for utterance in [*dataset.manifest(TRAIN), *dataset.manifest(VAL)]:
        assert abs(utterance.duration_s - wanted[int(utterance.id[-4:])]) < 3.5
        assert utterance.duration_s <= 35.0
    assert set(" ".join(u.text for u in dataset.manifest(TRAIN)).split()) <= grammar.full().words()


# Resuming, and obstacles.

PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from common.errors import run_cli
from tests.datasets.test_synthetic import MINI, part_of, synthesise
sys.exit(run_cli(lambda: synthesise(part_of(MINI, 20, 4, 8), {data!r}, 1) and 0))
"""


def start_synthesis(data, **options):
    code = PROGRAM.format(root=str(ROOT), data=str(data))
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **options)


def wait_for_chapters(data, process, count):
    done = data / ".mini.part" / "done"
    while process.poll() is None and len(list(done.glob("*.json"))) < count:
        time.sleep(0.005)
    assert process.poll() is None, process.stderr.read()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return synthesise(part_of(MINI, 20, 4, 8), tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_synthesis_leaves_no_dataset_and_is_resumed(tmp_path, number, uninterrupted):
    process = start_synthesis(tmp_path)
    wait_for_chapters(tmp_path, process, 3)
    process.send_signal(number)
    printed = process.communicate()[1]
    # If it is killed, only Python's fork server can print a traceback, when its parent ends during a request.
    assert "Traceback" not in printed or (number != signal.SIGINT and "forkserver.py" in printed)
    if number == signal.SIGINT:
        assert process.returncode == 2 and printed.splitlines()[-1] == "error: interrupted"
    assert not is_prepared(tmp_path / "mini") and not (tmp_path / "mini").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".mini.part" / "done").glob("*.json")}
    _wait_for_workers(tmp_path)
    assert synthesise(part_of(MINI, 20, 4, 8), tmp_path).digest == uninterrupted.digest
    assert len(kept) >= 3 and not (tmp_path / ".mini.part").exists()


def _wait_for_workers(data):
    """A worker of a killed parent may still be writing its last chapter."""
    done = data / ".mini.part" / "done"
    before = -1
    while before != (before := len(list(done.iterdir()))):
        time.sleep(0.3)


def test_files_damaged_after_an_interruption_are_made_again(small, tmp_path):
    class StopError(Exception):
        pass

    def stop(*_):
        raise StopError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.synthesis.synthesise._write_manifests", stop)
        with pytest.raises(StopError):
            synthesise(SMALL, tmp_path, 1)
    tree = tmp_path / ".mini.part" / "tree"
    flacs, transcripts = sorted(tree.rglob("*.flac")), sorted(tree.rglob("*.trans.txt"))
    flacs[0].write_bytes(b"")
    flacs[-1].unlink()
    transcripts[1].write_text("")
    transcripts[2].unlink()
    assert synthesise(SMALL, tmp_path, 1).digest == small.digest


def test_files_of_another_plan_are_deleted(small, tmp_path):
    tree = tmp_path / ".mini.part" / "tree"
    tree.mkdir(parents=True)
    (tree / "stray.flac").write_bytes(b"x")
    (tmp_path / ".mini.part" / "fingerprint").write_text("of another plan")
    assert synthesise(SMALL, tmp_path, 1).digest == small.digest


def test_an_interruption_between_the_move_and_the_description_is_repaired(small, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.synthesis.synthesise.write_description", stop)
        with pytest.raises(KeyboardInterrupt):
            synthesise(SMALL, tmp_path, 1)
    assert (tmp_path / "mini").is_dir() and not is_prepared(tmp_path / "mini")
    assert synthesise(SMALL, tmp_path, 1).digest == small.digest


def test_a_prepared_corpus_is_not_changed(small, capsys):
    before = {path: path.stat().st_mtime_ns for path in small.folder.rglob("*")}
    assert synthesise(SMALL, small.folder.parent) == read_dataset(small.folder)
    assert {path: path.stat().st_mtime_ns for path in small.folder.rglob("*")} == before
    assert "already prepared" in capsys.readouterr().err


def test_another_corpus_of_the_same_name_is_not_overwritten(small):
    with pytest.raises(UserError, match="another version"):
        synthesise(MINI, small.folder.parent)


def test_a_folder_that_is_not_a_dataset_is_not_changed(tmp_path):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a complete dataset"):
        synthesise(SMALL, tmp_path)
    assert (tmp_path / "mini" / "thesis.txt").read_text() == "years of work"


def test_a_second_process_in_the_same_folder_is_rejected(tmp_path):
    process = start_synthesis(tmp_path)
    wait_for_chapters(tmp_path, process, 1)
    with pytest.raises(UserError, match="another process"):
        synthesise(part_of(MINI, 20, 4, 8), tmp_path)
    process.kill()
    process.communicate()


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match="in the folder's place"):
        synthesise(SMALL, tmp_path / "data")


def test_too_little_disk_space_is_reported_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**5))
    with pytest.raises(UserError, match="too little disk space"):
        synthesise(SMALL, tmp_path)


def test_disk_space_is_needed_only_for_what_is_still_to_be_made(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr("datasets.synthesis.synthesise._write_manifests", interrupt)
        # Enough disk space for these few utterances, not for the whole corpus.
        interrupted.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
        with pytest.raises(KeyboardInterrupt):
            synthesise(SMALL, tmp_path, processes=1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    assert sum(split.utterances for split in synthesise(SMALL, tmp_path).splits.values()) == SMALL.utterances


def test_a_failed_write_is_reported_in_one_line(tmp_path):
    # With a limit on file sizes a write fails in the middle, as with a full disk.
    limit = (12_000, 12_000)
    process = start_synthesis(tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    printed = process.communicate()[1]
    assert process.returncode == 2 and "Traceback" not in printed
    assert printed.splitlines()[-1].startswith("error: ") and "too large" in printed.splitlines()[-1]
    assert not (tmp_path / "mini").exists()


def test_a_worker_that_dies_is_a_clear_error():
    with pytest.raises(UserError, match="worker process died"):
        list(map_in_fresh_processes(os._exit, [9], 1, "os"))


def test_an_error_in_a_worker_keeps_its_location(tmp_path):
    with pytest.raises(UserError) as caught:
        list(map_in_fresh_processes(audio.read, [tmp_path / "none.flac"], 2, "datasets.audio"))
    assert caught.value.where == str(tmp_path / "none.flac")


def test_each_task_runs_in_its_own_process():
    pids = list(map_in_fresh_processes(_pid, range(5), 2, "os"))
    assert len(set(pids)) == 5 and os.getpid() not in pids


def _pid(_):
    return os.getpid()


def test_a_temporary_folder_whose_path_is_too_long_is_reported(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 150)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(UserError, match="too long"):
        Synthesiser(draw_speaker("1001", "test"), 1)
    assert not list(deep.iterdir())
