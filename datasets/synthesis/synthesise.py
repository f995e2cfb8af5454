"""The synthesised corpora, `mini` and `synthetic`, in LibriSpeech's layout, the same bytes on every run.

A corpus is a plan of chapters (plans.py). Each chapter is spoken in a fresh process (voices.py says why), so that neither
the number of processes nor an interruption shows in the result. The corpus grows in `.NAME.part` beside its place; when it
is whole it is moved there, and its description is written last. A start after an interruption keeps what is done.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import orjson

from common import limits
from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError
from common.progress import Progress
from datasets import audio
from datasets.checksums.digest import digest_and_keep_sums
from datasets.dataset import Dataset, Split, is_prepared, looks_whole, read_dataset, removal, write_description
from datasets.manifest import SAMPLE_RATE_HZ, Manifest, Utterance, write_atomically, write_csv, write_jsonl
from datasets.staging import staging
from datasets.stats import add_data_dir, report_splits
from datasets.synthesis import plans
from datasets.synthesis.noise import add_background
from datasets.synthesis.plans import Chapter, Corpus
from datasets.synthesis.voices import Synthesiser
from datasets.synthesis.workers import each_in_fresh_process

# The network sees nothing within 0.15 s of an utterance's ends as an output of its own, and recordings begin and end with
# silence too.
SILENCE_S = 0.08
PAUSE_S = 0.15
BYTES_PER_S = 26_000
"""Disk space for a second of speech, on the safe side."""


def synthesise(corpus: Corpus, data_dir: Path, processes: int | None = None) -> Dataset:
    """Make `corpus` in `data_dir` and return its description; if it is there already, say so and do nothing.

    `processes` is the number of chapters in work at a time (default: `limits.workers`); it never changes the outcome.
    """
    folder = Path(data_dir) / corpus.name
    if is_prepared(folder):
        return _already_there(corpus, folder)
    with staging(folder) as part:
        _take_up(corpus, folder, part)
        _check_space(corpus, part)
        _speak(corpus, part, processes or limits.workers())
        _write_manifests(corpus, part)
        os.replace(part / "tree", folder)
        dataset = _describe(corpus, folder)
        shutil.rmtree(part)
    return dataset


def _already_there(corpus: Corpus, folder: Path) -> Dataset:
    dataset = read_dataset(folder)
    made_from = dataset.provenance.get("fingerprint")
    if made_from != corpus.fingerprint() and not (corpus.name == "mini" and made_from in plans.SAME_BYTES):
        raise UserError(
            "a corpus that was made by another version of the benchmark lies here",
            where=folder,
            remedy=f"keep it, or remove it ({removal(folder)}) and start again",
        )
    if not looks_whole(dataset):
        raise UserError(
            "the corpus that lies here is damaged: files of it are missing, changed or not its own",
            where=folder,
            remedy=f"remove it ({removal(folder)}) and start again",
        )
    print(f"{corpus.name}: already prepared in {folder}", file=sys.stderr)
    return dataset


def _take_up(corpus: Corpus, folder: Path, part: Path) -> None:
    """Bring `part` to a state to go on from: what an interrupted start left, if it was of the same plan."""
    mark = part / "fingerprint"
    same = mark.is_file() and mark.read_text() == corpus.fingerprint()
    if folder.exists() or folder.is_symlink():
        # Ours only if an interruption fell between the last move and the description.
        if not same or (part / "tree").exists():
            raise UserError(
                "a folder is there that is not a whole data set",
                where=folder,
                remedy="move it away or remove it, or choose another --data-dir",
            )
        os.replace(folder, part / "tree")
    if not same:
        for name in ("tree", "done"):
            shutil.rmtree(part / name, ignore_errors=True)
        write_atomically(mark, corpus.fingerprint().encode())
    (part / "done").mkdir(exist_ok=True)
    (part / "tree").mkdir(exist_ok=True)


def _check_space(corpus: Corpus, part: Path) -> None:
    seconds = ((corpus.hours or 1.0) * 1.05 + plans.LEAST_VAL_HOURS) * 3600
    free = shutil.disk_usage(part).free
    if free < seconds * BYTES_PER_S:
        raise UserError(
            f"too little disk space: {free / 1e9:.1f} GB free, {seconds * BYTES_PER_S / 1e9:.1f} GB needed",
            where=part.parent,
            remedy="free some disk space, or choose another --data-dir",
        )


def _speak(corpus: Corpus, part: Path, processes: int) -> None:
    left = [chapter for chapter in corpus.chapters if not _is_done(chapter, part)]
    done = corpus.utterances - sum(_size(chapter) for chapter in left)
    with Progress(f"synthesising {corpus.name}", corpus.utterances, "utterances") as progress:
        progress.update(done)
        for size in each_in_fresh_process(partial(_record, part), left, processes, preload=__name__):
            done += size
            progress.update(done)


def _size(chapter: Chapter) -> int:
    return len(chapter.texts) + len(chapter.lengths_s)


def _done_path(chapter: Chapter, part: Path) -> Path:
    return part / "done" / f"{chapter.id}.json"


def _folder_of(chapter: Chapter) -> Path:
    return Path(chapter.split) / chapter.speaker.id / str(chapter.number)


def _is_done(chapter: Chapter, part: Path) -> bool:
    """Whether the chapter's files are all there and whole (a power cut may have emptied some)."""
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


def _record(part: Path, chapter: Chapter) -> int:
    """Speak a chapter and write its files; the number of its utterances. Runs in a process of its own."""
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
        longest = round((plans.LONGEST_S - 2 * SILENCE_S) * SAMPLE_RATE_HZ)
        texts: list[str] = []
        pieces: list[np.ndarray] = []
        held = 0
        while True:
            text = next(sentences) if kept is None else kept[0]
            spoken = say(text) if kept is None else kept[1]
            kept = None
            longer = held + len(spoken) + (len(pause) if pieces else 0)
            # A sentence that would take the utterance further from its length is kept for the next one.
            if pieces and (longer > longest or longer - wanted > wanted - held):
                kept = (text, spoken)
                break
            texts.append(text)
            pieces += [pause, spoken] if pieces else [spoken]
            held = longer
        yield " ".join(texts), np.concatenate(pieces)


def _write_manifests(corpus: Corpus, part: Path) -> None:
    """Both forms of each split's manifest, from what the chapters' processes noted."""
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
        digest=digest_and_keep_sums(folder),
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
    """Add `synthesise` to the data sets' commands."""
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
        help="hours of training speech other than 80; the corpus is then called synthetic-Hh",
    )
    add_data_dir(parser)
    parser.add_argument("--processes", type=int, metavar="N", help="chapters in work at a time (default: one a core)")
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
    if not plans.LEAST_HOURS <= hours <= plans.MOST_HOURS:
        raise UserError(f"must be between {plans.LEAST_HOURS:g} and {plans.MOST_HOURS:g} hours", where="--hours")
    corpus = plans.synthetic(hours)
    if hours != plans.SYNTHETIC_HOURS and plans.hours_of(corpus.name) != hours:
        raise UserError("must have at most three decimals and six digits", where="--hours")
    return corpus
