"""Published MLPerf rounds: which folders are results of which round, and how they are grouped and scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.rounds.round_names import Round, round_of_name, rounds_above
from common.errors import UserError
from results import compare
from results.comparing.comparison import compare_runs
from results.reading.discover import find_sources
from results.reading.load import read_run
from results.rendering.report_page import page
from tests.support.mlperf_round import ONE_INSTANCE, build_result, compared, rows_of

# ---------------------------------------------------------------------------------------------------------------------
# The round


BEFORE = ["", "copy of ", "old_", "mlcommons-", "Kopie von "]
AFTER = ["", "-main", "-master", " (1)", "_copy", ".zip", ".tar.gz", ".1", "-main (2)", "-v2-3f2a91c", " - Copy"]


@settings(max_examples=60)
@given(
    st.sampled_from(BEFORE),
    st.sampled_from(["training", "hpc"]),
    st.sampled_from(["_results_v", " results v", "-results-", "_result_v"]),
    st.tuples(st.integers(0, 19), st.integers(0, 9)),
    st.sampled_from(AFTER),
    st.sampled_from([str.lower, str.upper, str]),
)
def test_a_repositorys_name_gives_its_round_in_every_spelling(before, usage, middle, version, after, case):
    expected = "{}.{}".format(*version)
    assert round_of_name(case(f"{before}{usage}{middle}{expected}{after}")) == Round(usage, expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("training_4.1", Round("training", "4.1")),
        ("submission_training_1.0", Round("training", "1.0")),
        ("Submissions-round-2.0", Round(None, "2.0")),
        ("mlperf_hpc_v3.0", Round("hpc", "3.0")),
        ("training_results_v4.0.0", Round("training", "4.0")),
        *[
            (name, None)
            for name in ("results", "speech-training-0.5", "torch-2.11", "training_results", "runs_2026", "v40")
        ],
    ],
)
def test_other_names_give_a_round_only_if_they_are_a_repositorys(name, expected):
    assert round_of_name(name) == expected


def test_a_folder_that_is_only_a_version_counts_directly_above_the_submitter():
    assert next(rounds_above(Path("/x/v1.1/Org"))) == Round(None, "1.1")
    assert next(rounds_above(Path("/x/v1.1/more/Org")), None) is None
    assert next(rounds_above(Path("/x/v99.9/Org")), None) is None, "not a round that is known"
    assert next(rounds_above(Path("/training_results_v2.0/v1.1/Org"))) == Round(None, "1.1")
    assert next(rounds_above(Path("/training_results_v0.7/training_results_v1.10/Org"))) == Round("training", "1.10")
    assert next(rounds_above(Path("/hpc_results_v3.0/somewhere/else/Org"))) == Round("hpc", "3.0")


@pytest.mark.parametrize("suffix", ["", "-main", "-master", " (1)", "_copy", ".zip"])
def test_two_rounds_never_share_a_row_or_a_ranking(tmp_path, suffix, capsys):
    """The same submitter and system in two rounds, with the names that downloads have."""
    for version, factor in (("1.1", 1), ("2.0", 2)):
        build_result(tmp_path / f"training_results_v{version}{suffix}" / "Org", [factor * n for n in (1, 2, 3, 4, 5)])
    answer, _ = compared(capsys, *sorted(tmp_path.iterdir()))
    assert [(row["round"], row["runs"], row["score_minutes"], row["rank"]) for row in answer["rows"]] == [
        ("1.1", 5, 3.0, 1),
        ("2.0", 5, 6.0, 1),
    ]
    assert answer["groups"][1]["reason"] == "not ranked with group 1: other MLPerf round (2.0, not 1.1)"


def test_unknown_rounds_are_never_equal(tmp_path, capsys):
    """Submitters' folders that were moved out of their repository: each may be of another round."""
    for place in ("a", "b"):
        build_result(tmp_path / place / "Org", [1, 2, 3, 4, 5])
    build_result(tmp_path / "b" / "Other", [1, 2, 3, 4, 5])
    build_result(tmp_path / "b" / "Other", [2, 3, 4, 5, 6], system="second")
    answer, _ = compared(capsys, tmp_path / "a", tmp_path / "b")
    assert [(group["rows"], group["reason"]) for group in answer["groups"]] == [
        (1, None),
        (1, "not ranked with group 1: unknown MLPerf round"),
        (2, "not ranked with group 1: unknown MLPerf round"),
    ]
    assert str(tmp_path / "a" / "Org") in answer["groups"][0]["title"]


def test_logs_of_unknown_systems_are_not_one_systems_runs(tmp_path, capsys):
    log = '{"namespace": "", "time_ms": %d, "event_type": "X", "key": "%s", "value": %s, "metadata": {"status": "success"}}'
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        events = [(0, "submission_benchmark", '"deepspeech2"'), (0, "run_start", "null"), (60_000, "run_stop", "null")]
        (tmp_path / place / "log.txt").write_text("".join(f":::MLLOG {log % event}\n" for event in events))
    answer, _ = compared(capsys, tmp_path / "a", tmp_path / "b")
    assert [row["runs"] for row in answer["rows"]] == [1, 1] and len(answer["groups"]) == 2


# ---------------------------------------------------------------------------------------------------------------------
# The tree


def test_runs_that_a_submitter_took_out_are_not_read_but_counted(tmp_path, capsys):
    org = tmp_path / "hpc_results_v3.0" / "Org"
    result = build_result(org, [10, 11, 12, 13, 14], kind="weak", benchmark="deepcam", logged=ONE_INSTANCE)
    shutil.copytree(result, result / "pruned_results")
    (result / "compliance_1.out").write_text("checked\n")
    answer, err = compared(capsys, tmp_path)
    assert [(row["runs"], row["models"]) for row in answer["rows"]] == [(5, 5)]
    assert err == f"warning: {result}: not read: pruned_results/ (5 files); compliance_1.out\n"


@pytest.mark.parametrize(
    "name", ["result_{}.txt", "result_run{}.txt", "result_4952-24_0{}.txt", "result_1_4n8r_{}.txt"]
)
def test_logs_have_every_name_that_mlperfs_tools_read(tmp_path, capsys, name):
    build_result(tmp_path / "training_results_v4.0" / "Org", [1, 2, 3, 4, 5], names=name.format)
    assert rows_of(capsys, tmp_path)["Org"]["score_minutes"] == 3.0


def test_logs_outside_a_benchmarks_folder_are_reported(tmp_path, capsys):
    org = tmp_path / "training_results_v0.7" / "Org"
    result = build_result(org, [1, 2, 3, 4, 5])
    shutil.copytree(result, org / "results" / "lost")
    shutil.copytree(result, result / "nested" / "bert")
    answer, err = compared(capsys, org)
    assert [row["runs"] for row in answer["rows"]] == [5]
    assert f"{org / 'results' / 'lost'}: 5 logs outside a folder results/SYSTEM/BENCHMARK: not read" in err
    assert "nested/ (5 files)" in err
    shutil.rmtree(org / "results" / "box")
    with pytest.raises(UserError, match="no result log found"):
        compare.main([str(org)])


def test_a_part_of_a_tree_is_read_as_in_the_tree(tmp_path, capsys):
    """A submitter's folder, a system, a benchmark's folder or single logs give the row that the whole tree gives."""
    org = tmp_path / "training_results_v4.0" / "Org"
    result = build_result(org, [1, 2, 3, 4, 5])
    expected, _ = compared(capsys, tmp_path)
    for paths in ([org], [org / "results"], [result.parent], [result], sorted(result.iterdir())):
        assert compared(capsys, *paths)[0] == expected, paths


def test_one_benchmark_with_two_names_is_ranked_together(tmp_path, capsys):
    for name, org in (("mask", "Google"), ("maskrcnn", "NVIDIA")):
        build_result(tmp_path / "training_results_v0.6" / org, [1, 2, 3, 4, 5], benchmark=name)
    rows = rows_of(capsys, tmp_path)
    assert {row["benchmark"] for row in rows.values()} == {"maskrcnn"} and len(
        {row["group"] for row in rows.values()}
    ) == 1


def test_the_first_round_has_its_submitters_and_hardware(tmp_path, capsys):
    """Round 0.5: `v0.5.0/SUBMITTER/SUBMISSION/results/SYSTEM/entry.json`, with ncf's own number of runs."""
    org = tmp_path / "training_results_v0.5" / "v0.5.0" / "acme" / "submission"
    times = [None if number % 10 == 9 else 1 + number / 100 for number in range(100)]
    build_result(org, times, benchmark="ncf")
    shutil.rmtree(org / "systems")
    node = {"num_nodes": 4, "cpu": "Xeon", "accelerator": "V100", "num_accelerators": 8}
    entry = {"division": "closed", "status": "on-prem", "hardware": "Pod", "nodes": [node]}
    (org / "results" / "box" / "entry.json").write_text(json.dumps(entry))
    row = rows_of(capsys, tmp_path)["acme"]
    assert (row["round"], row["division"], row["accelerator"], row["accelerators"]) == ("0.5", "closed", "V100", 32)
    assert (row["nodes"], row["processor"], row["availability"]) == (4, "Xeon", "onprem")
    successes = [time for time in times if time is not None][:50]
    assert row["score_minutes"] == pytest.approx(sum(sorted(successes)[1:-1]) / 48, rel=1e-12)
    assert row["score_rule"] == "olympic mean of the first 50 of 90 successful runs" and row["runs_wanted"] == 50


def test_a_tpu_slice_is_named_after_all_its_cores(tmp_path, capsys):
    org = tmp_path / "training_results_v0.5" / "v0.5.0" / "google" / "tpu"
    build_result(org, [1, 2, 3, 4, 5])
    (org / "systems" / "box.json").unlink()
    node = {"num_nodes": 64, "cpu": "Xeon", "accelerator": "tpuv2-512", "num_accelerators": 512}
    (org / "results" / "box" / "entry.json").write_text(json.dumps({"nodes": [node]}))
    assert rows_of(capsys, tmp_path)["google"]["accelerators"] == 512


@pytest.mark.parametrize(
    "entry", ["[]", "{}", '{"nodes": 3}', '{"nodes": [7, null]}', '{"nodes": [{"num_nodes": "2"}]}', "{"]
)
def test_a_broken_entry_file_leaves_the_hardware_unknown(tmp_path, capsys, entry):
    org = tmp_path / "training_results_v0.5" / "v0.5.0" / "acme" / "submission"
    build_result(org, [1, 2, 3, 4, 5])
    (org / "systems" / "box.json").unlink()
    (org / "results" / "box" / "entry.json").write_text(entry)
    row = rows_of(capsys, tmp_path)["acme"]
    assert (row["score_minutes"], row["accelerators"], row["nodes"]) == (3.0, None, None)


# ---------------------------------------------------------------------------------------------------------------------
# The description


@pytest.mark.parametrize(
    ("described", "logged", "expected"),
    [
        ("open", "closed", "open"),
        ("closed", "open", "closed"),
        ("Open", "closed", "open"),
        ("close", "closed", "closed"),
        (" closed ", "CLOSED", "closed"),
        (7, "closed", "closed"),
        (None, "open", "open"),
    ],
)
def test_the_division_is_that_of_the_description(tmp_path, capsys, described, logged, expected):
    org = tmp_path / "training_results_v4.0" / "Org"
    change = {"submission_division": logged}
    build_result(org, [1, 2, 3, 4, 5], description={"division": described}, logged=change)
    row = rows_of(capsys, tmp_path)["Org"]
    assert row["division"] == expected
    disagree = isinstance(described, str) and expected not in logged.casefold()
    notes = [note for note in row["notes"] if "division" in note]
    assert notes == ([f"division {expected} by its description, {logged} by its logs"] if disagree else [])


def test_an_open_result_is_not_ranked_with_closed_ones(tmp_path, capsys):
    repository = tmp_path / "training_results_v4.0"
    build_result(repository / "Closed", [2, 3, 4, 5, 6])
    change = {"submission_division": "closed"}
    build_result(repository / "Open", [1, 2, 3, 4, 5], description={"division": "open"}, logged=change)
    rows = rows_of(capsys, tmp_path)
    assert rows["Closed"]["rank"] == rows["Open"]["rank"] == 1 and rows["Closed"]["group"] != rows["Open"]["group"]


@pytest.mark.parametrize(
    ("described", "logged", "contradiction"),
    [
        ("Available on-premise", "onprem", False),
        ("available", "cloud", False),
        ("Availableon-premise", "onprem", False),
        ("Available in cloud", "onprem", True),
        ("Research, Development, or Internal (RDI)", "onprem", True),
        ("Preview", "preview", False),
        ("available", "research", True),
    ],
)
def test_a_status_that_contradicts_the_description_is_noted(tmp_path, capsys, described, logged, contradiction):
    org = tmp_path / "training_results_v4.0" / "Org"
    build_result(org, [1, 2, 3, 4, 5], description={"status": described}, logged={"submission_status": logged})
    notes = rows_of(capsys, tmp_path)["Org"]["notes"]
    assert any("status" in note for note in notes) == contradiction


# ---------------------------------------------------------------------------------------------------------------------
# Weak scaling, verification, filters


def test_weak_scaling_is_ranked_by_models_per_minute(tmp_path, capsys):
    """Each score is that of mlperf_logging: models, accelerators of one model, time to train all."""
    repository = tmp_path / "hpc_results_v3.0"
    build_result(repository / "Slow", [10, 11, 12, 13, 14], kind="weak", benchmark="deepcam", logged=ONE_INSTANCE)
    many = [*[20] * 12, None]
    build_result(repository / "Many", many, kind="weak", benchmark="deepcam", logged=ONE_INSTANCE)
    processors = {"number_of_nodes": 128, "accelerators_per_node": 0}
    build_result(repository / "Few", [1, 2, 3, 4, None], kind="weak", benchmark="deepcam", logged=processors)
    rows = rows_of(capsys, tmp_path, "--baseline", "Slow/box")
    slow, many_row, few = rows["Slow"], rows["Many"], rows["Few"]
    assert (slow["score_kind"], slow["score_minutes"], slow["models"], slow["instance_scale"]) == ("weak", 14.0, 5, 8)
    assert (many_row["models"], many_row["score_minutes"], many_row["models_per_minute"]) == (12, 20.0, 0.6)
    assert (many_row["rank"], slow["rank"], few["rank"]) == (1, 2, None)
    assert many_row["speedup"] == pytest.approx(0.6 / (5 / 14)) and many_row["speedup_low"] is None
    assert few["score_rule"] == "no score: 4 of 5 models reached the target, MLPerf wants 5"


def test_scores_say_what_they_are_worth(tmp_path, capsys):
    build_result(tmp_path / "training_results_v4.0" / "Org", [1, 2, 3, 4, 5])
    build_result(tmp_path / "mine" / "Us", [1, 2, 3, 4, 5])
    official = (
        "computed from the logs of MLPerf results repositories; where they differ, MLCommons' own tables are right"
    )
    compare.main([str(tmp_path / "training_results_v4.0"), "--width", "300"])
    assert capsys.readouterr().out.splitlines()[-1] == f"Scores are {official}."
    compare.main([str(tmp_path), "--width", "300"])
    statements = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Scores of")]
    assert statements == [
        "Scores of group 1 are MLPerf-style, not verified by MLCommons.",
        f"Scores of group 2 are {official}.",
    ]
    rows = rows_of(capsys, tmp_path)
    assert rows["Org"]["verification"] == official
    assert rows["Us"]["verification"] == "MLPerf-style, not verified by MLCommons"


def test_warnings_about_other_benchmarks_are_left_out(tmp_path, capsys):
    repository = tmp_path / "training_results_v4.0"
    build_result(repository / "Org", [1, 2, 3, 4, 5])
    for org in ("A", "B"):
        other = build_result(repository / org, [1, 2, 3, None, 5], benchmark="bert")
        (other / "compliance_1.out").write_text("checked\n")
    answer, err = compared(capsys, tmp_path, "--benchmark", "resnet")
    assert [row["benchmark"] for row in answer["rows"]] == ["resnet"] and err == ""
    assert "no run_stop" in compared(capsys, tmp_path)[1]


def test_the_curves_of_a_published_run_without_seed_are_named_without_one(tmp_path):

    repository = tmp_path / "training_results_v4.0"
    for org, factor in (("One", 1.05), ("Two", 1.25), ("Three", None)):
        result = build_result(repository / org, [1, 2, 3, 4, 5], logged={"seed": None})
        if factor:
            (result / "scaling.json").write_text(json.dumps({"scaling_factor": factor}))
    text = page(compare_runs(map(read_run, find_sources([tmp_path]))), "Results")
    assert "None" not in text
    for org, factor in (("One", 1.05), ("Two", 1.25)):
        assert f"x {factor} (scaling.json; min-max as measured) - {org} / box." in text
