"""`python -m datasets download SET`: LibriSpeech as a dataset, from the network or from local archives."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError
from datasets.command_options import add_data_dir, report_splits
from datasets.librispeech.archives import MIRRORS, PUBLISHED, SETS, load_table, select
from datasets.librispeech.assemble import Options, prepare
from datasets.librispeech.unpack import LAYOUTS

EPILOG = """examples:
  sh script/download_dataset.sh training
  sh script/download_dataset.sh clean_small --data-dir /big/disk

sets:
  all          960 h of training, dev and test, clean and other (61 GB)
  training     all but dev-other and test-other
  clean        train-clean-100, train-clean-360, dev-clean, test-clean (30 GB)
  clean_small  train-clean-100, dev-clean, test-clean (7 GB); also: clean_dev
  other        train-other-500, dev-other, test-other (31 GB)
  clean_test   test-clean (0.3 GB)

Archives that are already in DIR are kept: `clean_small` first and `all` later fetches only the rest.
After an interruption, the same command resumes where it stopped."""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command `download`."""
    parser = commands.add_parser(
        "download",
        help="fetch LibriSpeech and prepare it",
        description="Fetch LibriSpeech's archives, check them against their published hashes, and prepare the dataset.",
        epilog=EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("set", choices=SETS, metavar="SET", help=", ".join(SETS))
    add_data_dir(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--from-dir", type=Path, metavar="DIR", help="take the archives from DIR instead of fetching them"
    )
    source.add_argument(
        "--base-url", metavar="URL", help="fetch from URL/NAME.tar.gz instead of OpenSLR and its mirrors"
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="flac",
        help="flac (default; as published), or wav: the MLPerf reference's own layout, 114 GB for `all`",
    )
    parser.add_argument(
        "--deep", action="store_true", help="decode all audio and compare it with the MD5 in its headers"
    )
    parser.add_argument(
        "--parallel", type=int, default=4, metavar="N", help="archives processed in parallel (default: 4)"
    )
    parser.add_argument(
        "--delete-archives", action="store_true", help="delete each fetched archive once it is unpacked (saves 61 GB)"
    )
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)  # for tests: replaces the published archives
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.parallel < 1:
        raise UserError("must be 1 or more", where="--parallel")
    if options.from_dir and not options.from_dir.is_dir():
        raise UserError("no such folder", where=options.from_dir)
    table = load_table(options.table) if options.table else PUBLISHED
    mirrors = [options.base_url.rstrip("/") + "/"] if options.base_url else MIRRORS
    options.data_dir.mkdir(parents=True, exist_ok=True)
    dataset = prepare(
        select(table, SETS[options.set]),
        table,
        options.data_dir,
        Options(
            mirrors=mirrors,
            from_dir=options.from_dir,
            layout=options.layout,
            parallel=options.parallel,
            deep=options.deep,
            delete_archives=options.delete_archives,
        ),
    )
    report_splits(dataset)
    print(f"prepared in {dataset.folder}; `sh verify_dataset.sh` checks it against these archives", file=sys.stderr)
    return EXIT_OK
