"""RUNS=10: several timed runs in sequence, each with a seed drawn from the system before the first one starts.

The seeds are written down first, so that nothing, the harness included, can choose among results: an interrupted series
continues with its seeds, its interrupted run is resumed, and a run that failed after its clock started stays in the
series. Each run is a separate process (`python -m benchmark run`), and so is the score at the end
(`python -m results score`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import orjson

from benchmark.harness import launch
from benchmark.harness.display import Display
from benchmark.harness.run_dataset import choose_params
from benchmark.machine import system
from benchmark.params import Params
from benchmark.record import CodeVersion, RunRecord, read_record, timing_variables
from benchmark.settings import ROOT, Settings
from benchmark.submission import PARAMS_FILE, RECORD_FILE, UNFINISHED
from benchmark.trainer_contract import checkpoints
from common.errors import EXIT_ERROR, UserError
from common.files import write_atomically
from common.formats import SERIES
from common.locks import FileLock

FOLDER, FILE_NAME = "series", "series.json"
MOST_RUNS = 1000
POLL_S = 0.2


def wanted_runs(environ: Mapping[str, str]) -> int:
    """The number of runs that RUNS asks for, 1 where it is unset; UserError if it is not a valid number."""
    text = environ.get("RUNS") or "1"
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= MOST_RUNS or len(text) > 9:
        raise UserError(f"must be a whole number from 1 to {MOST_RUNS}, not {text!r}", where="RUNS")
    return int(text)


def run_series(settings: Settings, runs: int) -> int:
    """Do the remaining runs of a series of `runs` runs and print its score on stderr; returns the exit status.

    0: there is a score; 1: there is none, because too many runs missed the target; 2: the series could not be finished.
    """
    _refuse_contradictions(settings)
    display = Display()
    params = choose_params(settings, display.message)
    folder = _find_or_start(settings, params, runs, display)
    # Only one process at a time may continue a series.
    busy = UserError("this series is still in progress", where=folder, remedy="wait for it, or stop it")
    with FileLock(folder / FILE_NAME, busy), launch.stop_on_signals() as stop:
        stop.deferred = True
        seeds = read_plan(folder).seeds
        for number, seed in enumerate(seeds, 1):
            found = _state(folder, seed)
            if found is not None and _is_over(found[1]):
                continue
            display.message(f"run {number} of {runs}: seed {seed}" + (f", resuming {found[0]}" if found else ""))
            status = _one_run(settings, folder, seed, found, stop)
            if status == EXIT_ERROR:
                why = stop.reason or f"run {number} failed"
                display.message(
                    f"error: the series stopped: {why} - start it again with RUNS={runs} to continue: {folder}"
                )
                return EXIT_ERROR
    return _score(folder)


def _refuse_contradictions(settings: Settings) -> None:
    if settings.seed is not None:
        raise UserError("a series draws its own seeds", where="SEED", remedy="unset SEED, or unset RUNS")
    if settings.resume is not None:
        raise UserError("a series cannot be resumed by one run's folder", where="--resume", remedy="unset RUNS")
    if settings.nodes > 1:
        remedy = "start each run on every machine with one SEED, then `python -m results score` the runs"
        raise UserError("a series runs on one machine", where="NNODES", remedy=remedy)


def _find_or_start(settings: Settings, params: Params, runs: int, display: Display) -> Path:
    """The newest unfinished series with the same parameters, settings and code, or a new one."""
    seeds: dict[int, None] = {}
    while len(seeds) < runs:
        seeds[int.from_bytes(os.urandom(4), "big")] = None
    new = _plan_of(settings, params, list(seeds))
    parent = settings.results_dir / FOLDER
    for folder in sorted(parent.glob("*/"), reverse=True):
        if not (folder / FILE_NAME).exists():
            continue
        try:
            plan = read_plan(folder)
        except UserError as error:
            display.message(f"an earlier series is skipped: {error}")
            continue
        states = [_state(folder, seed) for seed in plan.seeds]
        over = sum(found is not None and _is_over(found[1]) for found in states)
        other = [name for name in _SAME if getattr(plan, name) != getattr(new, name)]
        if over < len(states) and not other:
            display.message(f"resuming the series in {folder}: {over} of {runs} runs are done")
            return folder
        if over < len(states):
            display.message(f"the unfinished series in {folder} is another one (other {', '.join(other)})")
    folder = parent / f"{params.variant}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    folder.mkdir(parents=True)
    write_atomically(folder / PARAMS_FILE, params.dump().encode())
    data = orjson.dumps(SERIES.with_version(asdict(new)), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    write_atomically(folder / FILE_NAME, data)
    display.message(f"series folder: {folder}")
    return folder


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The contents of series.json: the seeds, and everything that must be equal for a run to belong to the series."""

    started_at: str
    seeds: tuple[int, ...]
    runs: int
    params_sha256: str
    device: str
    processes: int
    org: str
    platform: str | None
    status: str
    division: str | None
    code: CodeVersion
    omp_num_threads: str | None = None
    pytorch_alloc_conf: str | None = None
    pytorch_cuda_alloc_conf: str | None = None
    drop_caches: bool | None = None


_SAME = [field.name for field in fields(Plan) if field.name not in ("started_at", "seeds")]


def _plan_of(settings: Settings, params: Params, seeds: Sequence[int]) -> Plan:
    return Plan(
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seeds=tuple(seeds),
        runs=len(seeds),
        params_sha256=params.sha256,
        device=settings.device,
        processes=settings.processes,
        org=settings.org,
        platform=settings.platform,
        status=settings.status,
        division=settings.division,
        code=CodeVersion(**system.code_version(ROOT)),
        drop_caches=settings.drop_caches,
        **timing_variables(os.environ),
    )


def read_plan(folder: Path) -> Plan:
    """The plan of the series in `folder`, of this or an older version; UserError if it cannot be read."""
    path = folder / FILE_NAME
    try:
        tree = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise UserError(f"not a {SERIES.name} ({error})", where=path) from None
    return SERIES.read(Plan, tree, path)


def _state(folder: Path, seed: int) -> tuple[Path, RunRecord] | None:
    """The newest run of a seed that counts: its folder and record; None if there is none.

    A run that ended before its clock started does not count. One that cannot be resumed, because it has no checkpoint,
    is started again with its seed; its folder stays.
    """
    for path in sorted(folder.glob(f"*/*-s{seed}*/{RECORD_FILE}"), reverse=True):
        found = read_record(path)
        if found.seed != seed:
            continue
        if _is_over(found) or (found.status in UNFINISHED and checkpoints(path.parent)):
            return path.parent, found
    return None


def _is_over(found: RunRecord) -> bool:
    return found.status in ("success", "aborted") or (found.status == "failed" and found.run.run_s is not None)


def _one_run(
    settings: Settings, folder: Path, seed: int, found: tuple[Path, RunRecord] | None, stop: launch.Stop
) -> int:
    """Do or resume one run in a separate process, and pass a stop request on to it; returns its exit status."""
    if stop.reason is not None:
        return EXIT_ERROR
    command = [sys.executable, "-m", "benchmark", "run", "--trainer-module", settings.trainer]
    command += ["--resume", str(found[0])] if found else ["--params", str(folder / PARAMS_FILE)]
    environment = launch.child_environment() | {"SEED": str(seed), "RESULTS_DIR": str(folder)}
    for name in ("RUNS", "VARIANT"):
        environment.pop(name, None)
    process = launch.start(command, environment)
    signalled = False
    while True:
        try:
            status = process.wait(POLL_S)
            return status if status >= 0 else EXIT_ERROR
        except subprocess.TimeoutExpired:
            if stop.reason is not None and not signalled:
                process.send_signal(stop.signal_number or signal.SIGTERM)
                signalled = True


def _score(folder: Path) -> int:
    """Print the series' score on stderr by the rules of `results`; returns that command's exit status."""
    command = [sys.executable, "-m", "results", "score", str(folder)]
    return subprocess.run(
        command, env=launch.child_environment(), stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), check=False
    ).returncode
