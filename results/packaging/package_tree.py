"""The package's files as bytes, and how they get to disk: whole, sealed, the same bytes for the same runs."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.mllog import BENCHMARK
from benchmark.settings import TRAINER_MODULE
from benchmark.submission import (
    PARAMS_FILE,
    README_FILE,
    RECORD_FILE,
    RESULTS,
    START_FILE,
    SUMS_FILE,
    code_of,
    description_of,
    numbered,
    results_of,
    setup_of,
)
from common.errors import UserError
from results.comparing.scoring import UNVERIFIED, score_runs
from results.packaging.run_checks import PackagedRun
from results.reading.discover import natural_key
from results.rendering.export import markdown_text

CODE_FOLDER = code_of("reference")
Files = dict[str, tuple[bytes, bool]]
"""{path inside ORG: (content, executable)}."""

_RUN_AND_TIME = """#!/bin/sh
# Makes one run like those of this result: sets itself up, trains, prints the log.
#     sh run_and_time.sh            a run with a seed of its own
#     RUNS=10 sh run_and_time.sh    ten, with the score at the end
set -eu
here=$(CDPATH='' cd -P -- "$(dirname -- "$0")" && pwd -P)
DEVICE=${{DEVICE:-{device}}}
NPROC=${{NPROC:-{nproc}}}
NNODES=${{NNODES:-{nnodes}}}
export DEVICE NPROC NNODES
exec sh "$here/../implementations/reference/run_and_time.sh" --params "$here/params.yaml"{trainer} "$@"
"""


def system_files(runs: Sequence[PackagedRun], system: str, description: dict[str, Any]) -> Files:
    """The files of one system's result, except the code: description, logs, records, and how to make them again."""
    files: Files = {description_of(system): (_json(description), False)}
    for number, run in enumerate(runs):
        for name in [*run.record.files, RECORD_FILE]:
            source = run.folder / Path(name).name
            files[f"{results_of(system)}/{numbered(source.name, number)}"] = (source.read_bytes(), False)
    facts = runs[0].record.run
    module = runs[0].record.trainer
    own = f" --trainer-module {shlex.quote(module)}" if module not in (None, TRAINER_MODULE) else ""
    script = _RUN_AND_TIME.format(device=facts.device, nproc=facts.nproc, nnodes=facts.nnodes, trainer=own)
    setup = setup_of(system)
    files[f"{setup}/{README_FILE}"] = (_readme(runs, system, description).encode(), False)
    files[f"{setup}/{START_FILE}"] = (script.encode(), True)
    files[f"{setup}/{PARAMS_FILE}"] = ((runs[0].folder / PARAMS_FILE).read_bytes(), False)
    return files


def _json(tree: dict[str, Any]) -> bytes:
    return (json.dumps(tree, indent=4, ensure_ascii=False) + "\n").encode()


def _readme(runs: Sequence[PackagedRun], system: str, description: dict[str, Any]) -> str:
    first = runs[0].record
    good = [
        run.record.run.minutes for run in runs if run.record.status == "success" and run.record.run.minutes is not None
    ]
    score = score_runs(BENCHMARK, good, len(runs) - len(good))
    told = "none" if score.minutes is None else f"{score.minutes:.6f} minutes"
    lines = [
        f"# {BENCHMARK} on {markdown_text(system)}",
        "",
        f"Score: {told}, {score.rule}; {UNVERIFIED}.",
        "",
        f"- variant {markdown_text(first.variant)}, {first.division} division, target WER {first.run.target_wer:g} %",
        f"- parameters: `params.yaml` (SHA-256 of the values {first.params_sha256})",
        f"- data set {markdown_text(first.dataset.name)}, tree SHA-256 {first.dataset.tree_sha256}, "
        f"{first.dataset.train_utterances} training and {first.dataset.eval_utterances} evaluation utterances",
        f"- code: commit {first.code.commit}{'' if first.code.clean else ' with uncommitted changes'}, "
        "in `../implementations/reference`",
        f"- lock file: SHA-256 {first.lock_sha256}",
        f"- {markdown_text(str(description['framework']))}, {markdown_text(str(description['operating_system']))}",
        "",
        "| run | seed | started (UTC) | minutes | epochs | WER % | status |",
        "|---:|---:|:---|---:|---:|---:|:---|",
    ]
    for number, run in enumerate(runs):
        facts = run.record.run
        minutes = "" if facts.minutes is None else f"{facts.minutes:.6f}"
        wer = "" if facts.final_wer is None else f"{facts.final_wer:.2f}"
        cells = [number, run.record.seed, run.record.started_at, minutes, facts.epochs, wer, run.record.status]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "To make a run like these:", "", "    sh run_and_time.sh", ""]
    return "\n".join(lines)


def write_tree(folder: Path, system: str, own: Files, code: Files) -> bool:
    """Bring `folder` (ORG) to hold these files, besides those of other systems; True if anything changed.

    The new tree is made beside the old one and put in its place at the end, so that an interruption leaves the old one.
    """
    own = own | {f"{CODE_FOLDER}/{name}": content for name, content in code.items()}
    kept = _kept(folder, system, set(own))
    _one_code(folder, kept, own)
    tree = kept | own
    sums = "".join(f"{hashlib.sha256(tree[name][0]).hexdigest()}  {name}\n" for name in sorted(tree))
    tree[SUMS_FILE] = (sums.encode(), False)
    if folder.is_dir() and _on_disk(folder) == tree:
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        for name, (content, executable) in tree.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o755 if executable else 0o644)
        new.chmod(0o755)
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(new, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    return True


def _on_disk(folder: Path) -> Files:
    found: Files = {}
    for path in sorted(folder.rglob("*"), key=natural_key):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise UserError(
                "only plain files belong into a package", where=path, remedy="take it away, or choose another --out"
            )
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = (path.read_bytes(), os.access(path, os.X_OK))
    return found


def _kept(folder: Path, system: str, own: set[str]) -> Files:
    """What an earlier package of this submitter has of other systems; UserError where `folder` is no package."""
    if not folder.exists():
        return {}
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / SUMS_FILE).is_file()):
        raise UserError("something that is no package lies here", where=folder, remedy="choose another --out")
    replaced = (f"{results_of(system)}/", f"{setup_of(system)}/")
    return {
        name: content
        for name, content in _on_disk(folder).items()
        if name not in own and name != SUMS_FILE and not name.startswith(replaced)
    }


def _one_code(folder: Path, kept: Files, own: Files) -> None:
    """One submitter's package holds one version of the code: drop an old one, unless other systems' results need it."""
    room = CODE_FOLDER + "/"
    old = {name: kept.pop(name) for name in list(kept) if name.startswith(room)}
    others = any(name.startswith(f"{RESULTS}/") for name in kept)
    before = _on_disk(folder) if others else {}
    changed = [name for name in own if name.startswith(room) and before.get(name, own[name]) != own[name]]
    if others and (old or changed):
        raise UserError(
            "the other systems' results here were made by other code",
            where=folder,
            remedy="package them from one commit, or choose another --out",
        )
