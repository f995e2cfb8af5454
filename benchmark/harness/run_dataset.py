"""The data a run trains on: which variant it calls for, made where it can be made, and found whole before the clock."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmark.harness import launch
from benchmark.machine.estimates import SYNTHESIS_CORE_MIN, expected_minutes, gpu_bytes
from benchmark.machine.trainer_gpus import Usable, usable_gpus
from benchmark.params import Params, load_params, load_variant
from benchmark.settings import Settings
from common import limits
from common.errors import EXIT_ERROR, UserError
from common.locks import FileLock
from datasets.checksums import tarball
from datasets.dataset import LIBRISPEECH, Dataset, Stamp, is_prepared, read_dataset, read_stamp
from datasets.synthesis.plans import is_synthesised, synthesis_arguments, version_of


class TreeSize(NamedTuple):
    """How much a folder holds; the tar is padded to 10 KiB, so small changes inside files go unseen here."""

    files: int
    tar_bytes: int

    def __str__(self) -> str:
        return f"{self.files:,} files ({self.tar_bytes:,} bytes as a tar)"


def choose_params(settings: Settings, say: Callable[[str], None], usable: Usable | None = None) -> Params:
    """The run's parameters; `usable` is what `usable_gpus` says, where it was asked already.

    Where the user named none: `librispeech` when its data lie ready, else `synthetic` on a GPU and `mini` on a CPU.
    """
    if settings.params_file:
        return load_params(settings.params_file)
    if settings.variant:
        return load_variant(settings.variant)
    folder = settings.data_dir / LIBRISPEECH
    if is_prepared(folder):
        say(f"variant librispeech: VARIANT is not set, and a prepared LibriSpeech lies in {folder}")
        return load_variant("librispeech")
    why = f"VARIANT is not set, and no prepared LibriSpeech lies in {folder}"
    params = load_variant("synthetic")
    usable = usable or usable_gpus(settings)
    reason = usable.why_none
    if usable.gpus:
        card, needed = usable.gpus[0], gpu_bytes(params.train.batch_size, settings.processes * settings.nodes)
        if usable.memory_bytes >= needed:
            say(f"variant synthetic: {why}; {card} is used. {_how_long(params, card, settings)}")
            return params
        reason = (
            f"{card} has {usable.memory_bytes / 1e9:.0f} GB of memory, and the longest batches of synthetic need some "
            f"{needed / 1e9:.0f} (share the batch among several GPUs with NPROC, or try it with VARIANT=synthetic)"
        )
    say(f"variant mini: {why}; {reason}. It takes a minute or two on two CPU cores")
    return load_variant("mini")


def _how_long(params: Params, card: str, settings: Settings) -> str:
    said = "How long it takes on this card is not known"
    expected = expected_minutes(params, card, settings.processes * settings.nodes)
    if expected:
        said = f"Estimated from this card's limits, training takes some {expected[0]:.0f} to {expected[1]:.0f} minutes"
    if not is_prepared(settings.data_dir / params.data.folder):
        cores = limits.cores()
        said += f"; synthesising its corpus before that, once, some {max(1.0, SYNTHESIS_CORE_MIN / cores):.0f} on {cores} cores"
    return said


def ready_dataset(params: Params, settings: Settings, say: Callable[[str], None]) -> Dataset:
    """The whole data set that `params` names, synthesised first (untimed) where it is missing and can be.

    Raises UserError where it is missing, half-made or damaged.
    """
    folder = settings.data_dir / params.data.folder
    if is_synthesised(folder.name) and not is_prepared(folder):
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        lock = settings.data_dir / f".{folder.name}.lock"
        with FileLock(lock, lambda: say("another run is making the corpus; waiting for it")):
            # Another run may have made it while this one waited.
            if not is_prepared(folder):
                say(f"making the corpus {folder.name} in {settings.data_dir} (once; not part of the timed run)")
                _synthesise(folder.name, settings.data_dir)
    dataset = _read(folder)
    _check_version(dataset)
    check_whole(dataset, (params.data.train_split, params.data.eval_split))
    return dataset


def valid_stamp(dataset: Dataset) -> Stamp | None:
    """The data set's last verification if it passed and was of this very content, else None."""
    stamp = read_stamp(dataset.folder)
    return stamp if stamp and stamp.passed and stamp.tree_sha256 == dataset.digest.tree_sha256 else None


def check_whole(dataset: Dataset, splits: tuple[str, ...]) -> None:
    """Raise UserError unless the data set's files are all there: names, sizes and counts, without reading the audio.

    Damage inside a file is found by `sh verify_dataset.sh`, which reads them all.
    """
    remedy = _remedy(dataset.folder)
    members = list(tarball.members(dataset.folder))
    sizes = {os.fsdecode(m.path): m.size for m in members if not m.is_folder and m.link is None}
    for name in splits:
        manifest = dataset.manifest(name)
        promised = dataset.splits[name].utterances
        if len(manifest) != promised:
            raise UserError(
                f"{len(manifest)} utterances where the data set's description promises {promised}",
                where=dataset.folder / dataset.splits[name].manifest,
                remedy=remedy,
            )
        for utterance in manifest:
            path = manifest.audio_path(utterance)
            size = sizes.get(utterance.audio)
            if size is None and not path.is_file():
                raise UserError("an audio file of the manifest is missing", where=path, remedy=remedy)
            if size == 0:
                raise UserError("an audio file is empty", where=path, remedy=remedy)
    length = sum(tarball.BLOCK + tarball.padded(m.size) for m in members)
    found = TreeSize(sum(not m.is_folder for m in members), length + tarball.ending(length))
    expected = TreeSize(dataset.digest.files, dataset.digest.tar_bytes)
    if found != expected:
        raise UserError(
            f"it holds {found} where its description promises {expected}",
            where=dataset.folder,
            remedy=f"`sh verify_dataset.sh` names the difference; {remedy}",
        )


def _check_version(dataset: Dataset) -> None:
    """UserError where a corpus of the benchmark's own was made by an earlier version of it, and holds other bytes."""
    made, current = dataset.provenance.get("version"), version_of(dataset.folder.name)
    if None not in (made, current) and made != current:
        raise UserError(
            f"the corpus is of version {made}, where the benchmark's is now of version {current}",
            where=dataset.folder,
            remedy=_remedy(dataset.folder),
        )


def _read(folder: Path) -> Dataset:
    try:
        return read_dataset(folder)
    except UserError as error:
        raise UserError(error.what, where=error.where, remedy=_remedy(folder)) from None


def _remedy(folder: Path) -> str:
    if is_synthesised(folder.name):
        return f"remove {folder} and start again: it is made anew"
    if folder.name == LIBRISPEECH:
        return "`sh script/download_dataset.sh all` fetches and prepares what is missing; DATA_DIR says where"
    return "`python -m datasets import --help` tells how to bring a corpus in; DATA_DIR says where it is looked for"


def _synthesise(name: str, data_dir: Path) -> None:
    command = [sys.executable, "-m", "datasets", "synthesise", *synthesis_arguments(name), "--data-dir", str(data_dir)]
    # Its stdout must not reach ours, which belongs to the log.
    status = launch.run_to_the_end(command)
    if status != 0:
        what = "was killed" if status < 0 else f"ended with exit status {status}"
        kept = "see its message above" if status == EXIT_ERROR else "see its output above"
        raise UserError(f"the synthesis of the corpus {name} {what}", where=data_dir / name, remedy=kept)
