"""`python -m results verify-dataset`: checks that a dataset is bit-identical to its reference.

The folder is read once and checksummed as its normalised tar, which is not written. The sums are compared with a
reference: `--expect`, else the digest committed for `mini` or `synthetic`, else the dataset's own description.
LibriSpeech's description was computed from the content of archives with the published SHA-256, so equal sums prove
that the files are those of the archives.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from common import limits
from common.cli import HelpFormatter
from common.errors import EXIT_FAILED, EXIT_OK, UserError, one_line
from common.progress import Progress
from datasets.checksums.digest import TreeSums, sum_tree
from datasets.checksums.posix_cksum import file_cksum
from datasets.checksums.tarball import absolute, tar_bytes
from datasets.command_options import default_folder
from datasets.dataset import Dataset, Stamp, description_path, read_dataset, write_stamp
from results.dataset_check.difference import describe_difference
from results.dataset_check.partial_sums import Cache
from results.dataset_check.reference import Reference, find_references, parse_expected
from results.dataset_check.write_tarball import check_target, write_tarball

REFERENCE_WAV_BYTES = 113_699_829_760
"""The length of the MLPerf reference's own tar of its processed tree, all seven archives as WAV and txt files."""

PASSED, FAILED = "Dataset Checksum Passed.", "WARNING: Dataset Checksum Failed."
MEGABYTE = 1_000_000

EPILOG = """examples:
  sh verify_dataset.sh
  sh verify_dataset.sh data/mini --quick

The cksum line is the output of this command, in the parent of the dataset's folder NAME:

  tar --sort=name --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rw,go=r,a+X -cf - NAME | cksum

with GNU tar up to 1.34 (later versions leave two fields empty and give other sums).

Exit status: 0 passed; 1 failed: missing, extra and changed files are listed; 2 could not be checked."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; `arguments` exclude its name."""
    options = _parser().parse_args(arguments)
    folder = absolute(options.folder or default_folder())
    limits.check_processes(options.processes)
    if options.tarball and options.tarball.exists():
        return _verify_tar_file(options.tarball, folder, options.expect)
    if not folder.is_dir():
        raise UserError(
            "no dataset here",
            where=folder,
            remedy="give its folder, or prepare it (`sh script/download_dataset.sh`, `python -m datasets --help`)",
        )
    dataset = read_dataset(folder) if description_path(folder).exists() else None
    references = find_references(folder, dataset, options.expect)
    if not references:
        _refuse_folder_of_datasets(folder)
    if options.tarball:
        check_target(folder, options.tarball)
    sums = _read(folder, dataset, options)
    _print_sums(folder, sums)
    if options.tarball:
        write_tarball(folder, options.tarball, sums.digest)
    if not references:
        raise UserError(
            "there is no reference for these sums: the dataset has no description",
            where=folder,
            remedy="prepare it again, or give a known sum with --expect",
        )
    own = find_references(folder, dataset, None) if options.expect else references
    if own and not options.quick:
        # A sum given by the user proves nothing about the dataset: record the result for the dataset's own sums.
        intact = any(reference.matches(sums) for reference in own)
        if intact != any(reference.matches(sums) for reference in references):
            print(f"{'equal' if intact else 'NOT equal'} to {own[-1].title}: this is recorded for later runs")
        _stamp(folder, sums, intact)
    passed = _report(folder, dataset, references, sums)
    return EXIT_OK if passed else EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m results verify-dataset",
        description="Checksum a dataset and compare it with its reference.",
        epilog=EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        metavar="DIR",
        help="the dataset's folder (default: LibriSpeech's, else synthetic's, else mini's)",
    )
    parser.add_argument(
        "--expect",
        type=parse_expected,
        metavar="SUM",
        help="compare with this sum instead: `CKSUM`, `CKSUM:BYTES` or the SHA-256 tree digest",
    )
    parser.add_argument("--cache", action="store_true", help="if interrupted, resume from there the next time")
    parser.add_argument(
        "--quick", action="store_true", help="only cksum, without SHA-256: finds damage, but does not count as verified"
    )
    parser.add_argument(
        "--tarball", type=Path, metavar="FILE", help="also write the tar to FILE; checksum FILE if it exists"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="number of reader processes (default: one per core)")
    return parser


def _refuse_folder_of_datasets(folder: Path) -> None:
    """Raise UserError if `folder` contains datasets but is not one: `data` was given instead of `data/mini`."""
    ending = description_path(folder).name.removeprefix(folder.name)
    if names := [path.name.removesuffix(ending) for path in sorted(folder.glob("*" + ending))]:
        raise UserError(
            "this folder contains datasets, but is not one",
            where=folder,
            remedy=f"give one of them: {', '.join(str(folder / name) for name in names)}",
        )


def _read(folder: Path, dataset: Dataset | None, options: argparse.Namespace) -> TreeSums:
    total = dataset.digest.tar_bytes if dataset else tar_bytes(folder)
    cache = Cache(folder) if options.cache else None
    with Progress(f"verifying {folder.name}", -(-total // MEGABYTE), "MB") as bar:

        def progress(done: int) -> None:
            bar.update(min(-(-done // MEGABYTE), bar.total))

        sums = sum_tree(folder, options.processes, progress, cache=cache, sha256=not options.quick)
    if cache is not None:
        # Sums read earlier prove nothing about the files later: the cache serves one verification.
        cache.remove()
    return sums


def _print_sums(folder: Path, sums: TreeSums) -> None:
    print(f"cksum   {sums.digest.tar_cksum} {sums.digest.tar_bytes}  (the tar of {one_line(folder.name)})")
    if sums.digest.tree_sha256:
        print(f"sha256  {sums.digest.tree_sha256}  (the tree of {sums.digest.files:,} files)")


def _report(folder: Path, dataset: Dataset | None, references: Sequence[Reference], sums: TreeSums) -> bool:
    """Print the result and its reference; return whether it passed."""
    matched = next((reference for reference in references if reference.matches(sums)), None)
    if dataset and dataset.layout == "wav":
        print(f"bytes   {sums.digest.tar_bytes:,}; the MLPerf reference's tar has {REFERENCE_WAV_BYTES:,}")
    if matched is None:
        for line in describe_difference(folder, dataset, references[0], sums):
            print(line)
        print(FAILED)
        return False
    print(f"equal to {matched.title}")
    if matched is not references[0]:
        print(
            f"not equal to {references[0].title}: nothing is damaged, but this machine's synthesis produces other bytes; "
            "compare results only between datasets with equal sums"
        )
    print(PASSED)
    return True


def _stamp(folder: Path, sums: TreeSums, passed: bool) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    try:
        path = write_stamp(folder, Stamp(now, sums.digest.tree_sha256, passed))
    except OSError as error:
        # The result is valid without it, but later runs will not find it.
        print(
            f"the verification is not recorded for later runs ({error.strerror}: {error.filename}) - "
            "set XDG_STATE_HOME to a writable folder, here and for the runs",
            file=sys.stderr,
        )
        return
    if path.parent != folder.parent:
        print(
            f"recorded for this user's later runs in {one_line(str(path))}, since {folder.parent} is not writable",
            file=sys.stderr,
        )


def _verify_tar_file(path: Path, folder: Path, expected: Reference | None) -> int:
    """Checksum an existing tar and compare it with the reference of its dataset."""
    dataset = read_dataset(folder) if folder.is_dir() and description_path(folder).exists() else None
    references = find_references(folder, dataset, expected)
    total = os.path.getsize(path)
    with Progress(f"checksumming {path.name}", -(-total // MEGABYTE), "MB") as bar:
        crc, length = file_cksum(path, lambda done: bar.update(-(-done // MEGABYTE)))
    print(f"cksum   {crc} {length}  {one_line(str(path))}")
    matched = next((reference for reference in references if reference.matches_tar(crc, length)), None)
    if not references or all(reference.tar_cksum is None for reference in references):
        raise UserError(
            "there is no reference for this sum",
            where=path,
            remedy="give the dataset's folder, or use --expect",
        )
    if matched:
        print(f"equal to {matched.title}")
    else:
        reference = references[0]
        print(f"expected {reference.tar_cksum} {reference.tar_bytes or ''}".rstrip() + f" ({reference.title})")
    print(PASSED if matched else FAILED)
    return EXIT_OK if matched else EXIT_FAILED
