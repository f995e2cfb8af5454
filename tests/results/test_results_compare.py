"""Comparison of runs and of published MLPerf results: scores, groups and output formats."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from results import compare
from tests.conftest import DATA, ROOT
from tests.support.logs import FakeRun, line_of
from tests.support.mlperf_round import EXTRACT, ROUND, WHOLE, PublishedRound
from tests.support.run_folders import FakeMachine, write_run, write_series


@pytest.fixture(scope="module")
def published():
    return DATA / ROUND


def as_json(capsys, *arguments):
    status = compare.main([*map(str, arguments), "--format", "json"])
    out, err = capsys.readouterr()
    return status, json.loads(out), err


@pytest.mark.parametrize("where", [EXTRACT, WHOLE])
def test_published_scores_equal_the_official_tools(where, capsys):
    published = PublishedRound(where)
    status, answer, err = as_json(capsys, *published.results())
    assert status == 0 and err == "" and answer["schema_version"] == 2
    rows = {(row["submitter"], row["system"], row["benchmark"]): row for row in answer["rows"]}
    assert len(rows) == len(answer["rows"]) == len(published.scores)
    for line in published.scores:
        row = rows[line["org"], line["system"], line["benchmark"]]
        assert row["score_minutes"] == pytest.approx(float(line["olympic_score_minutes"]), abs=1e-9)
        minutes = [float(value) for value in line["run_minutes_in_file_order"].split(";")]
        assert row["run_minutes"] == pytest.approx(minutes, abs=1e-9)
        assert row["converged"] == int(line["n_run_stop_success"])
        assert row["runs"] == int(line["n_runs"])
        assert row["nodes"] == int(line["number_of_nodes"])
        assert row["accelerators"] == row["nodes"] * int(line["accelerators_per_node"])
        epochs = [None if float(e) >= 1e9 else int(e) for e in line["epochs_to_converge"].split(";")]
        assert row["run_epochs"] == epochs
        assert row["global_batch_size"] == int(line["global_batch_size"])


@pytest.mark.parametrize("where", [EXTRACT, WHOLE])
def test_published_files_have_the_official_verdicts(where, capsys):
    published = PublishedRound(where)
    _, answer, _ = as_json(capsys, *published.results())
    found = {Path(run["file"]): run for row in answer["rows"] for run in row["run_details"]}
    assert len(found) == len(published.files)
    for line in published.files:
        run = found[published.folder / published.path(line)]
        assert run["verdict"] == line["run_stop_status"]
        assert run["minutes"] == pytest.approx(float(line["minutes"]), abs=1e-9)
        assert run["last_eval_accuracy"] == float(line["last_eval_accuracy"])
        assert run["last_epoch"] == float(line["last_eval_epoch"])
        assert run["parse_errors"] == int(line["parse_errors"])


def test_comparing_twice_gives_the_same_and_changes_no_file(published, capsys):
    def state():
        files = sorted(path for path in published.rglob("*") if path.is_file())
        return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]

    before = state()
    answers = [as_json(capsys, published)[1] for _ in range(2)]
    assert answers[0] == answers[1]
    assert state() == before


def test_a_submitters_folder_and_a_single_log_are_found_too(published, capsys):
    dell = published / "Dell"
    _, whole, _ = as_json(capsys, published)
    by_system = {row["system"]: row["score_minutes"] for row in whole["rows"]}
    _, submitter, _ = as_json(capsys, dell)
    assert {row["system"]: row["score_minutes"] for row in submitter["rows"]}.items() <= by_system.items()
    assert (len(submitter["rows"]), len(whole["rows"])) == (1, 2)
    log = dell / "results" / "XE8545x4A100-SXM-40GB" / "rnnt" / "result_3.txt"
    _, single, _ = as_json(capsys, log)
    (row,) = single["rows"]
    assert (row["submitter"], row["round"], row["runs"], row["score_kind"]) == ("Dell", "1.1", 1, "median")
    assert row["score_minutes"] == pytest.approx(78.48348333333334, abs=1e-9)
    # The same log in three paths is one run.
    _, thrice, _ = as_json(capsys, log, dell, published)
    assert sum(row["runs"] for row in thrice["rows"]) == 20


def submission(
    folder, minutes, benchmark="ssd", org="Org", system="box", description=None, status="success", division="open"
):
    """A simulated submission of any benchmark: one log for each of `minutes`, None for a run without run_stop."""
    results = folder / org / "results" / system / benchmark
    results.mkdir(parents=True)
    (folder / org / "systems").mkdir(exist_ok=True)
    if description is not None:
        (folder / org / "systems" / f"{system}.json").write_text(json.dumps(description))
    for number, value in enumerate(minutes):
        events = [
            ("submission_benchmark", benchmark, {}),
            ("submission_division", division, {}),
            ("seed", number, {}),
            ("run_start", None, {}),
            ("eval_accuracy", 0.2 + number / 100, {"epoch_num": 3}),
            ("run_stop", None, {"status": status}),
        ]
        lines = []
        for key, logged, metadata in events[: None if value is not None else -1]:
            time_ms = 1_700_000_000_000 + (round(value * 60_000) if key == "run_stop" else 0)
            lines.append(line_of({"time_ms": time_ms, "key": key, "value": logged, "metadata": metadata}))
        (results / f"result_{number}.txt").write_text("\r\n".join(lines) + "\r\n")
    return results


TPU = {"number_of_nodes": "2", "accelerators_per_node": "4", "accelerator_model_name": "tpu-v3", "division": "open"}


def test_other_rounds_benchmarks_accelerators_and_divisions(tmp_path, capsys):
    repository = tmp_path / "training_results_v2.0"
    submission(repository, [5, 1, 2, 3, 4], description=TPU)
    submission(repository, [5, 1, 2, 3, 4], system="closed-box", description=TPU | {"division": "closed"})
    submission(repository, [5, 1, 2, 3, 4], benchmark="unet3d", org="Few", description=TPU)
    submission(repository, [*range(1, 37), None, None, None, None], benchmark="unet3d", org="Many", description=TPU)
    submission(repository, [1, 2, None, None, 3], benchmark="maskrcnn", description=TPU)
    submission(repository, [4, 2], benchmark="not_known_anywhere", description=TPU)
    _, answer, err = as_json(capsys, repository)
    rows = {(row["submitter"], row["system"], row["benchmark"]): row for row in answer["rows"]}
    ssd = rows["Org", "box", "ssd"]
    assert (ssd["score_minutes"], ssd["score_kind"], ssd["division"], ssd["round"]) == (3.0, "olympic", "open", "2.0")
    assert (ssd["accelerator"], ssd["accelerators"], ssd["nodes"], ssd["best_wer_pct"]) == ("tpu-v3", 8, 2, None)
    assert rows["Org", "closed-box", "ssd"]["group"] != ssd["group"]
    few = rows["Few", "box", "unet3d"]
    assert (few["score_minutes"], few["score_kind"], few["runs_wanted"]) == (3.0, "median", 40)
    assert (few["minutes_min"], few["minutes_max"]) == (1.0, 5.0)
    # The four failures are the four slowest; without the four fastest, 5..36 remain.
    assert rows["Many", "box", "unet3d"]["score_minutes"] == sum(range(5, 37)) / 32
    failed = rows["Org", "box", "maskrcnn"]
    assert failed["score_minutes"] is None and "2 of 5 runs failed" in failed["score_rule"] and failed["converged"] == 3
    assert rows["Org", "box", "not_known_anywhere"]["score_rule"] == "median of 2 runs (no MLPerf count known)"
    assert err.count("no run_stop") == 6
    reasons = [group["reason"] for group in answer["groups"]]
    assert reasons[0] is None and any("other division (open, not closed)" in reason for reason in reasons[1:])


def test_more_runs_than_required_are_scored_and_reported(tmp_path, capsys):
    submission(tmp_path, [1, 2, 3, 4, 5, 6, 7], description=TPU)
    _, answer, _ = as_json(capsys, tmp_path)
    (row,) = answer["rows"]
    assert row["score_minutes"] == 4.0 and "MLPerf wants exactly 5" in row["score_rule"] and row["round"] is None


def test_a_review_committees_scaling_is_applied_and_reported(tmp_path, capsys):
    results = submission(tmp_path, [1, 2, 3, 4, 5], description=TPU)
    (results / "scaling.json").write_text('{"scaling_factor": 1.5}')
    _, answer, _ = as_json(capsys, tmp_path)
    assert answer["rows"][0]["score_minutes"] == 4.5
    assert "scaling.json" in answer["rows"][0]["score_rule"]


def test_nothing_to_compare_is_an_error(tmp_path, capsys):
    with pytest.raises(UserError, match="no result log"):
        compare.main([str(tmp_path)])
    with pytest.raises(UserError, match="no such file"):
        compare.main([str(tmp_path / "absent")])
    (tmp_path / "notes.txt").write_text("nothing of note")
    assert compare.main([str(tmp_path)]) == 2
    assert "no run could be compared" in capsys.readouterr().err


def test_our_runs_have_every_figure(tmp_path, capsys):
    write_series(tmp_path, 10, FakeMachine("two-gpus", gpus=2, power_w=500.0))
    _, answer, err = as_json(capsys, tmp_path)
    (row,) = answer["rows"]
    minutes = sorted(row["run_minutes"])
    assert row["score_minutes"] == pytest.approx(sum(minutes[1:-1]) / 8) and row["score_kind"] == "olympic"
    assert (row["accelerator"], row["accelerators"], row["nodes"], row["processes"]) == ("NVIDIA H200", 2, 1, 2)
    assert row["best_wer_pct"] == pytest.approx(100 * 250 / 1300) and row["epochs_to_target"] == 4
    assert row["samples_per_s"] == pytest.approx(1760 / 9.0, rel=0.03) and row["audio_s_per_s"] == pytest.approx(1234.5)
    assert row["gpu_utilization_pct"] == 90 and row["sm_active_pct"] == 55 and row["tensor_active_pct"] == 21
    assert row["peak_memory_bytes"] == 70e9 and row["power_w"] == 1000
    mean_s = 60 * sum(minutes) / 10
    assert row["energy_kwh"] == pytest.approx(1000 * mean_s / 3.6e6)
    assert row["verification"] == answer["verification"] == "MLPerf-style, not verified by MLCommons"
    assert err == ""


def test_gpu_figures_of_a_cpu_run_are_null(tmp_path, capsys):
    write_series(tmp_path, 2)
    _, answer, _ = as_json(capsys, tmp_path)
    (row,) = answer["rows"]
    for name in ("gpu_utilization_pct", "sm_active_pct", "tensor_active_pct", "power_w", "energy_kwh", "speedup"):
        assert row[name] is None, name
    assert row["accelerators"] == 0 and row["accelerator"] is None and row["peak_memory_bytes"] == 1.3e9


def test_runs_that_can_be_resumed_are_left_out_and_reported(tmp_path, capsys):
    write_series(tmp_path, 3)
    write_run(tmp_path / "interrupted", FakeRun(seed=99), status="interrupted")
    stopped = tmp_path / "never-started"
    stopped.mkdir()
    (stopped / "result.txt").write_text(FakeRun(seed=98).text().split('"run_start"')[0].rsplit("\n", 1)[0] + "\n")
    _, answer, err = as_json(capsys, tmp_path)
    # The run that never started did not log its accelerators either, so it has a row of its own.
    assert [(row["runs"], row["left_out"]) for row in answer["rows"]] == [(3, 1), (0, 1)]
    assert "can be resumed" in err and "timed region never started" in err


def test_success_above_the_target_counts_as_failed(tmp_path, capsys):
    run = write_run(tmp_path / "run", FakeRun(word_edits=(1290, 800)))
    log = run / "result.txt"
    log.write_text(log.read_text().replace('"aborted"', '"success"'))
    _, answer, err = as_json(capsys, tmp_path)
    (row,) = answer["rows"]
    assert row["converged"] == 0 and row["score_minutes"] is None and "above its target" in err


def test_only_comparable_runs_are_ranked_together(tmp_path, capsys):
    fake = FakeRun()
    slower = dataclasses.replace(
        fake.params, optimizer=dataclasses.replace(fake.params.optimizer, learning_rate=0.0015)
    )
    harder = dataclasses.replace(fake.params, train=dataclasses.replace(fake.params.train, target_wer=20.0))
    write_series(tmp_path / "a", 2)
    write_series(tmp_path / "b", 2, params=slower)
    write_series(tmp_path / "c", 2, tree_sha256="e" * 64)
    write_series(tmp_path / "d", 2, params=harder)
    _, answer, _ = as_json(capsys, tmp_path)
    assert len(answer["groups"]) == len({row["group"] for row in answer["rows"]}) == 4
    reasons = " ".join(group["reason"] or "" for group in answer["groups"])
    assert "optimizer.learning_rate" in reasons and "dataset digest" in reasons and "target WER" in reasons
    assert all(row["rank"] == 1 for row in answer["rows"])


def test_csv_opens_in_pandas_with_the_right_types(published, tmp_path, capsys):
    import pandas

    write_series(tmp_path, 10, FakeMachine('box,\n"quoted" | <b>', gpus=1))
    compare.main(
        [str(tmp_path), str(published), "--format", "csv", "--baseline", "NVIDIA/dgxa100_n16_ngc21.09_pytorch"]
    )
    table = pandas.read_csv(io.StringIO(capsys.readouterr().out))
    assert len(table) == 3
    for name in (
        "score_minutes",
        "minutes_min",
        "power_w",
        "energy_kwh",
        "speedup",
        "best_wer_pct",
        "epochs_to_target",
    ):
        assert pandas.api.types.is_float_dtype(table[name]), name
    for name in ("runs", "converged", "nodes", "accelerators", "group", "rank"):
        assert pandas.api.types.is_integer_dtype(table[name]), name
    assert pandas.api.types.is_bool_dtype(table["is_baseline"])
    assert table["power_w"].isna().sum() == 2 and not (table["power_w"] == 0).any()
    assert [len(json.loads(value)) for value in table["run_minutes"]] == [10] * 3
    assert list(table.groupby("verification").size()) == [1, 2]


@pytest.fixture(scope="module")
def two_machines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_series(folder / "a", 10, FakeMachine("this-machine", gpus=1))
    write_series(folder / "b", 3, FakeMachine("システム名が長い機械" * 3), slower=2.0)
    return folder


@pytest.mark.parametrize("width", [24, 40, 58, 80, 100, 160, 240])
def test_the_text_fits_its_width(published, two_machines, capsys, width):
    from rich.cells import cell_len

    compare.main([str(two_machines), str(published), "--width", str(width), "--baseline", "this-machine"])
    out = capsys.readouterr().out
    assert max(cell_len(line) for line in out.splitlines()) <= width
    text = " ".join(out.split())
    assert "not verified by MLCommons" in text and "olympic mean of 10 runs" in text and "median of 3" in text
    # Omitted columns are listed, so that their values are not taken for unknown.
    assert ("not shown in" in text) == (58 <= width < 240)


def test_markdown_is_a_table_for_any_names(tmp_path, capsys):
    write_series(tmp_path, 2, FakeMachine("a | b\n<script>alert(1)</script> [x](y) `z`"))
    compare.main([str(tmp_path), "--format", "markdown"])
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 3
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "<script>" not in "".join(lines)


def test_benchmark_selects_and_sort_orders_rows(published, tmp_path, capsys):
    write_series(tmp_path, 2)
    _, answer, _ = as_json(capsys, tmp_path, published, "--benchmark", "rnnt")
    assert {row["benchmark"] for row in answer["rows"]} == {"rnnt"}
    _, answer, _ = as_json(capsys, tmp_path, published, "--benchmark", "mini")
    assert {row["variant"] for row in answer["rows"]} == {"mini"}
    _, answer, _ = as_json(capsys, published, "--sort", "accelerators")
    counts = [row["accelerators"] for row in answer["rows"]]
    assert counts == sorted(counts) and sorted(row["rank"] for row in answer["rows"]) == [1, 2]


def test_the_command_in_a_process(published):
    command = [sys.executable, "-m", "results", "compare", str(published), "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "" and len(json.loads(done.stdout)["rows"]) == 2
    missing = subprocess.run([*command[:3], "nonsense"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert missing.returncode == 2 and "compare" in missing.stderr
