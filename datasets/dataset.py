"""A prepared dataset on disk: a folder NAME and, next to it, its description NAME.dataset.json.

The description is next to the folder, not in it, because it contains the folder's checksum. It is written last and
atomically: a folder without one is incomplete and counts as absent. NAME.verified.json, also next to the folder, is the
stamp of the last verification; if that place is not writable, the stamp is in the user's state folder.
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
"""The folder of LibriSpeech, the one dataset that is repaired in place; the others are prepared in an empty place."""


@dataclass(frozen=True)
class Split:
    """One part of a dataset: `manifest` and `csv` are file names in the folder, `duration_s` the seconds of audio."""

    manifest: str
    csv: str
    utterances: int
    duration_s: float
    speakers: int | None


@dataclass(frozen=True)
class TreeDigest:
    """The checksums of a folder's contents, independent of mtimes, owners and modes.

    `tree_sha256` is the SHA-256 of the lines that `sha256sum` prints for its files in byte order of their paths
    relative to the folder; `tar_cksum` and `tar_bytes` are the two numbers that POSIX cksum prints for its normalised
    tar.
    """

    tree_sha256: str
    tar_cksum: int
    tar_bytes: int
    files: int


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset. `provenance` is its origin: archive hashes, or the synthesis and its version."""

    folder: Path
    name: str
    layout: str
    splits: dict[str, Split]
    digest: TreeDigest
    provenance: dict[str, object]

    def manifest(self, split: str) -> Manifest:
        """Read a split's manifest; UserError if there is no such split, or its manifest is invalid."""
        if split not in self.splits:
            raise UserError(
                f"the dataset has no split {split!r}", where=self.folder, remedy=f"it has {', '.join(self.splits)}"
            )
        return read_jsonl(self.folder / self.splits[split].manifest)


@dataclass(frozen=True)
class Stamp:
    """The last verification of a folder: when (UTC, ISO 8601), what was found, and whether it matched its reference."""

    verified_at: str
    tree_sha256: str
    passed: bool


def default_data_dir() -> Path:
    """The default folder of datasets: DATA_DIR, else `data` in the checkout."""
    return Path(os.environ.get("DATA_DIR") or Path(__file__).resolve().parents[1] / "data")


def sibling_path(folder: Path, ending: str) -> Path:
    """The path NAME + `ending` next to the folder NAME (also for `.` and `a/..`), for files about the dataset."""
    folder = absolute(folder)
    if not folder.name:
        raise UserError("the root of the file system cannot be a dataset", where=folder, remedy="name a folder in it")
    return folder.with_name(folder.name + ending)


def writable_sibling_path(folder: Path, ending: str) -> Path:
    """`sibling_path`, or its substitute in the user's state folder if that is not writable; OSError if neither is."""
    path = sibling_path(folder, ending)
    if os.access(path.parent, os.W_OK | os.X_OK):
        return path
    substitute = _in_state_folder(path)
    substitute.parent.mkdir(parents=True, exist_ok=True)
    return substitute


def _in_state_folder(path: Path) -> Path:
    """The substitute for a file next to a dataset, in the user's state folder (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.expanduser("~/.local/state")
    key = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return Path(state, "deepspeech2-benchmark", f"{key}-{path.name}")


def description_path(folder: Path) -> Path:
    """The path of the description of the dataset in `folder`."""
    return sibling_path(folder, ".dataset.json")


def stamp_path(folder: Path) -> Path:
    """The path of the verification stamp of the dataset in `folder`."""
    return sibling_path(folder, STAMP_ENDING)


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds a completely prepared dataset."""
    return Path(folder).is_dir() and description_path(folder).is_file()


def removal_command(folder: Path) -> str:
    """The shell command that removes the dataset so that it can be prepared again."""
    return shlex.join(["rm", "-r", str(folder), str(description_path(folder))])


def _remedy(folder: Path) -> str:
    """The remedy for a description that cannot be used."""
    if folder.name == LIBRISPEECH:
        return "remove this file, keep the folder, and start the download again"
    return f"remove the folder and this file ({removal_command(folder)}) and prepare the dataset again"


def write_description(dataset: Dataset) -> None:
    """Write the description, which marks the dataset as complete; the stamp of an earlier dataset is deleted."""
    delete_stamp(dataset.folder)
    tree = dataclasses.asdict(dataset)
    del tree["folder"]
    data = orjson.dumps(DATASET.with_version(tree), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    write_atomically(description_path(dataset.folder), data)


def read_dataset(folder: Path) -> Dataset:
    """Read the description of the dataset in `folder`; UserError if there is none or it is invalid."""
    folder = absolute(folder)
    path = description_path(folder)
    if not folder.is_dir():
        raise UserError("no dataset here", where=folder, remedy="prepare it (see `python -m datasets --help`)")
    remedy = _remedy(folder)
    try:
        tree = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            "the dataset is incomplete: its description is missing", where=path, remedy="prepare it again"
        ) from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"not a JSON file ({error})", where=path, remedy=remedy) from None
    return DATASET.read(Dataset, tree | {"folder": folder} if isinstance(tree, dict) else tree, path, remedy)


def write_stamp(folder: Path, stamp: Stamp) -> Path:
    """Write the result of a verification next to the folder, or to the user's state folder; returns the file."""
    path = writable_sibling_path(folder, STAMP_ENDING)
    write_atomically(
        path, orjson.dumps(STAMP.with_version(dataclasses.asdict(stamp)), option=orjson.OPT_APPEND_NEWLINE)
    )
    return path


def read_stamp(folder: Path) -> Stamp | None:
    """The last verification of the folder, or None if there was none or its stamp cannot be read."""
    paths = [stamp_path(folder), _in_state_folder(stamp_path(folder))]
    # A stamp older than the description is of an earlier dataset: preparing again cannot delete other users' stamps.
    with contextlib.suppress(OSError):
        if paths[1].stat().st_mtime_ns < description_path(folder).stat().st_mtime_ns:
            del paths[1]
    found = [stamp for path in paths if (stamp := _read_stamp_file(path))]
    return max(found, key=lambda stamp: stamp.verified_at, default=None)


def _read_stamp_file(path: Path) -> Stamp | None:
    try:
        return STAMP.read(Stamp, orjson.loads(path.read_bytes()), path)
    except (OSError, ValueError, UserError):
        return None


def delete_stamp(folder: Path) -> None:
    """Delete the verification stamp, because the dataset has changed since."""
    path = stamp_path(folder)
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        _in_state_folder(path).unlink()


def failed_verification(folder: Path) -> bool:
    """Whether the last verification of the folder failed."""
    stamp = read_stamp(folder)
    return stamp is not None and not stamp.passed


def looks_complete(dataset: Dataset) -> bool:
    """Whether the number and total size of files are right and the last verification did not fail. Reads no file."""
    found = tree_size(dataset.folder)
    return found == (dataset.digest.files, dataset.digest.tar_bytes) and not failed_verification(dataset.folder)
