"""Rules across the runs of one result, and the convergence check against reference points."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from benchmark.params import load_variant
from common.errors import UserError
from compliance import convergence
from compliance.check import check_paths
from compliance.convergence import Point, read_points, reference_at
from compliance.make_rcp import make_points
from tests.support.logs import FakeRun, change, change_value, shifted, ten_runs, written


def write(folder: Path, runs: list[list[str]]) -> Path:
    for number, lines in enumerate(runs):
        (folder / f"result_{number}.txt").write_bytes(written(lines))
    return folder


def run_findings(folder: Path):
    return [f for verdict in check_paths([folder]) if verdict.kind == "runs" for f in verdict.findings]


def rules_and_files(found):
    return [(finding.rule, Path(finding.file).name, finding.severity) for finding in found]


@pytest.fixture
def no_points(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(convergence.read_points, "__defaults__", (tmp_path_factory.mktemp("rcp"),))


@pytest.fixture
def points(monkeypatch, tmp_path_factory):
    """Reference points of twenty runs: mostly 4 or 5 epochs."""
    folder = tmp_path_factory.mktemp("rcp")
    epochs = [4, 5, 4, 5, 5, 4, 4, 5, 5, 4, 4, 5, 4, 5, 6, 4, 5, 4, 5, 3]
    mini = load_variant("mini")
    entry = {"BS": 16, "Hyperparams": {"params_sha256": mini.sha256}, "Epochs to converge": epochs}
    (folder / "mini.json").write_bytes(orjson.dumps({"deepspeech2_mini_bs16": entry}))
    monkeypatch.setattr(convergence.read_points, "__defaults__", (folder,))
    return folder


def test_ten_valid_runs_pass(tmp_path, points):
    assert run_findings(write(tmp_path, ten_runs())) == []


@pytest.mark.parametrize("count", [9, 11])
def test_a_result_has_ten_runs(count, tmp_path, points):
    runs = [*ten_runs(), FakeRun(seed=7, start_s=1_790_000_000.0, word_edits=(1200, 700, 400, 290)).write()][:count]
    assert rules_and_files(run_findings(write(tmp_path, runs))) == [("runs-count", tmp_path.name, "warning")]


CROSS = [
    ("a seed reused", lambda runs: change("seed", value=1000)(runs[4]), "runs-seeds"),
    ("the same log twice", lambda runs: runs[0], "runs-distinct"),
    ("a log copied under a new seed", lambda runs: change("seed", value=9)(runs[0]), "runs-distinct"),
    ("a copy moved in time", lambda runs: shifted(change("seed", value=9)(runs[0]), 90_000_000), "runs-distinct"),
    ("other parameters", lambda runs: change_value("hyperparameters", train__batch_size=8)(runs[4]), "runs-parameters"),
    ("another variant", lambda runs: change("variant", value="librispeech")(runs[4]), "runs-parameters"),
    ("another division", lambda runs: change("submission_division", value="open")(runs[4]), "runs-parameters"),
    ("another dataset", lambda runs: change_value("dataset", tree_sha256="0" * 64)(runs[4]), "runs-dataset"),
    ("a smaller dataset", lambda runs: change("train_samples", value=7)(runs[4]), "runs-dataset"),
    ("another submitter", lambda runs: change("submission_org", value="Other")(runs[4]), "runs-system"),
    ("another machine", lambda runs: change("submission_platform", value="other")(runs[4]), "runs-system"),
    ("more processes", lambda runs: change("number_of_processes", value=2)(runs[4]), "runs-system"),
    ("another accelerator", lambda runs: change("accelerators", value=[{"rank": 0, "name": "B"}])(runs[4]), "runs-system"),
    ("two at once", lambda runs: shifted(runs[4], -390_000), "runs-overlap"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "rule"), [c[1:] for c in CROSS], ids=[c[0] for c in CROSS])
def test_a_deviating_run_is_named(edit, rule, tmp_path, points):
    runs = ten_runs()
    runs[4] = edit(runs)
    found = [f for f in run_findings(write(tmp_path, runs)) if f.rule == rule and f.severity == "error"]
    # Of two equal runs the later one is named; of different runs the one that differs from most others.
    assert {Path(f.file).name for f in found} == {"result_4.txt"} and all(f.line for f in found)


def test_two_failed_runs_are_too_many(tmp_path, points):
    runs = ten_runs()
    for number in (2, 6):
        runs[number] = change("run_stop", metadata={"status": "aborted"})(runs[number])
    found = run_findings(write(tmp_path, runs))
    assert rules_and_files(found) == [("runs-aborted", f"result_{n}.txt", "error") for n in (2, 6)]


def test_runs_that_converge_too_fast_fail_and_too_slowly_warn(tmp_path, points):
    for edits, severity in (((900, 250), "error"), ((1290, 1200, 1100, 900, 800, 700, 600, 250), "warning")):
        found = run_findings(write(tmp_path, ten_runs(word_edits=edits)))
        kinds = [(f.rule, f.severity) for f in found if f.rule == "rcp-convergence"]
        assert kinds == [("rcp-convergence", severity)]


def test_without_reference_points_there_is_a_warning(tmp_path, no_points):
    found = run_findings(write(tmp_path, ten_runs()))
    assert rules_and_files(found) == [("rcp-convergence", "result_0.txt", "warning")]


def test_synthetic_has_no_reference_points_yet_and_gets_a_warning(tmp_path):
    """Checks the committed file; remove this test once there are reference points for `synthetic`."""
    gpu = FakeRun(params=load_variant("synthetic"), train_samples=23_401, eval_samples=2_025)
    runs = [replace(gpu, seed=seed, start_s=1_780_000_000.0 + 10_000 * seed).write() for seed in range(10)]
    (finding,) = [each for each in run_findings(write(tmp_path, runs)) if each.rule == "rcp-convergence"]
    assert finding.severity == "warning"
    assert finding.found.startswith(
        "no reference points yet for synthetic with these parameters at batch size 64: not checked"
    )


def test_points_of_other_parameters_are_not_used(tmp_path, points):
    path = points / "mini.json"
    tree = json.loads(path.read_text())
    tree["deepspeech2_mini_bs16"]["Hyperparams"]["params_sha256"] = "0" * 64
    path.write_text(json.dumps(tree))
    assert rules_and_files(run_findings(write(tmp_path, ten_runs()))) == [
        ("rcp-convergence", "result_0.txt", "warning")
    ]


def test_the_smallest_allowed_mean_is_the_official_one():
    from mlperf_logging.rcp_checker import rcp_checker

    for epochs in (
        [57, 57, 57, 54, 57, 58, 57, 55, 62, 53] * 2,
        [4, 5, 4, 5, 6, 4, 7, 5, 5, 4, 4, 5, 4, 5, 6, 4, 5, 4, 5, 3],
    ):
        official = rcp_checker.RCP_Checker.__new__(rcp_checker.RCP_Checker)
        official.alpha, official.tolerance, official.submission_runs, official.verbose = 0.05, 1e-7, 10, False
        record = {"Benchmark": "rnnt", "BS": 16, "Epochs to converge": list(epochs)}
        official.rcp_data = {"a": record}
        official.compute_rcp_stats()
        reference = reference_at([Point(16, tuple(epochs))], 16)
        assert reference.mean == pytest.approx(record["RCP Mean"])
        assert reference.deviation == pytest.approx(record["RCP Stdev"])
        assert reference.mean - reference.margin(10) == pytest.approx(record["Min Epochs"], abs=1e-5)


def test_points_are_interpolated_by_batch_size():
    points = [Point(16, (4, 5, 5, 6)), Point(32, (8, 9, 9, 10))]
    assert reference_at(points, 24).mean == pytest.approx(7.0)
    assert reference_at(points, 24).deviation == pytest.approx(math.sqrt(0.5))
    assert reference_at(points, 8) is None and reference_at(points, 64) is None


def test_points_are_made_only_from_compliant_runs(tmp_path):
    runs = []
    for number in range(20):
        edits = (1290, 800, 420, 250) if number % 2 else (1290, 800, 420, 310, 250)
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        lines = FakeRun(seed=90 - number, start_s=1_760_000_000.0 + 400 * number, word_edits=edits).write()
        (folder / "result.txt").write_bytes(written(lines))
        runs.append(folder)
    entry = make_points(runs)["deepspeech2_mini_bs16"]
    assert entry["Seeds"] == sorted(entry["Seeds"]) and entry["Epochs to converge"] == [4, 5] * 10
    out = tmp_path / "rcp"
    out.mkdir()
    (out / "mini.json").write_bytes(orjson.dumps({"deepspeech2_mini_bs16": entry}))
    assert read_points("mini", out)[0].mean == pytest.approx(4.5)
    with pytest.raises(UserError, match="too few"):
        make_points(runs[:19])
    (runs[3] / "result.txt").write_bytes(written(change("seed", value=90)(FakeRun(start_s=1_780_000_000.0).write())))
    with pytest.raises(UserError, match="share a seed"):
        make_points(runs)
    (runs[3] / "result.txt").write_bytes(written(FakeRun(word_edits=(1290, 1200)).write()))
    with pytest.raises(UserError, match="success"):
        make_points(runs)


def test_a_broken_file_of_points_is_named_in_the_error(tmp_path):
    (tmp_path / "mini.json").write_text("{")
    with pytest.raises(UserError, match=r"mini\.json"):
        read_points("mini", tmp_path)
