"""Finds the files that arguments mean: `20` a checkpoint, `libri` a set of utterances. Does not import torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import soundfile

from benchmark.harness.run_dataset import ready_dataset
from benchmark.params import load_variant, variant_names
from benchmark.settings import ROOT, Settings
from common.errors import UserError
from datasets.audio import reason
from datasets.dataset import LIBRISPEECH, Dataset, is_prepared, read_dataset
from datasets.imported import Transcripts
from datasets.manifest import Manifest, Utterance, read_csv, read_jsonl
from datasets.synthesis.plans import SYNTHESISED
from reference_model.checkpoints.checkpoint_files import checkpoint_path, saved_epochs

LIBRI = "libri"


@dataclass(frozen=True)
class Clips:
    """Utterances to run on, in the given order. `tree_sha256` is None where they are not a prepared dataset."""

    name: str
    split: str | None
    manifest: Manifest
    tree_sha256: str | None


def default_results_dir() -> Path:
    """The default results folder: RESULTS_DIR, else `runs` in the checkout."""
    return Path(os.environ.get("RESULTS_DIR") or ROOT / "runs").absolute()


def training_dir(results_dir: Path, variant: str) -> Path:
    """The folder in which script/train.sh stores its checkpoints."""
    return results_dir / "train" / variant


def variant_of(dataset: str, named: str | None) -> str:
    """The variant whose checkpoints are meant: the one named, else the dataset's own, else librispeech."""
    chosen = named or (dataset if dataset in SYNTHESISED else "librispeech")
    if chosen not in variant_names():
        load_variant(chosen)  # raises a UserError that lists the variants
    return chosen


def find_checkpoint(name: str, variant: str, results_dir: Path, say: Callable[[str], None]) -> Path:
    """The file that `name` means: a path, or the newest checkpoint of that epoch of the variant.

    It is looked up in the timed runs (RESULTS_DIR/VARIANT/*/checkpoints) and in script/train.sh's folder.
    """
    if not name.isascii() or not name.isdigit():
        path = Path(name)
        if not path.is_file():
            raise UserError("no such checkpoint", where=path, remedy="give an epoch's number or a file")
        return path
    epoch = int(name)
    folders = [training_dir(results_dir, variant), *sorted((results_dir / variant).glob("*/"))]
    found = [path for folder in folders if (path := checkpoint_path(folder, epoch)).is_file()]
    if not found:
        saved = saved_epochs(*folders)
        available = f"there are epochs {saved}" if saved else "there is none yet"
        raise UserError(
            f"no checkpoint of epoch {epoch} of the variant {variant} ({available})",
            where=results_dir,
            remedy=f"train one (`VARIANT={variant} sh script/train.sh new`), set VARIANT, or give a file",
        )
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    say(f"checkpoint: {newest}")
    return newest


def find_clips(name: str, split: str | None, data_dir: Path, say: Callable[[str], None]) -> Clips:
    """The utterances that `name` means: `libri`, `mini`, `synthetic`, a prepared dataset's folder, or a manifest file.

    `mini` and `synthetic` are synthesised if they are missing. The default `split` is test-clean for LibriSpeech, and
    `val` for any other dataset. A manifest is JSON lines (`.jsonl`) or two columns (`.csv`).
    """
    if name == LIBRI:
        return _librispeech(data_dir / LIBRISPEECH, split)
    if name in SYNTHESISED:
        dataset = ready_dataset(load_variant(name), Settings(data_dir=data_dir), say)
        return _of(dataset, split or "val")
    path = Path(name)
    if path.is_dir():
        return _of(read_dataset(path), split or "val")
    if not path.is_file():
        raise UserError(
            f"there is no dataset {name!r}",
            where="DATASET",
            remedy=f"give {LIBRI}, {', '.join(SYNTHESISED)}, a dataset's folder, or a manifest (.jsonl or .csv)",
        )
    manifest = _from_csv(path) if path.suffix == ".csv" else read_jsonl(path)
    return Clips(path.name, None, manifest, None)


def _librispeech(folder: Path, split: str | None) -> Clips:
    remedy = "`sh script/download_dataset.sh clean_test` fetches test-clean"
    if not is_prepared(folder):
        raise UserError("LibriSpeech is not here", where=folder, remedy=remedy)
    dataset = read_dataset(folder)
    if split is None:
        split = "test-clean"
        archives = dataset.provenance.get("archives")
        # A single evaluation set is listed as `test` only, not also under its own name.
        if split not in dataset.splits and isinstance(archives, dict) and split in archives:
            split = "test"
        if split not in dataset.splits:
            raise UserError("it has no test-clean", where=folder, remedy=f"{remedy}; --split names another part")
    return _of(dataset, split)


def _of(dataset: Dataset, split: str) -> Clips:
    return Clips(dataset.name, split, dataset.manifest(split), dataset.digest.tree_sha256)


def _from_csv(path: Path) -> Manifest:
    """The utterances in the order of the CSV; ids are the audio files' names and line numbers."""
    text_of = Transcripts()
    utterances = []
    for line, audio, transcript in read_csv(path):
        where = f"{path}:{line}"
        try:
            info = soundfile.info(os.fsencode(audio))
        except (soundfile.LibsndfileError, OSError) as error:
            raise UserError(f"the audio {audio} cannot be read ({reason(error)})", where=where) from None
        if not info.frames:
            raise UserError(f"the audio {audio} is empty", where=where)
        text = text_of(audio, transcript, where)
        utterances.append(Utterance(f"{audio.stem}:{line}", str(audio.absolute()), info.duration, text))
    if not utterances:
        raise UserError("the manifest is empty", where=path)
    return Manifest(path.parent.absolute(), tuple(utterances))
