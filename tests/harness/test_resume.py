"""Resuming an interrupted run: it stays one run, on one clock, and a run that differs is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from benchmark.harness import resume
from benchmark.mllog import read_log
from benchmark.record import read_record, write_record
from benchmark.settings import Settings
from tests.support.harness import EPOCH, Bench, finish, keys, make_params, wait_for


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def interrupted(bench: Bench, at: int = 3):
    """A run that a signal ended in epoch `at`, so `at - 1` epochs are complete; its folder and log."""
    done = finish(bench.hanging(at=at), 15)
    assert done.status == 2
    return bench.folders()[0], done.stdout


def test_a_resumed_run_is_one_run(bench):
    folder, before = interrupted(bench)
    assert [key for key in keys(before) if key != "telemetry_summary"][-2:] == ["run_aborted_reason", "run_stop"]
    done = bench.run("--resume", str(folder))
    assert done.status == 0, done.stderr
    logged = keys(done.stdout)
    assert logged[logged.index("run_start") :] == [
        *("run_start", *EPOCH, *EPOCH, "resumed", *EPOCH, "trained_samples", "run_stop"),
        *logged[logged.index("run_stop") + 1 :],
    ]
    assert done.stdout == (folder / "result.txt").read_text()
    assert len(bench.folders()) == 1

    record = read_record(folder)
    assert (record.status, record.run.resumed_epochs, record.run.epochs) == ("success", (2,), 3)
    events, _ = read_log(folder / "result.txt")
    times = {event.key: event.time_ms for event in events}
    assert record.run.run_s == (times["run_stop"] - times["run_start"]) / 1000
    assert times["run_start"] == next(_json(line)["time_ms"] for line in before.splitlines() if '"run_start"' in line)


def test_a_resumed_runs_record_keeps_whether_caches_were_dropped_before_the_clock_started(bench):
    bench.environment["DROP_CACHES"] = "0"
    folder, before = interrupted(bench)
    (logged,) = (_json(line)["value"] for line in before.splitlines() if '"cache_clear"' in line)
    assert read_record(folder).run.cache_cleared is logged is False
    # As if they had been dropped then, although they are not dropped now.
    path = folder / "result.txt"
    path.write_text(
        path.read_text().replace('"key": "cache_clear", "value": false', '"key": "cache_clear", "value": true')
    )
    assert bench.run("--resume", str(folder)).status == 0
    assert read_record(folder).run.cache_cleared is True


def test_a_variable_that_changes_a_runs_time_and_differs_on_resumption_is_noted(bench):
    bench.environment |= {"OMP_NUM_THREADS": "1", "PYTORCH_ALLOC_CONF": "backend:native"}
    folder, _ = interrupted(bench)
    start = read_record(folder).run
    assert (start.omp_num_threads, start.pytorch_alloc_conf) == ("1", "backend:native")
    assert bench.run("--resume", str(folder), env={"OMP_NUM_THREADS": "2"}).status == 0
    record = read_record(folder)
    assert (record.run.omp_num_threads, record.run.pytorch_alloc_conf) == ("1", "backend:native")
    assert [note for note in record.notes if "resumed" in note] == ["resumed after epoch 2 with OMP_NUM_THREADS=2"]


def test_an_epoch_without_its_checkpoint_is_repeated(bench):
    folder, _ = interrupted(bench)
    (folder / "checkpoints" / "epoch_02.pt").unlink()
    done = bench.run("--resume", str(folder))
    assert done.status == 0
    assert read_record(folder).run.resumed_epochs == (1,)
    assert keys(done.stdout).count("eval_accuracy") == 3


def test_a_checkpoint_may_be_a_folder_of_any_name(bench):
    folder, _ = interrupted(bench)
    last = folder / "checkpoints" / "epoch_02.pt"
    last.rename(last.with_name("epoch_02"))
    (folder / "checkpoints" / "epoch_01.pt").unlink()
    (folder / "checkpoints" / "epoch_01").mkdir()
    assert bench.run("--resume", str(folder)).status == 0, "a file without a suffix"
    write_record(replace(read_record(folder), status="interrupted"), folder)
    for path in (folder / "checkpoints").glob("epoch_0[23]*"):
        path.unlink()
    assert resume.plan(folder, Settings()).checkpoint == folder / "checkpoints" / "epoch_01"


def test_two_checkpoints_of_the_last_epoch_are_refused(bench):
    folder, _ = interrupted(bench)
    (folder / "checkpoints" / "epoch_02.safetensors").touch()
    assert resume.plan(folder, Settings()).checkpoint.suffix == ".pt", "the other was made from it"
    (folder / "checkpoints" / "epoch_02.npz").mkdir()
    done = bench.run("--resume", str(folder))
    assert (done.status, done.stdout) == (2, "")
    assert "epoch 2 has several checkpoints (epoch_02.npz, epoch_02.pt)" in done.last_line


def test_a_log_cut_in_mid_line_by_a_crash_is_repaired(bench):
    folder, _ = interrupted(bench)
    path = folder / "result.txt"
    text = path.read_text()
    path.write_text(text[: text.rindex("eval_stop")])
    done = bench.run("--resume", str(folder))
    assert done.status == 0
    assert read_record(folder).run.resumed_epochs == (1,)
    keys(path.read_text())


def test_a_run_can_be_resumed_twice(bench):
    folder, _ = interrupted(bench, at=2)
    bench.params = make_params(bench.folder / "same.yaml")
    ready = bench.folder / "ready"
    ready.unlink()
    plan = {"fault": "hang", "at": 3, "ready": str(ready)}
    process = bench.start("--resume", str(folder), plan=plan)
    wait_for(ready.exists)
    finish(process, 15)
    assert bench.run("--resume", str(folder)).status == 0
    assert read_record(folder).run.resumed_epochs == (1, 2)


def test_what_cannot_be_resumed(bench):
    folder, _ = interrupted(bench)
    assert "SEED: the run's seed is 7" in bench.run("--resume", str(folder), env={"SEED": "8"}).last_line

    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.replace("batch_size: 16", "batch_size: 8", 1))
    assert "parameters are not those" in bench.run("--resume", str(folder)).last_line
    (folder / "params.yaml").write_text(params)

    record = read_record(folder)
    write_record(replace(record, dataset=replace(record.dataset, tree_sha256="0" * 64)), folder)
    assert "not the one that the run started with" in bench.run("--resume", str(folder)).last_line
    write_record(record, folder)

    shutil.move(folder / "checkpoints", folder / "hidden")
    assert "no epoch was finished" in bench.run("--resume", str(folder)).last_line
    shutil.move(folder / "hidden", folder / "checkpoints")

    assert bench.run("--resume", str(folder)).status == 0
    done = bench.run("--resume", str(folder))
    assert done.status == 2 and "nothing to resume" in done.last_line and done.stdout == ""
    assert "no run record here" in bench.run("--resume", str(bench.folder / "nowhere")).last_line


def test_a_run_in_progress_cannot_be_resumed(bench):
    process = bench.hanging(at=3)
    (folder,) = bench.folders()
    log = folder / "result.txt"
    wait_for(lambda: log.read_text().endswith('"metadata": {"epoch_num": 3}}\n'))
    before = log.read_text()
    done = bench.run("--resume", str(folder))
    assert done.status == 2 and "this run is still in progress" in done.last_line
    assert log.read_text() == before
    finish(process, 15)


def _json(line: str) -> dict:
    return json.loads(line.removeprefix(":::MLLOG "))
