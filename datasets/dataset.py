"""A prepared data set on disk: a folder NAME and, beside it, NAME.dataset.json that says what the folder holds.

The description stands beside the folder and not in it, so that the folder's checksum can stand in the description. It
is written last and atomically: a folder without one is half-made and counts as absent. NAME.verified.json, likewise
beside it, is the stamp of the last verification; where nothing can be written there, it lies in the user's state folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import orjson

from common.errors import UserError
from common.formats import DATASET, STAMP
from datasets.checksums.tarball import absolute, tree_size
from datasets.manifest import Manifest, read_jsonl, write_atomically

STAMP_ENDING = ".verified.json"
LIBRISPEECH = "LibriSpeech_dataset"
"""The folder of the one data set whose maker mends what lies there; the others' makers want an empty place."""


@dataclass(frozen=True)
class Split:
    """One part of a data set: `manifest` and `csv` are file names in the folder, `duration_s` seconds of audio in all."""

    manifest: str
    csv: str
    utterances: int
    duration_s: float
    speakers: int | None


@dataclass(frozen=True)
class TreeDigest:
    """What identifies a folder's contents, whatever its mtimes, owners and modes.

    `tree_sha256` is the SHA-256 of the lines that `sha256sum` prints for its files in byte order of their paths relative
    to the folder; `tar_cksum` and `tar_bytes` are the two numbers that POSIX cksum prints for its normalised tar.
    """

    tree_sha256: str
    tar_cksum: int
    tar_bytes: int
    files: int


@dataclass(frozen=True)
class Dataset:
    """A prepared data set. `provenance` says where it came from: archive hashes, or the synthesis and its version."""

    folder: Path
    name: str
    layout: str
    splits: dict[str, Split]
    digest: TreeDigest
    provenance: dict[str, object]

    def manifest(self, split: str) -> Manifest:
        """Read a split's manifest; UserError where there is no such split, or its manifest is faulty."""
        if split not in self.splits:
            raise UserError(
                f"the data set has no split {split!r}", where=self.folder, remedy=f"it has {', '.join(self.splits)}"
            )
        return read_jsonl(self.folder / self.splits[split].manifest)


@dataclass(frozen=True)
class Stamp:
    """The last verification of a folder: when (UTC, ISO 8601), what was found, and whether it matched its reference."""

    verified_at: str
    tree_sha256: str
    passed: bool


def default_data_dir() -> Path:
    """Where data sets lie unless said otherwise: DATA_DIR, else `data` in the checkout."""
    return Path(os.environ.get("DATA_DIR") or Path(__file__).resolve().parents[1] / "data")


def beside(folder: Path, ending: str) -> Path:
    """NAME and `ending`, beside the folder NAME (also for `.` and `a/..`): where what is noted about it lies."""
    folder = absolute(folder)
    if not folder.name:
        raise UserError("the root of the file system cannot be a data set", where=folder, remedy="name a folder in it")
    return folder.with_name(folder.name + ending)


def writable_beside(folder: Path, ending: str) -> Path:
    """`beside`, or where nothing can be written there, the file that stands in for it; OSError where its folder cannot be made."""
    path = beside(folder, ending)
    if os.access(path.parent, os.W_OK | os.X_OK):
        return path
    stand_in = _in_state_folder(path)
    stand_in.parent.mkdir(parents=True, exist_ok=True)
    return stand_in


def _in_state_folder(path: Path) -> Path:
    """The stand-in for a file beside a data set, in the user's state folder (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.expanduser("~/.local/state")
    key = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return Path(state, "deepspeech2-benchmark", f"{key}-{path.name}")


def description_path(folder: Path) -> Path:
    """Where the description of the data set in `folder` lies."""
    return beside(folder, ".dataset.json")


def stamp_path(folder: Path) -> Path:
    """Where the verification stamp of the data set in `folder` lies."""
    return beside(folder, STAMP_ENDING)


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds a data set that was prepared to the end."""
    return Path(folder).is_dir() and description_path(folder).is_file()


def removal(folder: Path) -> str:
    """The command that clears the data set's place for its maker."""
    return shlex.join(["rm", "-r", str(folder), str(description_path(folder))])


def _remedy(folder: Path) -> str:
    """What helps where the description cannot be used."""
    if folder.name == LIBRISPEECH:
        return "remove this file, leave the folder, and start the download again"
    return f"remove the folder and this file ({removal(folder)}) and prepare the data set again"


def write_description(dataset: Dataset) -> None:
    """Declare the data set complete. What an earlier verification said of another tree in its place is forgotten."""
    forget_stamp(dataset.folder)
    tree = dataclasses.asdict(dataset)
    del tree["folder"]
    data = orjson.dumps(DATASET.stamped(tree), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    write_atomically(description_path(dataset.folder), data)


def read_dataset(folder: Path) -> Dataset:
    """Read the description of the data set in `folder`; UserError where there is none or it cannot be understood."""
    folder = absolute(folder)
    path = description_path(folder)
    if not folder.is_dir():
        raise UserError("no data set lies here", where=folder, remedy="prepare it (see `python -m datasets --help`)")
    remedy = _remedy(folder)
    try:
        tree = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            "the data set is half-made: its description is missing", where=path, remedy="prepare it again"
        ) from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"not a JSON file ({error})", where=path, remedy=remedy) from None
    return DATASET.read(Dataset, tree | {"folder": folder} if isinstance(tree, dict) else tree, path, remedy)


def write_stamp(folder: Path, stamp: Stamp) -> Path:
    """Keep the result of a verification beside the folder, or in the user's state folder; returns the file."""
    path = writable_beside(folder, STAMP_ENDING)
    write_atomically(path, orjson.dumps(STAMP.stamped(dataclasses.asdict(stamp)), option=orjson.OPT_APPEND_NEWLINE))
    return path


def read_stamp(folder: Path) -> Stamp | None:
    """The last verification of the folder, or None where there was none or its stamp cannot be read."""
    places = [stamp_path(folder), _in_state_folder(stamp_path(folder))]
    # A set that was prepared again since is another one; its maker could not reach another user's state folder.
    with contextlib.suppress(OSError):
        if places[1].stat().st_mtime_ns < description_path(folder).stat().st_mtime_ns:
            del places[1]
    found = [stamp for place in places if (stamp := _stamp(place))]
    return max(found, key=lambda stamp: stamp.verified_at, default=None)


def _stamp(path: Path) -> Stamp | None:
    try:
        return STAMP.read(Stamp, orjson.loads(path.read_bytes()), path)
    except (OSError, ValueError, UserError):
        return None


def forget_stamp(folder: Path) -> None:
    """What verifications found is no longer so."""
    path = stamp_path(folder)
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        _in_state_folder(path).unlink()


def failed_verification(folder: Path) -> bool:
    """Whether the last verification of the folder found it other than it should be."""
    stamp = read_stamp(folder)
    return stamp is not None and not stamp.passed


def looks_whole(dataset: Dataset) -> bool:
    """Whether files are as many and as long in all as they should be, and no verification found more. Reads no file."""
    found = tree_size(dataset.folder)
    return found == (dataset.digest.files, dataset.digest.tar_bytes) and not failed_verification(dataset.folder)
