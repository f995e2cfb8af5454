"""Utterances and manifests (lists of utterances), in two file formats.

JSON lines is this benchmark's format: one object per line, sorted by length, audio paths relative to the file's folder.
The two-column CSV (audio path, transcript path; no header) is the MLPerf reference's. A transcript path that ends in
`.trans.txt` is a LibriSpeech chapter file, in which the line is found by the utterance's id; any other is a text file
with the words of this one utterance.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from common.errors import UserError
from common.files import write_atomically
from common.values import is_number

CHARACTERS = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ "
"""The characters allowed in a transcript, in the order of the reference's labels, without the CTC blank."""
ALPHABET = frozenset(CHARACTERS)

SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording and its transcript.

    `audio` is an absolute path, or one relative to the manifest's folder; `duration_s` is in seconds at the file's own
    sample rate; `text` is upper case, in ALPHABET, words separated by single spaces.
    """

    id: str
    audio: str
    duration_s: float
    text: str


@dataclass(frozen=True)
class Manifest:
    """Utterances sorted by (duration, id), and the folder that their paths are relative to."""

    root: Path
    utterances: tuple[Utterance, ...]

    @classmethod
    def of(cls, root: Path, utterances: Iterable[Utterance]) -> Manifest:
        """A manifest of `utterances`, given in any order; a duplicate id is a UserError."""
        ordered = tuple(sorted(utterances, key=lambda u: (u.duration_s, u.id)))
        seen: set[str] = set()
        for utterance in ordered:
            if utterance.id in seen:
                raise UserError(f"utterance id {utterance.id!r} occurs twice", where=root)
            seen.add(utterance.id)
        return cls(root, ordered)

    def audio_path(self, utterance: Utterance) -> Path:
        """The path of the utterance's audio."""
        return self.root / utterance.audio

    @property
    def duration_s(self) -> float:
        """Total seconds of audio."""
        return math.fsum(u.duration_s for u in self.utterances)

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)


def normalise_text(text: str) -> str:
    """`text` normalised as a transcript: upper case, runs of white space replaced by one space."""
    return " ".join(text.upper().split())


def check_text(text: str, where: object) -> None:
    """UserError unless `text` is a usable transcript: not empty, no characters outside ALPHABET."""
    if not text:
        raise UserError("the transcript is empty", where=where, remedy="give its words, or leave the utterance out")
    unknown = sorted(set(text) - ALPHABET)
    if unknown:
        shown = " ".join(repr(c) for c in unknown[:8])
        raise UserError(
            f"the transcript contains {shown}, outside the alphabet A-Z, apostrophe and space",
            where=where,
            remedy="spell it out in words",
        )


def write_jsonl(manifest: Manifest, path: Path) -> None:
    """Write `manifest` as JSON lines; `path` should be in `manifest.root`, so that relative paths are valid."""
    lines = (
        orjson.dumps({"id": u.id, "audio": u.audio, "duration_s": round(u.duration_s, 6), "text": u.text})
        for u in manifest
    )
    write_atomically(path, b"".join(line + b"\n" for line in lines))


def read_jsonl(path: Path) -> Manifest:
    """Read a JSON lines manifest; every error is a UserError that names file and line."""
    path = Path(path)
    remedy = "prepare the dataset again"
    utterances = []
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        raise UserError("no such manifest", where=path, remedy=remedy) from None
    with file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise UserError(f"not a JSON object ({error})", where=where, remedy=remedy) from None
            utterances.append(_utterance_of(row, where))
    if not utterances:
        raise UserError("the manifest is empty", where=path, remedy=remedy)
    return Manifest.of(path.parent, utterances)


def _utterance_of(row: object, where: str) -> Utterance:
    if not isinstance(row, dict) or set(row) != {"id", "audio", "duration_s", "text"}:
        raise UserError("expected an object with id, audio, duration_s and text", where=where)
    duration_s = row["duration_s"]
    if not all(isinstance(row[key], str) and row[key] for key in ("id", "audio", "text")):
        raise UserError("id, audio and text must be strings that are not empty", where=where)
    if not (is_number(duration_s) and duration_s > 0):
        raise UserError("duration_s must be a number of seconds above 0", where=where)
    if "\0" in row["audio"]:
        raise UserError("the audio path contains a NUL character", where=where)
    check_text(row["text"], where)
    return Utterance(row["id"], row["audio"], float(duration_s), row["text"])


def write_csv(rows: Iterable[tuple[str, str]], path: Path) -> None:
    """Write the reference's two columns, audio path and transcript path, without a header."""
    lines = []
    for row in rows:
        quoted = (
            f'"{field.replace(chr(34), chr(34) * 2)}"' if any(c in field for c in ',"\r\n') else field for field in row
        )
        lines.append(",".join(quoted) + "\n")
    write_atomically(path, "".join(lines).encode(errors="surrogateescape"))


def read_csv(path: Path) -> Iterator[tuple[int, Path, Path]]:
    """The rows of a two-column CSV as (line number, audio path, transcript path), relative to the CSV's folder.

    Every error is a UserError that names file and line.
    """
    path = Path(path)
    try:
        file = open(path, newline="", encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("no such manifest", where=path) from None
    with file:
        reader = csv.reader(file)
        try:
            for row in reader:
                if not row:
                    continue
                if len(row) != 2 or not all(field.strip() for field in row):
                    raise UserError(
                        "expected two columns, audio path and transcript path", where=f"{path}:{reader.line_num}"
                    )
                if "\0" in row[0] + row[1]:
                    raise UserError("a path contains a NUL character", where=f"{path}:{reader.line_num}")
                yield reader.line_num, path.parent / row[0].strip(), path.parent / row[1].strip()
        except csv.Error as error:
            raise UserError(f"not a CSV file ({error})", where=f"{path}:{reader.line_num}") from None
        except UnicodeDecodeError:
            raise UserError("not text in UTF-8", where=f"{path}:{_line_not_in_utf8(path)}") from None


def _line_not_in_utf8(path: Path) -> int:
    """The number of the first line that does not decode (the reader decodes in blocks and does not know it)."""
    data = path.read_bytes()
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return data.count(b"\n", 0, error.start) + 1
    raise AssertionError("called for a file in UTF-8")
