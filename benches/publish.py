"""Publish the output of `python -m benches gpu`, of one card or several, in results/published.

    python -m benches publish OUT [OUT ...]

Each OUT is an output folder of that bench (or of script/gpu_check.sh): gpu_bench.json and the timed runs, run_*.tar.gz. The
card's name determines the folder: results of an "NVIDIA H200" go to results/published/nvidia-h200/. There, each run becomes a
run folder (the log, the record, and the files whose SHA-256 is in the record), and the sections of all benches of that card
become one table, gpu_bench.json and gpu_bench.md, which states the bench of each section. A section replaces a published
one, and one from an earlier OUT, unless it measured nothing. A run that is already published stays unchanged.

Everything is checked before anything is written. Refused are: a damaged or unexpected archive, a run whose files do not
match the hashes in its record or that ran on another card, a run of the same name with other content, a record that contains
paths of the machine, and a rehearsal. If the target is this checkout's results/published, the README's table is updated
afterwards (script/readme_table.sh). Publishing the same output twice changes nothing. Exit status: 0 published, 2 refused.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benches.gpu.table import JSON as TABLE
from benches.gpu.table import MARKDOWN, ROOT, cell, markdown_of
from benchmark.record import RunRecord, hash_files, read_record
from benchmark.submission import HASHED_FILES, LOG_FILE, RECORD_FILE, UNFINISHED
from common.cli import HelpFormatter
from common.errors import EXIT_OK, UserError, run_cli
from common.files import write_atomically
from results.reading.discover import Source
from results.reading.load import read_run

PUBLISHED = ROOT / "results" / "published"
UNPACKED_BYTES = 64 << 20
"""Largest unpacked size of an archive: a run of a few minutes is well below one megabyte."""

_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_MEMBER = re.compile(rf"(?P<variant>{_NAME})/(?P<run>{_NAME})/(?P<file>{_NAME})")
_MACHINE_PATH = re.compile(r"(?<![\w.-])/(?:home|root|Users|tmp|var/tmp|var/folders|private)\b(?!\.)[^\s\"',;:)]*")


@dataclass(frozen=True)
class TimedRun:
    """One timed run from an archive: its folder's name, its files by name, and where it was read."""

    variant: str
    name: str
    files: dict[str, bytes]
    where: str


@dataclass(frozen=True)
class Section:
    """The rows of one section, and gpu_bench.json's facts about the bench that measured it (versions, seconds)."""

    rows: list[dict[str, Any]]
    bench: dict[str, Any]

    @property
    def measured(self) -> bool:
        """Whether there is any figure: a row with a reason has none."""
        return any("reason" not in row for row in self.rows)


@dataclass(frozen=True)
class Table:
    """The measurements of one card, by section; a rehearsal is not a measurement."""

    device: str
    rehearsal: bool
    sections: dict[str, Section]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; `arguments` excludes its name."""
    parser = argparse.ArgumentParser(
        prog="python -m benches publish", description=__doc__, formatter_class=HelpFormatter
    )
    parser.add_argument("out", nargs="+", type=Path, metavar="OUT", help="an output folder of the bench")
    parser.add_argument("--into", type=Path, default=PUBLISHED, help="default: results/published of this checkout")
    parser.add_argument(
        "--rehearsal", action="store_true", help="accept rehearsals, to try this command; needs another --into"
    )
    options = parser.parse_args(arguments)
    return run_cli(lambda: _publish(options.out, options.into, options.rehearsal))


def _publish(outs: list[Path], into: Path, rehearsal: bool) -> int:
    """Read and check everything, then write everything, then update the README."""
    here = into.resolve() == PUBLISHED.resolve()
    if rehearsal and here:
        raise UserError("a rehearsal is never published", where="--rehearsal", remedy="name another folder with --into")
    tables: dict[str, Table] = {}
    runs: dict[Path, TimedRun] = {}
    for out in outs:
        table = read_table(out / TABLE)
        if (table.rehearsal or _on_cpu(table)) and not rehearsal:
            raise UserError(
                f"a rehearsal ({table.device}), not a measurement",
                where=out,
                remedy="measure on a GPU: `sh script/gpu_check.sh`",
            )
        card = card_name(table.device)
        old = tables.get(card) or (read_table(into / card / TABLE) if (into / card / TABLE).exists() else None)
        tables[card] = merge(old, table, into / card / TABLE, out) if old else table
        for archive in sorted(out.glob("run_*.tar.gz")):
            for run in read_archive(archive):
                _check_run(run, table)
                place = into / card / run.variant / run.name
                if place in runs and runs[place].files != run.files:
                    raise UserError(f"another run of this name is in {runs[place].where}", where=run.where)
                runs[place] = run
    new = {place: run for place, run in runs.items() if not _is_published(place, run)}
    shown = PUBLISHED.relative_to(ROOT) if here else into
    _write(into, new, tables)
    for place in runs:
        print(f"{shown / place.relative_to(into)}: {'published' if place in new else 'already published'}")
    for card, table in tables.items():
        print(f"{shown / card / TABLE}, .md: {', '.join(table.sections)}")
    _warn(runs, tables)
    if here:
        _rewrite_readme()
    return EXIT_OK


def card_name(device: str) -> str:
    """A card's name as a folder: "NVIDIA H100 80GB HBM3" gives `nvidia-h100-80gb-hbm3`; UserError if that is empty."""
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    if not name:
        raise UserError(f"a card without a name: {device!r}", where=TABLE)
    return name


def _on_cpu(table: Table) -> bool:
    return table.device.startswith("CPU ")


def read_table(path: Path) -> Table:
    """Read a gpu_bench.json, either one bench's output or a published one; UserError if it is missing or damaged."""
    remedy = f"name the folder written by `python -m benches gpu --out FOLDER` ({TABLE} and run_*.tar.gz)"
    try:
        tree = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("there is no measurement here", where=path, remedy=remedy) from None
    except ValueError as error:
        raise UserError(f"damaged: not JSON ({error})", where=path, remedy=remedy) from None
    try:
        device, rehearsal, rows = tree["device"], tree["rehearsal"], tree["rows"]
        # A published table lists its benches; in a bench's own output, all other keys describe that bench.
        own = {key: value for key, value in tree.items() if key not in ("device", "rehearsal", "rows", "benches")}
        benches = {name: each["bench"] for each in tree.get("benches", []) for name in each["sections"]}
        by_section: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_section.setdefault(row["section"], []).append(row)
        valid = isinstance(device, str) and isinstance(rehearsal, bool) and all(isinstance(row, dict) for row in rows)
        valid &= all(isinstance(bench, dict) for bench in benches.values())
        valid &= all(isinstance(name, str) for name in by_section)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"damaged: not a bench's table ({error!r})", where=path, remedy=remedy) from None
    if not valid or not rows:
        raise UserError("damaged: not a bench's table, or a table without rows", where=path, remedy=remedy)
    return Table(
        device, rehearsal, {name: Section(found, benches.get(name, own)) for name, found in by_section.items()}
    )


def merge(old: Table, new: Table, old_place: Path, new_place: Path) -> Table:
    """The sections of both; those of `new` take precedence. UserError if they cannot be in one table."""
    if (old.device, old.rehearsal) != (new.device, new.rehearsal):
        raise UserError(
            f"{new.device!r}{' (a rehearsal)' * new.rehearsal} cannot be combined with"
            f" {old.device!r}{' (a rehearsal)' * old.rehearsal} in {old_place}",
            where=new_place,
            remedy="name another folder with --into",
        )
    sections = dict(old.sections)
    for name, section in new.sections.items():
        if section.measured or name not in sections or not sections[name].measured:
            sections[name] = section
    return replace(old, sections=sections)


def read_archive(archive: Path) -> list[TimedRun]:
    """The runs in an archive; UserError if it is damaged, too large, or has anything but files at VARIANT/RUN/FILE.

    Writes nothing: files are read into memory, so names in the archive cannot refer to paths outside it.
    """
    found: dict[tuple[str, str], dict[str, bytes]] = {}
    for name, data in _members(archive):
        match = _MEMBER.fullmatch(name)
        if match is None:
            raise _refused(archive, f"its member {name!r} is not of the form VARIANT/RUN/FILE")
        files = found.setdefault((match["variant"], match["run"]), {})
        if match["file"] in files:
            raise _refused(archive, f"its member {name!r} is duplicated")
        files[match["file"]] = data
    if not found:
        raise _refused(archive, "it is empty")
    # The record has no hashes of a run folder's other files (a profile).
    kept = (RECORD_FILE, *HASHED_FILES)
    return [
        TimedRun(variant, name, {file: files[file] for file in kept if file in files}, f"{archive}: {variant}/{name}")
        for (variant, name), files in found.items()
    ]


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every member, all of which must be regular files."""
    try:
        # Limit the size here, whatever the headers inside claim.
        with gzip.open(archive) as file:
            data = file.read(UNPACKED_BYTES + 1)
        if len(data) > UNPACKED_BYTES:
            raise _refused(archive, f"it contains more than {UNPACKED_BYTES >> 20} MiB")
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                if not member.isreg() or member.issparse():
                    raise _refused(archive, f"its member {member.name!r} is not a regular file")
                source = tar.extractfile(member)
                assert source is not None  # It is a regular file.
                yield member.name, source.read()
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, ValueError) as error:
        raise _refused(archive, f"it is damaged ({error})") from None


def _refused(archive: Path, why: str) -> UserError:
    return UserError(
        f"the archive was refused and nothing was published: {why}",
        where=archive,
        remedy="copy it again from the machine that made it",
    )


def _check_run(run: TimedRun, table: Table) -> None:
    """UserError if files do not match the record, the run did not end or ran on another card, or its record contains paths."""
    # In a temporary folder, because the readers shared with the other commands take a folder.
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        _write_files(folder, run)
        try:
            record = read_record(folder)
        except UserError as error:
            raise UserError(error.what, where=str(error.where).replace(str(folder), run.where)) from None
        _check_record(run, record, hash_files(folder))
        read = read_run(Source(folder / LOG_FILE, folder / RECORD_FILE))
    card = read.accelerator if read.accelerators else None
    if card != (None if _on_cpu(table) else table.device):
        raise UserError(f"according to its log it ran on {card or 'a CPU'}, not on {table.device}", where=run.where)


def _check_record(run: TimedRun, record: RunRecord, hashes: dict[str, str]) -> None:
    changed = sorted(name for name in {*hashes, *record.files} if hashes.get(name) != record.files.get(name))
    if changed:
        raise UserError(
            f"files do not match the hashes in the run's record: {', '.join(changed)}",
            where=run.where,
            remedy="copy it again from the machine that made it; an edited run is not a result",
        )
    if LOG_FILE not in record.files or record.status in UNFINISHED:
        raise UserError(f"the run did not end (status {record.status})", where=run.where)
    if record.variant != run.variant:
        raise UserError(f"the record is for the variant {record.variant}", where=run.where)
    # The harness records variables' names instead of folders (benchmark/harness/job.py), so nothing is replaced here.
    paths = [part for part in record.command if part.startswith("/")]
    paths += _MACHINE_PATH.findall(run.files[RECORD_FILE].decode())
    if paths:
        raise UserError(
            f"the record contains a path of the machine: {paths[0]}",
            where=f"{run.where}/{RECORD_FILE}",
            remedy="repeat the run with this version, whose records contain DATA_DIR and RESULTS_DIR instead",
        )


def _is_published(place: Path, run: TimedRun) -> bool:
    """Whether the run is already published; UserError if another run of that name is."""
    if not place.exists():
        return False
    if place.is_dir() and {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == run.files:
        return True
    raise UserError(
        f"another run of this name is already published, with other content than {run.where}; nothing was published",
        where=place,
        remedy="delete the one that is not a result",
    )


def _write(into: Path, runs: dict[Path, TimedRun], tables: dict[str, Table]) -> None:
    """Write everything to a temporary folder first, so that a failed write leaves nothing behind."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=into) as staged:
        for number, run in enumerate(runs.values()):
            _write_files(Path(staged) / str(number), run)
        for number, place in enumerate(runs):
            place.parent.mkdir(parents=True, exist_ok=True)
            os.rename(Path(staged) / str(number), place)
    for card, table in tables.items():
        (into / card).mkdir(exist_ok=True)
        for name, text in ((TABLE, as_json(table)), (MARKDOWN, as_markdown(table))):
            path = into / card / name
            if not path.exists() or path.read_bytes() != text.encode():
                write_atomically(path, text.encode())


def _write_files(folder: Path, run: TimedRun) -> None:
    folder.mkdir()
    for name, data in run.files.items():
        (folder / name).write_bytes(data)


def benches_of(table: Table) -> list[tuple[dict[str, Any], list[str]]]:
    """Each bench that measured part of the table, with its sections."""
    found: list[tuple[dict[str, Any], list[str]]] = []
    for name, section in table.sections.items():
        for bench, names in found:
            if bench == section.bench:
                names.append(name)
                break
        else:
            found.append((section.bench, [name]))
    return found


def as_json(table: Table) -> str:
    """The published gpu_bench.json: the rows as the benches wrote them, and the bench of each section."""
    tree = {
        "device": table.device,
        "rehearsal": table.rehearsal,
        "benches": [{"sections": names, "bench": bench} for bench, names in benches_of(table)],
        "rows": [row for section in table.sections.values() for row in section.rows],
    }
    return json.dumps(tree, indent=1) + "\n"


def as_markdown(table: Table) -> str:
    """The published gpu_bench.md: the benches with their sections, and one table per section."""
    lines = [f"# {table.device}" + " (rehearsal, not a measurement)" * table.rehearsal, ""]
    for bench, names in benches_of(table):
        facts = ", ".join(f"{key} {cell(value)}" for key, value in bench.items() if value is not None)
        lines.append(f"- {', '.join(names)}: {facts}")
    for name, section in table.sections.items():
        lines += markdown_of(name, section.rows)
    return "\n".join(lines) + "\n"


def _warn(runs: dict[Path, TimedRun], tables: dict[str, Table]) -> None:
    """Warn about published files that contain paths of the machine; their hashes are in the record, so they cannot be edited."""
    texts = {str(place / name): data for place, run in runs.items() for name, data in run.files.items()}
    texts |= {f"{card}/{TABLE}": as_json(table).encode() for card, table in tables.items()}
    for where, data in texts.items():
        if match := _MACHINE_PATH.search(data.decode(errors="replace")):
            print(
                f"warning: {where}: contains a path of the machine ({match[0]}): check it before you commit",
                file=sys.stderr,
            )


def _rewrite_readme() -> None:
    """Update the README's table."""
    # This interpreter has every package: do not start a set-up.
    environment = os.environ | {"PYTHON": sys.executable}
    if subprocess.run(["sh", "script/readme_table.sh"], cwd=ROOT, env=environment).returncode:
        raise UserError(
            "everything is published, but the README's table could not be updated",
            where="README.md",
            remedy="run `sh script/readme_table.sh`",
        )
    print("README.md: table updated from results/published")
