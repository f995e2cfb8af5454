"""`python -m datasets import`: a user's own corpus (CSV files of FLAC or WAV) as a dataset in LibriSpeech's layout.

Each split has one artificial speaker, and the row number is in each id: `train/1/3/1-3-0412.flac` is row 2412 (from 0)
of the training CSV. Next to the folder, `NAME.sources.csv` lists the source file of each utterance, and
`NAME.left_out.txt` the rows left out, with the reason.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from common import limits
from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError, one_line
from common.files import write_atomically
from common.progress import Progress
from datasets import audio
from datasets.checksums.digest import digest_and_write_sums
from datasets.command_options import add_processes, report_splits
from datasets.dataset import Dataset, Split, is_prepared, write_description
from datasets.geometry import ctc_frames_needed, output_frames
from datasets.manifest import (
    SAMPLE_RATE_HZ,
    Manifest,
    Utterance,
    check_text,
    normalise_text,
    read_csv,
    write_csv,
    write_jsonl,
)
from datasets.staging import staging

MIN_DURATION_S = 0.4
"""The network needs 31 frames of 10 ms, and training may speed an utterance up by 1.15."""

CHAPTER_ROWS = 1000
SPEAKERS = {"train": "1", "val": "2"}


@dataclass(frozen=True)
class Row:
    """One usable row: its location (`CSV:LINE`), audio file and transcript, and the utterance's id and split."""

    where: str
    audio: Path
    text: str
    id: str
    split: str

    @property
    def chapter(self) -> str:
        """The chapter's folder, relative to the dataset's."""
        speaker, chapter, _ = self.id.split("-")
        return f"{self.split}/{speaker}/{chapter}"

    @property
    def transcript(self) -> str:
        """The chapter's transcript file, relative to the dataset's folder."""
        return f"{self.chapter}/{self.id.rpartition('-')[0]}.trans.txt"

    @property
    def target(self) -> str:
        """The utterance's FLAC file, relative to the dataset's folder."""
        return f"{self.chapter}/{self.id}.flac"


@dataclass
class RowErrors:
    """Errors in single rows: raised immediately, or collected in `left_out` if `skip` is set."""

    skip: bool
    left_out: list[str] = field(default_factory=list)

    def add(self, error: UserError) -> None:
        """Handle the error of one row."""
        if not self.skip:
            raise UserError(error.what, where=error.where, remedy=error.remedy or "fix it, or use --skip-bad")
        self.left_out.append(str(error))


def import_corpus(
    csvs: dict[str, Path], out: Path, name: str | None = None, skip_bad: bool = False, processes: int | None = None
) -> Dataset:
    """Import the corpus of `csvs` (split name to CSV file) into `out` and return its description.

    A row that cannot be used is a UserError naming file and line; with `skip_bad` it is left out and listed in
    `NAME.left_out.txt` next to `out`. `processes` defaults to `limits.workers`.
    """
    out = Path(os.path.abspath(out))
    for chosen in (out.name, name or out.name):
        if not chosen.isprintable():
            raise UserError("this cannot be a dataset's name", where=chosen, remedy="choose printable text in UTF-8")
    if is_prepared(out) or out.exists():
        raise UserError("this exists already", where=out, remedy="choose another --out, or remove it")
    faults = RowErrors(skip_bad)
    rows = _read_rows(csvs, faults)
    with staging(out) as part:
        tree = part / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        samples = _convert(rows, tree, faults, processes or limits.workers())
        kept = [row for row in rows if row.id in samples]
        splits = {split: _write_split(split, kept, samples, tree, out.name, csvs[split]) for split in csvs}
        sources = [(row.id, str(row.audio)) for row in kept]
        write_csv(sources, out.with_name(f"{out.name}.sources.csv"))
        _write_left_out(faults, out)
        os.replace(tree, out)
        dataset = Dataset(
            folder=out,
            name=name or out.name,
            layout="LibriSpeech",
            splits=splits,
            digest=digest_and_write_sums(out),
            provenance={"source": "imported", "left_out": len(faults.left_out)},
        )
        write_description(dataset)
        shutil.rmtree(part)
    return dataset


def left_out_path(out: Path) -> Path:
    """The path of the list of rows left out of the dataset in `out`."""
    return out.with_name(f"{out.name}.left_out.txt")


def _read_rows(csvs: dict[str, Path], faults: RowErrors) -> list[Row]:
    """The rows of all CSV files that have a usable transcript and whose audio is in no earlier row."""
    rows: list[Row] = []
    first_use: dict[str, str] = {}
    text_of = Transcripts()
    for split, path in csvs.items():
        count = 0
        for number, (line, audio_path, transcript_path) in enumerate(read_csv(path)):
            count += 1
            where = f"{path}:{line}"
            key = os.path.realpath(audio_path)
            try:
                if key in first_use:
                    raise UserError(f"the audio {audio_path} is already in {first_use[key]}", where=where)
                first_use[key] = where
                text = text_of(audio_path, transcript_path, where)
            except UserError as error:
                faults.add(error)
                continue
            id = f"{SPEAKERS[split]}-{number // CHAPTER_ROWS + 1}-{number % CHAPTER_ROWS:04d}"
            rows.append(Row(where, audio_path, text, id, split))
        if not count:
            raise UserError("the CSV file has no rows", where=path)
    return rows


class Transcripts:
    """Looks up the transcript of an audio file; caches the last chapter file it read."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._chapter: dict[str, str] = {}

    def __call__(self, audio_path: Path, path: Path, where: str) -> str:
        """The transcript, normalised and checked; any error is a UserError at `where`."""
        if path.name.endswith(".trans.txt"):
            if path != self._path:
                self._chapter, self._path = _read_chapter(path, where), path
            if audio_path.stem not in self._chapter:
                raise UserError(f"{path} has no line for {audio_path.stem}", where=where)
            text = self._chapter[audio_path.stem]
        else:
            text = _read_text(path, where)
        text = normalise_text(text)
        try:
            check_text(text, path)
        except UserError as error:
            raise UserError(f"{error.what} ({path})", where=where, remedy=error.remedy) from None
        return text


def _read_chapter(path: Path, where: str) -> dict[str, str]:
    chapter: dict[str, str] = {}
    for number, line in enumerate(_read_text(path, where).splitlines(), 1):
        id, _, text = line.strip().partition(" ")
        if id in chapter:
            raise UserError(f"{path}:{number} has a second line for {id}", where=where)
        if id:
            chapter[id] = text
    return chapter


def _read_text(path: Path, where: str) -> str:
    if not path.is_file():
        raise UserError(f"no such transcript: {path}", where=where)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"the transcript {path} is not text in UTF-8", where=where) from None
    except OSError as error:
        raise UserError(f"the transcript {path} cannot be read ({error.strerror})", where=where) from None


def _convert(rows: list[Row], tree: Path, faults: RowErrors, processes: int) -> dict[str, int]:
    """Write each row's audio as FLAC under `tree`; the number of samples by id, for the converted rows."""
    for chapter in dict.fromkeys(row.chapter for row in rows):
        (tree / chapter).mkdir(parents=True)
    samples: dict[str, int] = {}
    with Progress("importing", len(rows), "utterances") as progress:
        outcomes = _in_processes(partial(_convert_row, tree), rows, processes)
        for done, (row, outcome) in enumerate(zip(rows, outcomes, strict=True), 1):
            if isinstance(outcome, UserError):
                faults.add(outcome)
            else:
                samples[row.id] = outcome
            progress.update(done)
    return samples


def _in_processes(
    function: Callable[[Row], int | UserError], rows: list[Row], processes: int
) -> Iterator[int | UserError]:
    if not limits.has_semaphores():
        with ThreadPoolExecutor(processes) as threads:
            yield from threads.map(function, rows)
        return
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    # Ctrl-C reaches the whole process group: only the parent handles it.
    pool = ProcessPoolExecutor(processes, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        yield from pool.map(function, rows, chunksize=16)
    except BrokenProcessPool:
        raise UserError(
            "a worker process died", remedy="the machine may be out of memory: close other programs and start again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _convert_row(tree: Path, row: Row) -> int | UserError:
    """Convert one row's audio; the number of samples at 16 kHz, or the error."""
    try:
        samples, rate_hz = audio.read(row.audio)
        mono = audio.to_16k(samples.mean(axis=1), rate_hz)
        if len(mono) < MIN_DURATION_S * SAMPLE_RATE_HZ:
            seconds = len(mono) / SAMPLE_RATE_HZ
            raise UserError(
                f"the audio is too short: {seconds:.2f} s, at least {MIN_DURATION_S} s needed", where=row.audio
            )
        if not mono.any():
            raise UserError("the audio is silent", where=row.audio)
        if ctc_frames_needed(row.text) > network_output_frames(len(mono)):
            raise UserError(
                f"{len(row.text)} characters are too many for {len(mono) / SAMPLE_RATE_HZ:.2f} s of audio",
                where=row.audio,
                remedy="check that the transcript belongs to the audio",
            )
    except UserError as error:
        return UserError(f"{error.what} ({error.where})", where=row.where, remedy=error.remedy)
    audio.write_flac(tree / row.target, mono)
    return len(mono)


def network_output_frames(samples: int) -> int:
    """The reference network's output frames for `samples` at 16 kHz: a feature frame starts every 10 ms."""
    return output_frames(1 + samples // (SAMPLE_RATE_HZ // 100))


def _write_split(
    split: str, rows: list[Row], samples: dict[str, int], tree: Path, prefix: str, csv_path: Path
) -> Split:
    """Write the transcripts and both manifests of a split."""
    rows = [row for row in rows if row.split == split]
    if not rows:
        raise UserError("no usable row is left", where=csv_path)
    chapters: dict[str, list[str]] = {}
    for row in rows:
        chapters.setdefault(row.transcript, []).append(f"{row.id} {row.text}\n")
    for transcript, lines in chapters.items():
        (tree / transcript).write_text("".join(lines))
    transcript_of = {row.id: row.transcript for row in rows}
    manifest = Manifest.of(
        tree, [Utterance(row.id, row.target, samples[row.id] / SAMPLE_RATE_HZ, row.text) for row in rows]
    )
    stem = f"{prefix}_{split}_manifest"
    write_jsonl(manifest, tree / f"{stem}.jsonl")
    write_csv(((u.audio, transcript_of[u.id]) for u in manifest), tree / f"{stem}.csv")
    return Split(f"{stem}.jsonl", f"{stem}.csv", len(manifest), round(manifest.duration_s, 6), None)


def _write_left_out(faults: RowErrors, out: Path) -> None:
    if faults.left_out:
        write_atomically(left_out_path(out), "".join(f"{line}\n" for line in faults.left_out).encode())
    else:
        left_out_path(out).unlink(missing_ok=True)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command `import`."""
    parser = commands.add_parser(
        "import",
        help="import your own corpus",
        description="Import your own corpus: FLAC or WAV, any sample rate, any number of channels. "
        "Each CSV has two columns and no header: audio path, transcript path (a text file with the words, "
        "or a LibriSpeech chapter's .trans.txt); paths are relative to the CSV's folder.",
        epilog="example:\n  python -m datasets import --train train.csv --val val.csv --out data/mine --skip-bad",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--train", type=Path, required=True, metavar="CSV", help="the training utterances")
    parser.add_argument("--val", type=Path, required=True, metavar="CSV", help="the validation utterances")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the dataset's folder, which must not exist"
    )
    parser.add_argument("--name", help="the dataset's name (default: the folder's)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be used, and list them")
    add_processes(parser, "files")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    limits.check_processes(options.processes)
    csvs = {"train": options.train, "val": options.val}
    dataset = import_corpus(csvs, options.out, options.name, options.skip_bad, options.processes)
    report_splits(dataset)
    if left_out := dataset.provenance["left_out"]:
        rows = "1 row" if left_out == 1 else f"{left_out} rows"
        print(one_line(f"{rows} left out: see {left_out_path(dataset.folder)}"), file=sys.stderr)
    return EXIT_OK
