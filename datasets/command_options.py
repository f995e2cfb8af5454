"""Command-line options and output that several `python -m datasets` commands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.progress import format_duration
from datasets.dataset import LIBRISPEECH, Dataset, default_data_dir, is_prepared


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Add `--data-dir`, for the commands that make datasets."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=default_data_dir(),
        help="folder of the datasets (default: DATA_DIR, else data/ in the checkout)",
    )


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Add the positional `folder`, for the commands that read a prepared dataset; None stands for `default_folder`."""
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="the dataset's folder (default: LibriSpeech, else synthetic, else mini)",
    )


def add_processes(parser: argparse.ArgumentParser, unit: str) -> None:
    """Add `--processes`, for the commands that process `unit` (files, chapters) in parallel."""
    parser.add_argument(
        "--processes", type=int, metavar="N", help=f"{unit} processed in parallel (default: one per core)"
    )


def default_folder() -> Path:
    """The first of LibriSpeech, `synthetic` and `mini` that is prepared, else `mini`."""
    folders = [default_data_dir() / name for name in (LIBRISPEECH, "synthetic", "mini")]
    return next((folder for folder in folders if is_prepared(folder)), folders[-1])


def report_splits(dataset: Dataset) -> None:
    """Print the size of each split of a dataset that was just made to stderr."""
    for name, split in dataset.splits.items():
        speakers = "" if split.speakers is None else f", {split.speakers} speakers"
        print(
            f"{dataset.name} {name}: {split.utterances:,} utterances, {format_duration(split.duration_s)}{speakers}",
            file=sys.stderr,
        )
