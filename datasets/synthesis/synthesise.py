"""`python -m datasets synthesise`: the corpora `mini` and `synthetic` in LibriSpeech's layout, reproducible.

A corpus is a plan of chapters (plans.py). Each chapter is spoken in a fresh process (voices.py explains why), so that
neither the number of processes nor an interruption changes the result. The corpus is made in `.NAME.part` next to its
final place, moved there when complete, and its description is written last. After an interruption, finished chapters
are kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import orjson

from common import limits
from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError
from common.files import write_atomically
from common.progress import Progress
from datasets import audio
from datasets.checksums.digest import digest_and_write_sums
from datasets.command_options import add_data_dir, add_processes, report_splits
from datasets.dataset import (
    Dataset,
    Split,
    is_prepared,
    looks_complete,
    read_dataset,
    removal_command,
    write_description,
)
from datasets.manifest import SAMPLE_RATE_HZ, Manifest, Utterance, write_csv, write_jsonl
from datasets.staging import check_disk_space, staging
from datasets.synthesis import plans
from datasets.synthesis.noise import add_background
from datasets.synthesis.plans import Chapter, Corpus
from datasets.synthesis.voices import Synthesiser
from datasets.synthesis.workers import map_in_fresh_processes

# The network gives no output for the first and last 0.15 s of an utterance, and recordings also start and end with
# silence.
SILENCE_S = 0.08
PAUSE_S = 0.15
BYTES_PER_S = 26_000
"""Upper estimate of the disk space for a second of speech."""
TEXT_S = 2.0
"""Upper estimate of the mean length of `mini`'s utterances, which is not known before they are spoken."""


def synthesise(corpus: Corpus, data_dir: Path, processes: int | None = None) -> Dataset:
    """Make `corpus` in `data_dir` and return its description; if it is already there, report that and do nothing.

    `processes` is the number of chapters made in parallel (default: `limits.workers`); it does not change the result.
    """
    folder = Path(data_dir) / corpus.name
    if is_prepared(folder):
        return _existing_dataset(corpus, folder)
    with staging(folder) as part:
        _prepare_staging(corpus, folder, part)
        left = [chapter for chapter in corpus.chapters if not _is_done(chapter, part)]
        _check_space(left, part)
        _make_chapters(corpus, left, part, processes or limits.workers())
        _write_manifests(corpus, part)
        os.replace(part / "tree", folder)
        dataset = _describe(corpus, folder)
        shutil.rmtree(part)
    return dataset


def _existing_dataset(corpus: Corpus, folder: Path) -> Dataset:
    dataset = read_dataset(folder)
    made_from = dataset.provenance.get("fingerprint")
    if made_from != corpus.fingerprint() and not (corpus.name == "mini" and made_from in plans.EQUIVALENT_FINGERPRINTS):
        raise UserError(
            "this corpus was made by another version of the benchmark",
            where=folder,
            remedy=f"keep it, or remove it ({removal_command(folder)}) and start again",
        )
    if not looks_complete(dataset):
        raise UserError(
            "this corpus is damaged: files are missing, changed or do not belong to it",
            where=folder,
            remedy=f"remove it ({removal_command(folder)}) and start again",
        )
    print(f"{corpus.name}: already prepared in {folder}", file=sys.stderr)
    return dataset


def _prepare_staging(corpus: Corpus, folder: Path, part: Path) -> None:
    """Prepare the staging folder `part`: keep chapters of an interrupted run of the same plan, delete others."""
    marker = part / "fingerprint"
    same = marker.is_file() and marker.read_text() == corpus.fingerprint()
    if folder.exists() or folder.is_symlink():
        # It is ours only if a run was interrupted between the final move and writing the description.
        if not same or (part / "tree").exists():
            raise UserError(
                "this folder exists but is not a complete dataset",
                where=folder,
                remedy="move it away or remove it, or choose another --data-dir",
            )
        os.replace(folder, part / "tree")
    if not same:
        for name in ("tree", "done"):
            shutil.rmtree(part / name, ignore_errors=True)
        write_atomically(marker, corpus.fingerprint().encode())
    (part / "done").mkdir(exist_ok=True)
    (part / "tree").mkdir(exist_ok=True)


def _check_space(left: Sequence[Chapter], part: Path) -> None:
    seconds = sum(sum(chapter.lengths_s) + TEXT_S * len(chapter.texts) for chapter in left)
    check_disk_space(part, seconds * BYTES_PER_S, "choose another --data-dir")


def _make_chapters(corpus: Corpus, left: Sequence[Chapter], part: Path, processes: int) -> None:
    done = corpus.utterances - sum(_size(chapter) for chapter in left)
    with Progress(f"synthesising {corpus.name}", corpus.utterances, "utterances") as progress:
        progress.update(done)
        for size in map_in_fresh_processes(partial(_make_chapter, part), left, processes, preload=__name__):
            done += size
            progress.update(done)


def _size(chapter: Chapter) -> int:
    return len(chapter.texts) + len(chapter.lengths_s)


def _done_path(chapter: Chapter, part: Path) -> Path:
    return part / "done" / f"{chapter.id}.json"


def _folder_of(chapter: Chapter) -> Path:
    return Path(chapter.split) / chapter.speaker.id / str(chapter.number)


def _is_done(chapter: Chapter, part: Path) -> bool:
    """Whether all files of the chapter exist and are complete (a power failure may have emptied some)."""
    if not _done_path(chapter, part).is_file():
        return False
    folder = part / "tree" / _folder_of(chapter)
    try:
        rows = orjson.loads(_done_path(chapter, part).read_bytes())
        for id, samples, _text in rows:
            found, rate_hz = audio.read(folder / f"{id}.flac")
            if (len(found), rate_hz) != (samples, SAMPLE_RATE_HZ):
                return False
        return (folder / f"{chapter.id}.trans.txt").read_text() == _transcript(rows)
    except (UserError, orjson.JSONDecodeError, FileNotFoundError):
        return False


def _make_chapter(part: Path, chapter: Chapter) -> int:
    """Synthesise a chapter and write its files; the number of its utterances. Runs in a worker process."""
    folder = part / "tree" / _folder_of(chapter)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, int, str]] = []
    with Synthesiser(chapter.speaker, chapter.seed) as synthesiser:
        for text, samples in _utterances(chapter, partial(_say, synthesiser)):
            id = f"{chapter.id}-{len(rows):04d}"
            silence = np.zeros(round(SILENCE_S * SAMPLE_RATE_HZ), np.int16)
            samples = np.concatenate([silence, samples, silence])
            if chapter.snr_db:
                samples = add_background(samples, chapter.snr_db[len(rows)], plans.seed_of(id))
            audio.write_flac(folder / f"{id}.flac", samples)
            rows.append((id, len(samples), text))
    (folder / f"{chapter.id}.trans.txt").write_text(_transcript(rows))
    write_atomically(_done_path(chapter, part), orjson.dumps(rows))
    return len(rows)


def _transcript(rows: list[tuple[str, int, str]]) -> str:
    return "".join(f"{id} {text}\n" for id, _samples, text in rows)


def _say(synthesiser: Synthesiser, text: str) -> np.ndarray:
    return audio.to_16k(synthesiser.say(text) / 32768.0, synthesiser.rate_hz)


def _utterances(chapter: Chapter, say: Callable[[str], np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for text in chapter.texts:
        yield text, say(text)
    sentences = chapter.sentences()
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE_HZ), np.int16)
    kept: tuple[str, np.ndarray] | None = None
    for length_s in chapter.lengths_s:
        wanted = round((length_s - 2 * SILENCE_S) * SAMPLE_RATE_HZ)
        longest = round((plans.MAX_UTTERANCE_S - 2 * SILENCE_S) * SAMPLE_RATE_HZ)
        texts: list[str] = []
        pieces: list[np.ndarray] = []
        held = 0
        while True:
            text = next(sentences) if kept is None else kept[0]
            spoken = say(text) if kept is None else kept[1]
            kept = None
            longer = held + len(spoken) + (len(pause) if pieces else 0)
            # A sentence that would move the utterance further from its planned length is kept for the next one.
            if pieces and (longer > longest or longer - wanted > wanted - held):
                kept = (text, spoken)
                break
            texts.append(text)
            pieces += [pause, spoken] if pieces else [spoken]
            held = longer
        yield " ".join(texts), np.concatenate(pieces)


def _write_manifests(corpus: Corpus, part: Path) -> None:
    """Write each split's manifest in both formats, from the records of the finished chapters."""
    tree = part / "tree"
    for split in _splits(corpus):
        utterances, chapter_of = [], {}
        for chapter in corpus.chapters:
            if chapter.split == split:
                folder = _folder_of(chapter)
                for id, samples, text in orjson.loads(_done_path(chapter, part).read_bytes()):
                    utterances.append(Utterance(id, f"{folder}/{id}.flac", samples / SAMPLE_RATE_HZ, text))
                    chapter_of[id] = f"{folder}/{chapter.id}.trans.txt"
        manifest = Manifest.of(tree, utterances)
        write_jsonl(manifest, tree / f"{corpus.name}_{split}_manifest.jsonl")
        write_csv(((u.audio, chapter_of[u.id]) for u in manifest), tree / f"{corpus.name}_{split}_manifest.csv")


def _splits(corpus: Corpus) -> list[str]:
    return list(dict.fromkeys(chapter.split for chapter in corpus.chapters))


def _describe(corpus: Corpus, folder: Path) -> Dataset:
    splits = {}
    for split in _splits(corpus):
        stem = f"{corpus.name}_{split}_manifest"
        lines = (orjson.loads(line) for line in (folder / f"{stem}.jsonl").read_bytes().splitlines())
        lengths_s = [line["duration_s"] for line in lines]
        speakers = len({chapter.speaker.id for chapter in corpus.chapters if chapter.split == split})
        splits[split] = Split(f"{stem}.jsonl", f"{stem}.csv", len(lengths_s), round(sum(lengths_s), 6), speakers)
    dataset = Dataset(
        folder=folder,
        name=corpus.name,
        layout="LibriSpeech",
        splits=splits,
        digest=digest_and_write_sums(folder),
        provenance={
            "source": "speech synthesis (espeak-ng)",
            "version": corpus.version,
            "hours": corpus.hours,
            "fingerprint": corpus.fingerprint(),
        },
    )
    write_description(dataset)
    return dataset


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command `synthesise`."""
    parser = commands.add_parser(
        "synthesise",
        help="make the corpus `mini` or `synthetic` by speech synthesis",
        description="Make a corpus by speech synthesis: the same bytes on every run.",
        epilog="examples:\n  python -m datasets synthesise mini\n  python -m datasets synthesise synthetic --hours 4",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "corpus",
        choices=plans.SYNTHESISED,
        help="mini: 44 minutes of speech, made in seconds; synthetic: 80 hours, made in minutes",
    )
    parser.add_argument(
        "--hours",
        type=float,
        metavar="H",
        help="hours of training speech, if not 80; the corpus is then named synthetic-Hh",
    )
    add_data_dir(parser)
    add_processes(parser, "chapters")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    limits.check_processes(options.processes)
    dataset = synthesise(_corpus(options), options.data_dir, options.processes)
    report_splits(dataset)
    return EXIT_OK


def _corpus(options: argparse.Namespace) -> Corpus:
    if options.corpus == "mini":
        if options.hours is not None:
            raise UserError("mini has a fixed size", where="--hours", remedy="leave it out, or choose synthetic")
        return plans.mini()
    hours = plans.SYNTHETIC_HOURS if options.hours is None else options.hours
    if not plans.MIN_HOURS <= hours <= plans.MAX_HOURS:
        raise UserError(f"must be between {plans.MIN_HOURS:g} and {plans.MAX_HOURS:g} hours", where="--hours")
    if hours != plans.SYNTHETIC_HOURS and plans.hours_of(plans.synthetic_name(hours)) != hours:
        raise UserError("must have at most three decimals and six digits", where="--hours")
    return plans.synthetic(hours)
