"""Builds the files of a package, with SHA256SUMS, and writes them atomically; the same runs give the same bytes."""

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
from benchmark.record import TIMING_VARIABLES, RunFacts
from benchmark.rounds.rules_by_round import rules_of
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
from common.files import natural_key
from results.comparing.score_of_runs import UNVERIFIED, score_runs
from results.packaging.run_checks import PackagedRun
from results.rendering.export import markdown_text

CODE_FOLDER = code_of("reference")
Files = dict[str, tuple[bytes, bool]]
"""{path inside ORG: (content, executable)}."""

_RUN_AND_TIME = """#!/bin/sh
# Makes one run like those of this result: sets up the environment, trains, prints the log.
#     sh run_and_time.sh            one run with a random seed
#     RUNS=10 sh run_and_time.sh    ten runs, with the score at the end
set -eu
here=$(CDPATH='' cd -P -- "$(dirname -- "$0")" && pwd -P)
{settings}
exec sh "$here/../implementations/reference/run_and_time.sh" --params "$here/params.yaml"{trainer} "$@"
"""


def system_files(runs: Sequence[PackagedRun], system: str, description: dict[str, Any]) -> Files:
    """The files of one system's result, except the code: description, logs, records, and how to reproduce them."""
    files: Files = {description_of(system): (_json(description), False)}
    for number, run in enumerate(runs):
        for name in [*run.record.files, RECORD_FILE]:
            source = run.folder / Path(name).name
            files[f"{results_of(system)}/{numbered(source.name, number)}"] = (source.read_bytes(), False)
    module = runs[0].record.trainer
    trainer = f" --trainer-module {shlex.quote(module)}" if module not in (None, TRAINER_MODULE) else ""
    script = _RUN_AND_TIME.format(settings=_settings(runs[0].record.run), trainer=trainer)
    setup = setup_of(system)
    files[f"{setup}/{README_FILE}"] = (_readme(runs, system, description).encode(), False)
    files[f"{setup}/{START_FILE}"] = (script.encode(), True)
    files[f"{setup}/{PARAMS_FILE}"] = ((runs[0].folder / PARAMS_FILE).read_bytes(), False)
    return files


def _settings(facts: RunFacts) -> str:
    """The lines of a shell script that set and export the run's settings, unless the caller's environment has others.

    A variable that was not set for the run is left alone.
    """
    values: dict[str, object] = {"DEVICE": facts.device, "NPROC": facts.nproc, "NNODES": facts.nnodes}
    if facts.drop_caches is False:
        values["DROP_CACHES"] = 0
    passed_on = {name: getattr(facts, name.lower()) for name in TIMING_VARIABLES}
    values |= {name: value for name, value in passed_on.items() if value is not None}
    # Records can come from others: quoted, no value is ever executed.
    lines = [f"{name}=${{{name}:-{shlex.quote(str(value))}}}" for name, value in values.items()]
    return "\n".join([*lines, f"export {' '.join(values)}"])


def _json(tree: dict[str, Any]) -> bytes:
    return (json.dumps(tree, indent=4, ensure_ascii=False) + "\n").encode()


def _readme(runs: Sequence[PackagedRun], system: str, description: dict[str, Any]) -> str:
    first = runs[0].record
    times = [run.record.run.minutes if run.record.status == "success" else None for run in runs]
    score = score_runs(rules_of(BENCHMARK), times)
    score_text = "none" if score.minutes is None else f"{score.minutes:.6f} minutes"
    lines = [
        f"# {BENCHMARK} on {markdown_text(system)}",
        "",
        f"Score: {score_text}, {score.rule}; {UNVERIFIED}.",
        "",
        f"- variant {markdown_text(first.variant)}, {first.division} division, target WER {first.run.target_wer:g} %",
        f"- parameters: `params.yaml` (SHA-256 of the values {first.params_sha256})",
        f"- dataset {markdown_text(first.dataset.name)}, tree SHA-256 {first.dataset.tree_sha256}, "
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
    if runs[0].logged.get("input_format") == "packed":
        pack = "python -m datasets pack DATASET"
        lines += ["", f"These runs read packed audio. Pack the dataset's folder, once, before the first run: `{pack}`."]
    lines += ["", "To make a run like these:", "", "    sh run_and_time.sh", ""]
    return "\n".join(lines)


def write_tree(folder: Path, system: str, own: Files, code: Files) -> bool:
    """Write these files to `folder` (ORG), keeping those of other systems; True if anything changed.

    The new tree is built next to the old one and replaces it at the end, so that an interruption leaves the old one.
    """
    own = own | {f"{CODE_FOLDER}/{name}": content for name, content in code.items()}
    kept = _files_of_other_systems(folder, system, set(own))
    _require_one_code_version(folder, kept, own)
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
                "only regular files are allowed in a package", where=path, remedy="remove it, or choose another --out"
            )
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = (path.read_bytes(), os.access(path, os.X_OK))
    return found


def _files_of_other_systems(folder: Path, system: str, own: set[str]) -> Files:
    """The files of other systems in an earlier package of this submitter; UserError if `folder` is not a package."""
    if not folder.exists():
        return {}
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / SUMS_FILE).is_file()):
        raise UserError("this folder is not a package", where=folder, remedy="choose another --out")
    replaced = (f"{results_of(system)}/", f"{setup_of(system)}/")
    return {
        name: content
        for name, content in _on_disk(folder).items()
        if name not in own and name != SUMS_FILE and not name.startswith(replaced)
    }


def _require_one_code_version(folder: Path, kept: Files, own: Files) -> None:
    """Keep one version of the code per package: drop the old one, unless other systems' results need it."""
    prefix = CODE_FOLDER + "/"
    old = {name: kept.pop(name) for name in list(kept) if name.startswith(prefix)}
    others = any(name.startswith(f"{RESULTS}/") for name in kept)
    before = _on_disk(folder) if others else {}
    changed = [name for name in own if name.startswith(prefix) and before.get(name, own[name]) != own[name]]
    if others and (old or changed):
        raise UserError(
            "the results of the other systems in this package were made by other code",
            where=folder,
            remedy="package them from one commit, or choose another --out",
        )
