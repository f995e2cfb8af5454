"""MLPerf trees that contradict themselves, or contain what nobody expects."""

from __future__ import annotations

import json
import shutil

import pytest

import results
from common.errors import UserError
from results import compare, score
from results.comparing.comparison import compare_runs
from results.reading.discover import find_sources
from results.reading.load import read_run
from results.rendering.report_page import page
from tests.support.mlperf_round import ONE_INSTANCE, build_result, change, compared, rows_of
from tests.support.run_folders import FakeMachine, write_series


def test_logs_that_disagree_on_the_division_are_one_result_of_unknown_division(tmp_path, capsys):
    result = build_result(tmp_path / "training_results_v0.7" / "Org", [1, 2, 3, 4, 5], description={"division": None})
    for log in result.iterdir():
        change(log, '"submission_division", "value": null', '"submission_division", "value": "closed"')
    change(
        result / "result_2.txt", '"submission_division", "value": "closed"', '"submission_division", "value": "open"'
    )
    row = rows_of(capsys, tmp_path)["Org"]
    assert (row["runs"], row["score_minutes"], row["division"]) == (5, 3.0, None)
    assert row["notes"] == ["division unknown: its description has none, its logs say closed and open"]


@pytest.mark.parametrize("name", ["run_{}.txt", "result_{}.log", "Result_{}.txt", "{}.log"])
def test_a_result_without_a_readable_log_is_reported(tmp_path, capsys, name):
    repository = tmp_path / "training_results_v4.0"
    lost = build_result(repository / "Org", [1, 2, 3, 4, 5], names=name.format)
    build_result(repository / "Org", [1, 2, 3, 4, 5], benchmark="bert")
    answer, err = compared(capsys, tmp_path)
    assert [row["benchmark"] for row in answer["rows"]] == ["bert"]
    assert err == f"warning: {lost}: no log result_*.txt; 5 other files are not read\n"


def test_logs_with_other_names_in_a_plain_folder_are_reported(tmp_path, capsys):
    result = build_result(tmp_path / "Org", [1, 2, 3, 4, 5])
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("result_0.txt", "result_a.txt", "run0.log", "run1.log", "slurm-1.out", "other.txt"):
        shutil.copy(result / "result_0.txt", plain / name)
    answer, err = compared(capsys, plain)
    assert answer["rows"][0]["runs"] == 2
    assert err == f"warning: {plain}: not read: other.txt, run0.log, run1.log and 1 more files\n"


@pytest.mark.parametrize("factor", [-1, 0, None, True, "x", [1.1], float("nan")])
def test_a_scaling_factor_that_is_no_factor_is_not_applied_and_reported(tmp_path, capsys, factor):
    result = build_result(tmp_path / "training_results_v4.0" / "Org", [1, 2, 3, 4, 5])
    (result / "scaling.json").write_text(json.dumps({"scaling_factor": factor}))
    answer, err = compared(capsys, tmp_path)
    assert answer["rows"][0]["score_minutes"] == 3.0 and err.count("scaling") >= 1 and len(err.splitlines()) == 1


def test_a_log_of_another_benchmark_is_noted_and_refused(tmp_path, capsys):
    result = build_result(tmp_path / "training_results_v4.0" / "Org", [11, 12, 13, 14, 15])
    change(
        result / "result_2.txt", '"submission_benchmark", "value": "resnet"', '"submission_benchmark", "value": "bert"'
    )
    row = rows_of(capsys, tmp_path)["Org"]
    assert row["notes"] == ["its logs are of benchmark bert (1 of 5 runs)"]
    answer, err = compared(capsys, tmp_path, "--check")
    assert answer["rows"][0]["run_verdicts"][2] == "refused" and "the log of another benchmark: does not comply" in err


@pytest.mark.parametrize("name", ["x" * 300, "a/b", "../training_5.1.0", "resnet\0", "x" * 100_000])
def test_any_benchmark_name_in_a_log_leaves_the_comparison_whole(tmp_path, capsys, name):
    result = build_result(tmp_path / "training_results_v4.0" / "Org", [1, 2, 3, 4, 5])
    log = result / "result_2.txt"
    log.write_text(log.read_text().replace('"value": "resnet"', f'"value": {json.dumps(name)}'))
    for arguments in ([], ["--check"]):
        assert compared(capsys, tmp_path, *arguments)[0]["rows"][0]["runs"] == 5


@pytest.mark.parametrize("nodes", [1e300, 10**400, -3, "9" * 50, "inf"])
def test_an_absurd_number_of_nodes_is_unknown(tmp_path, nodes):
    build_result(tmp_path / "training_results_v4.0" / "Org", [1, 2], description={"number_of_nodes": nodes})
    table = results.load(tmp_path).runs
    assert table["nodes"].isna().all() and table["accelerators"].isna().all()


def test_links_into_a_tree_give_its_round(tmp_path, capsys):
    org = tmp_path / "training_results_v4.0" / "Org"
    result = build_result(org, [1, 2, 3, 4, 5])
    for name, target in (("latest", org.parent), ("org", org), ("bench", result)):
        (tmp_path / name).symlink_to(target)
        row = compared(capsys, tmp_path / name)[0]["rows"][0]
        assert (row["round"], row["accelerators"], row["score_minutes"]) == ("4.0", 8, 3.0), name


def test_a_benchmark_is_found_by_either_name_and_a_wrong_one_is_helped(tmp_path, capsys):
    build_result(tmp_path / "training_results_v0.6" / "Org", [1, 2, 3, 4, 5], benchmark="mask")
    for name in ("mask", "maskrcnn"):
        assert len(compared(capsys, tmp_path, "--benchmark", name)[0]["rows"]) == 1
    with pytest.raises(UserError, match="no run of 'maskrnn'") as raised:
        compare.main([str(tmp_path), "--benchmark", "maskrnn"])
    assert raised.value.remedy == "one of: maskrcnn"


def test_a_moved_folder_is_not_checked_and_says_why(tmp_path, capsys):
    build_result(tmp_path / "Org", [1, 2, 3, 4, 5])
    (note,) = rows_of(capsys, tmp_path, "--check")["Org"]["notes"]
    assert note == "not checked: the MLPerf round is unknown (no folder above is called like training_results_v4.0)"


def test_the_page_and_the_score_of_weak_scaling_are_in_models_per_minute(tmp_path, capsys):

    org = tmp_path / "hpc_results_v3.0" / "Org"
    build_result(org, [10, 11, 12, 13, 14], kind="weak", benchmark="deepcam", logged=ONE_INSTANCE)
    assert score.main([str(tmp_path)]) == 0
    assert "score of Org / box: 0.357143 models per minute, 14.000000 minutes for all" in capsys.readouterr().out
    text = page(compare_runs(map(read_run, find_sources([tmp_path]))), "Results")
    assert "Ranking by models per minute" in text and "0.357 models/min" in text and "14.00 min" not in text


@pytest.mark.parametrize("benchmark", [None, "resnet"])
def test_no_path_has_no_runs(benchmark):
    assert find_sources([], [], benchmark) == []


def test_a_checkout_is_not_a_submitters_folder(tmp_path, capsys):
    """A project with results/ and benchmark/ may have its runs anywhere else."""
    for name in ("results", "benchmark", "code"):
        (tmp_path / name).mkdir()
    write_series(tmp_path / "runs", 2, FakeMachine("box"))
    assert compared(capsys, tmp_path)[0]["rows"][0]["runs"] == 2


def test_texts_that_look_like_messages_or_numbers_are_texts(tmp_path, capsys):
    """A log may contain the checker's own words, and digits without end."""
    repository = tmp_path / "training_results_v4.0"
    logged = {"submission_status": "Log lines had parsing errors.", "submission_org": "9" * 5000}
    result = build_result(repository / "Org", [1, 2, 3, 4, 5], logged=logged)
    assert compared(capsys, tmp_path, "--check")[0]["rows"][0]["runs"] == 5
    assert len(compared(capsys, *[shutil.copy(log, tmp_path / log.name) for log in result.iterdir()])[0]["rows"]) == 1
