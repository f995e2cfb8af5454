"""The dataset of a run: the variant that it implies, its synthesis, and its check before the clock starts."""

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
    """The size of a folder; the tar is padded to 10 KiB, so small changes of a file's size are not seen here."""

    files: int
    tar_bytes: int

    def __str__(self) -> str:
        return f"{self.files:,} files ({self.tar_bytes:,} bytes as a tar)"


def choose_params(settings: Settings, notify: Callable[[str], None], usable: Usable | None = None) -> Params:
    """The run's parameters; `usable` is the result of `usable_gpus`, if it is known already.

    By default: `librispeech` if its dataset is prepared, else `synthetic` on a GPU and `mini` on a CPU.
    """
    if settings.params_file:
        return load_params(settings.params_file)
    if settings.variant:
        return load_variant(settings.variant)
    folder = settings.data_dir / LIBRISPEECH
    if is_prepared(folder):
        notify(f"variant librispeech: VARIANT is not set, and there is a prepared LibriSpeech in {folder}")
        return load_variant("librispeech")
    why = f"VARIANT is not set, and there is no prepared LibriSpeech in {folder}"
    params = load_variant("synthetic")
    usable = usable or usable_gpus(settings)
    reason = usable.why_none
    if usable.gpus:
        card, needed = usable.gpus[0], gpu_bytes(params.train.batch_size, settings.processes * settings.nodes)
        if usable.memory_bytes >= needed:
            notify(f"variant synthetic: {why}; using {card}. {_time_estimate(params, card, settings)}")
            return params
        reason = (
            f"{card} has {usable.memory_bytes / 1e9:.0f} GB of memory, and the longest batches of synthetic need about "
            f"{needed / 1e9:.0f} (split the batch over several GPUs with NPROC, or try it with VARIANT=synthetic)"
        )
    notify(f"variant mini: {why}; {reason}. It takes a minute or two on two CPU cores")
    return load_variant("mini")


def _time_estimate(params: Params, card: str, settings: Settings) -> str:
    text = "The time to train on this GPU is not known"
    expected = expected_minutes(params, card, settings.processes * settings.nodes)
    if expected:
        text = (
            f"Estimated from this GPU's roofline, training takes about {expected[0]:.0f} to {expected[1]:.0f} minutes"
        )
    if not is_prepared(settings.data_dir / params.data.folder):
        cores = limits.cores()
        minutes = max(1.0, SYNTHESIS_CORE_MIN / cores)
        text += f"; synthesising its corpus first, once, about {minutes:.0f} on {cores} cores"
    return text


def ready_dataset(params: Params, settings: Settings, notify: Callable[[str], None]) -> Dataset:
    """The complete dataset of `params`, synthesised first (untimed) if it is missing and can be synthesised.

    Raises UserError if it is missing, incomplete or damaged.
    """
    folder = settings.data_dir / params.data.folder
    if is_synthesised(folder.name) and not is_prepared(folder):
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        lock = settings.data_dir / f".{folder.name}.lock"
        with FileLock(lock, lambda: notify("another run is synthesising the corpus; waiting for it")):
            # Another run may have synthesised it while this one waited.
            if not is_prepared(folder):
                notify(
                    f"synthesising the corpus {folder.name} in {settings.data_dir} (once; not part of the timed run)"
                )
                _synthesise(folder.name, settings.data_dir)
    dataset = _read(folder)
    _check_version(dataset)
    check_whole(dataset, (params.data.train_split, params.data.eval_split))
    return dataset


def valid_stamp(dataset: Dataset) -> Stamp | None:
    """The dataset's last verification if it passed and was of exactly this content, else None."""
    stamp = read_stamp(dataset.folder)
    return stamp if stamp and stamp.passed and stamp.tree_sha256 == dataset.digest.tree_sha256 else None


def check_whole(dataset: Dataset, splits: tuple[str, ...]) -> None:
    """Raise UserError unless the dataset is complete: names, sizes and counts of its files, without reading the audio.

    `sh verify_dataset.sh` reads every file and finds damage inside them.
    """
    remedy = _remedy(dataset.folder)
    members = list(tarball.members(dataset.folder))
    sizes = {os.fsdecode(m.path): m.size for m in members if not m.is_folder and m.link is None}
    for name in splits:
        manifest = dataset.manifest(name)
        promised = dataset.splits[name].utterances
        if len(manifest) != promised:
            raise UserError(
                f"{len(manifest)} utterances, but the dataset's description has {promised}",
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
    found = TreeSize(sum(not m.is_folder for m in members), length + tarball.trailing_zeros(length))
    expected = TreeSize(dataset.digest.files, dataset.digest.tar_bytes)
    if found != expected:
        raise UserError(
            f"it holds {found}, but its description has {expected}",
            where=dataset.folder,
            remedy=f"`sh verify_dataset.sh` shows the difference; {remedy}",
        )


def _check_version(dataset: Dataset) -> None:
    """UserError if a synthesised corpus was made by another version of the synthesis, and so differs."""
    made, current = dataset.provenance.get("version"), version_of(dataset.folder.name)
    if None not in (made, current) and made != current:
        raise UserError(
            f"the corpus has version {made}, but the benchmark now synthesises version {current}",
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
        return f"remove {folder} and start again: it is then synthesised again"
    if folder.name == LIBRISPEECH:
        return "`sh script/download_dataset.sh all` downloads and prepares what is missing in DATA_DIR"
    return "see `python -m datasets import --help` for importing a corpus; DATA_DIR is the folder that is searched"


def _synthesise(name: str, data_dir: Path) -> None:
    command = [sys.executable, "-m", "datasets", "synthesise", *synthesis_arguments(name), "--data-dir", str(data_dir)]
    # Its stdout must not go to ours, which carries the log.
    status = launch.run_to_completion(command)
    if status != 0:
        what = "was killed" if status < 0 else f"ended with exit status {status}"
        kept = "see its message above" if status == EXIT_ERROR else "see its output above"
        raise UserError(f"the synthesis of the corpus {name} {what}", where=data_dir / name, remedy=kept)
