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
from results import compare, score
from results.comparing.comparison import compare_runs
from results.reading.discover import find_sources
from tests.conftest import DATA
from tests.support.mlperf_round import ROUND, build_result
from tests.support.run_folders import FakeMachine, write_series


def compared(capsys, *arguments):
    """The JSON output of `compare`, and its warnings."""
    assert compare.main([*map(str, arguments), "--format", "json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def rows_of(capsys, *arguments):
    return {row["submitter"]: row for row in compared(capsys, *arguments)[0]["rows"]}


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

ONE_INSTANCE = {"number_of_nodes": 2, "accelerators_per_node": 4}


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
    from results.reading.load import read_run
    from results.rendering.report_page import page

    repository = tmp_path / "training_results_v4.0"
    for org, factor in (("One", 1.05), ("Two", 1.25), ("Three", None)):
        result = build_result(repository / org, [1, 2, 3, 4, 5], logged={"seed": None})
        if factor:
            (result / "scaling.json").write_text(json.dumps({"scaling_factor": factor}))
    text = page(compare_runs(map(read_run, find_sources([tmp_path]))), "Results")
    assert "None" not in text
    for org, factor in (("One", 1.05), ("Two", 1.25)):
        assert f"x {factor} (scaling.json; min-max as measured) - {org} / box." in text


# ---------------------------------------------------------------------------------------------------------------------
# --check


@pytest.fixture
def rnnt(tmp_path):
    """NVIDIA's published RNN-T result of round 1.1, to be changed; its folder."""
    shutil.copytree(DATA / ROUND, tmp_path / "training_results_v1.1")
    return tmp_path / "training_results_v1.1" / "NVIDIA/results/dgxa100_n16_ngc21.09_pytorch/rnnt"


def change(log, old, new):
    text = log.read_text()
    assert old in text
    log.write_text(text.replace(old, new))


def nvidia(capsys, folder, *arguments):
    answer, err = compared(capsys, folder, *arguments)
    (row,) = [row for row in answer["rows"] if row["submitter"] == "NVIDIA"]
    return row, err


BREAKS = {
    "broken line": ('"key": "opt_name"', '"key": "opt_na:::MLLOG {"'),
    "missed target": ('"key": "eval_accuracy", "value": 0.05', '"key": "eval_accuracy", "value": 0.95'),
    "missing key": ('"key": "init_stop"', '"key": "init_stopped"'),
    "wrong value": ('"key": "eval_samples", "value": 2703', '"key": "eval_samples", "value": 2702'),
}


@pytest.mark.parametrize("what", BREAKS)
@pytest.mark.parametrize("number", [0, 4, 9])
def test_a_run_that_its_rounds_checker_refuses_counts_as_failed(rnnt, capsys, what, number):
    before, _ = nvidia(capsys, rnnt)
    change(rnnt / f"result_{number}.txt", *BREAKS[what])
    logged, _ = nvidia(capsys, rnnt)
    assert logged["score_minutes"] == before["score_minutes"], "as logged"
    assert [note for note in logged["notes"] if "--check" in note] == (
        ["1 of 10 logs has unreadable lines (--check counts such runs as failed)"] if what == "broken line" else []
    )
    checked, err = nvidia(capsys, rnnt, "--check")
    times = sorted(time for place, time in enumerate(before["run_minutes"]) if place != number)
    assert checked["score_minutes"] == pytest.approx(sum(times[1:]) / 8, rel=1e-12)
    assert (checked["converged"], checked["run_verdicts"][number]) == (9, "refused")
    assert f"result_{number}.txt" in err and "does not comply with training 1.1.0, counts as a failed run" in err


def test_two_refused_runs_leave_no_score(rnnt, capsys):
    for number in (2, 5):
        change(rnnt / f"result_{number}.txt", *BREAKS["missed target"])
    assert nvidia(capsys, rnnt, "--check")[0]["score_minutes"] is None


def test_what_a_rounds_rules_require_only_since_then_is_said_and_scored(rnnt, capsys):
    before, _ = nvidia(capsys, rnnt)
    for log in rnnt.iterdir():
        log.write_text(
            "".join(line for line in log.read_text().splitlines(True) if '"weights_initialization"' not in line)
        )
    row, _ = nvidia(capsys, rnnt, "--check")
    assert row["score_minutes"] == before["score_minutes"] and row["converged"] == 10
    assert row["notes"][-1] == (
        "today's rules for round 1.1 require weights_initialization and initialized_tensors, which came later: "
        "scored as published"
    )


def test_a_round_without_rules_is_not_checked_and_says_so(tmp_path, capsys):
    org = tmp_path / "training_results_v0.5" / "v0.5.0" / "acme" / "submission"
    build_result(org, [1, 2, 3, 4, 5])
    row = rows_of(capsys, tmp_path, "--check")["acme"]
    assert row["score_minutes"] == 3.0
    assert "not checked: mlperf_logging has no rules for resnet of round 0.5" in row["notes"]


def test_our_own_runs_are_checked_by_our_rules(tmp_path, capsys):
    write_series(tmp_path, 3, FakeMachine("box"))
    answer, _ = compared(capsys, tmp_path, "--check")
    assert answer["rows"][0]["run_verdicts"] == ["success"] * 3
    log = sorted(tmp_path.rglob("result.txt"))[1]
    change(log, '"key": "cache_clear"', '"key": "cache_cleared"')
    answer, err = compared(capsys, tmp_path, "--check")
    assert sorted(answer["rows"][0]["run_verdicts"]) == ["refused", "success", "success"]
    assert "key-present" in err and "does not comply with our rules" in err
    assert score.main([str(tmp_path), "--check"]) == 0
    assert "1 of 3 runs: refused" in capsys.readouterr().out


def test_the_unit_of_progress_is_in_the_header_or_beside_each_number(tmp_path, capsys):
    repository = tmp_path / "training_results_v3.1"

    def evaluations(step):
        return lambda number: [
            ("eval_accuracy", value, {"metric": metric, "step_num": step, "epoch_num": 5})
            for metric, value in (("FID", 80.0), ("CLIP", 0.2))
        ]

    for org, step in (("One", 4000), ("Two", 12_300)):
        build_result(repository / org, [6] * 10, benchmark="stable_diffusion", lines=evaluations(step))
    compare.main([str(tmp_path), "--width", "120"])
    header, _, one, two, *_ = capsys.readouterr().out.splitlines()[2:]
    assert "steps" in header.split() and "epochs" not in header
    assert "4000" in one.split() and "12.3k" in two.split()
    samples = [("eval_accuracy", 80.0, {"metric": "FID", "samples_count": 3_961_206})]
    samples.append(("eval_accuracy", 0.2, {"metric": "CLIP", "samples_count": 3_961_206}))
    build_result(repository / "Other", [7] * 10, benchmark="stable_diffusion", lines=lambda number: samples)
    compare.main([str(tmp_path), "--width", "120"])
    header, _, one, _, other, *_ = capsys.readouterr().out.splitlines()[2:]
    assert "to target" in header and "4000 steps" in one and "3.96M samples" in other


# ---------------------------------------------------------------------------------------------------------------------
# What a tree may contain that contradicts itself


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
    import results

    build_result(tmp_path / "training_results_v4.0" / "Org", [1, 2], description={"number_of_nodes": nodes})
    table = results.load(tmp_path).to_pandas()
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
    from results.reading.load import read_run
    from results.rendering.report_page import page

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
