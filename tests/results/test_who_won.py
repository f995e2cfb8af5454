"""Who won: the baseline, the sentences above a table, and the rows that a user names."""

from __future__ import annotations

import pytest

from common.errors import UserError
from results import compare
from results.comparing.speedup import Ratio, Speedup
from results.comparing.verdict import comparison_text
from tests.results.test_results_compare import as_json
from tests.support.logs import FakeRun
from tests.support.mlperf_round import ONE_INSTANCE, build_result, compared
from tests.support.run_folders import FakeMachine, write_run, write_series


def text_of(time, throughput=None, progress=None, pairs=0):
    return comparison_text("b", "a", Speedup(time, throughput, progress, pairs))


def test_the_sentence_says_who_won_by_how_much_and_how_sure():
    sure = Ratio(1.2, 1.04, 1.39, "")
    steps = Ratio(1.21, 1.2, 1.22, "")
    chance = Ratio(1.01, 0.9, 1.13, "")
    assert text_of(sure, steps, chance) == (
        "b trains in 0.83 of a's time: 1.20 x as fast, 95 % interval 1.04-1.39; "
        "its training steps are 1.21 x as fast (1.20-1.22), its epochs are the same within chance."
    )
    slower = Ratio(1 / 1.2, 1 / 1.39, 1 / 1.04, "")
    assert text_of(slower).startswith("b takes 1.20 x a's time: 0.83 x as fast, 95 % interval 0.72-0.96")
    unsure = Ratio(1.05, 0.95, 1.16, "", 0.0115)
    assert text_of(unsure, steps) == (
        "b and a cannot be told apart by their time: 1.05 x as fast, 95 % interval 0.95-1.16; if they differ by that "
        "much, about 40 runs of each would tell; b's training steps are 1.21 x as fast (1.20-1.22)."
    )
    assert text_of(Ratio(1.2, None, None, "single runs, no interval")) == (
        "b trains in 0.83 of a's time: 1.20 x as fast, with too few runs to say how much of that is chance."
    )
    assert text_of(sure, steps, Ratio(1.25, 1.1, 1.4, "")).endswith("it needs 0.80 x as many epochs.")
    assert text_of(sure, steps, Ratio(0.5, 0.4, 0.6, "")).endswith("it needs 2.00 x as many epochs.")
    assert "equally fast within chance (0.98-1.03)" in text_of(sure, Ratio(1.0, 0.98, 1.03, ""))
    # No ratio is printed as nothing, or as 1 if it is not.
    assert text_of(Ratio(300.0, 290.0, 310.0, "")).startswith("b trains in 0.0033 of a's time: 300 x as fast")
    assert "1.0002 x as fast, 95 % interval 1.0001-1.0003" in text_of(Ratio(1.0002, 1.00011, 1.0003, ""))
    assert text_of(None) == ""
    assert text_of(sure, pairs=10).endswith("Compared by 10 pairs of runs of the same seed.")


def test_the_order_of_the_baseline_choices(tmp_path, capsys):
    """A label, a name, a row number, a path, a part of a name; of two rows the slower is the baseline by default."""
    write_series(tmp_path / "fast", 10, FakeMachine("fast-box", gpus=1))
    write_series(tmp_path / "slow", 10, FakeMachine("slow-box"), slower=2.0, seed_offset=1)
    _, answer, _ = as_json(capsys, tmp_path)
    fast, slow = answer["rows"]
    assert (fast["system"], slow["is_baseline"], slow["speedup"]) == ("fast-box", True, 1)
    assert fast["speedup"] == pytest.approx(slow["score_minutes"] / fast["score_minutes"])
    assert fast["speedup_low"] < fast["speedup"] < fast["speedup_high"] and "Yuen" in fast["speedup_method"]
    assert answer["groups"][0]["summary"].startswith("Example / fast-box trains in 0.5")
    labelled = [f"a={tmp_path / 'fast'}", f"slow-box={tmp_path / 'slow'}"]
    for wanted in ("fast-box", "example/FAST-box", "1", str(tmp_path / "fast"), "fast"):
        _, answer, _ = as_json(capsys, tmp_path, "--baseline", wanted)
        assert [row["is_baseline"] for row in answer["rows"]] == [True, False], wanted
    # A label is a name before any system is.
    _, answer, _ = as_json(capsys, *labelled, "--baseline", "SLOW-box")
    assert [row["is_baseline"] for row in answer["rows"]] == [False, True]
    write_series(tmp_path / "third", 3, FakeMachine("third-box"), slower=1.5, seed_offset=2)
    _, answer, _ = as_json(capsys, tmp_path)
    assert not any(row["is_baseline"] for row in answer["rows"]) and answer["rows"][0]["speedup"] is None
    assert "is the fastest of 3" in answer["groups"][0]["summary"]
    with pytest.raises(UserError, match="no row is named 'nobody'"):
        compare.main([str(tmp_path), "--baseline", "nobody"])


def test_a_baseline_that_names_several_rows_is_refused_with_their_numbers(tmp_path):
    for processes, slower in ((1, 2.0), (2, 1.1)):
        machine = FakeMachine("box", gpus=processes)
        write_series(tmp_path / str(processes), 3, machine, slower=slower)
    with pytest.raises(UserError, match=r"'box' names 2 rows of group 1 \(1: Example / box \(2 x NVIDIA H200\); 2: "):
        compare.main([str(tmp_path), "--baseline", "box"])
    for number in (1, 2):
        write_run(tmp_path / f"cpu{number}", FakeRun(seed=number), FakeMachine("cpu", processes=number))
    with pytest.raises(
        UserError, match=r"group 1 \(1: Example / cpu \(processes 1\); 2: Example / cpu \(processes 2\)\)"
    ):
        compare.main([str(tmp_path), "--baseline", "cpu"])


def test_which_row_a_sentence_is_about(tmp_path, capsys):
    for name, slower in (("third", 3.0), ("first", 1.0), ("second", 2.0)):
        write_series(tmp_path / name, 3, FakeMachine(f"{name}-box"), slower=slower, seed_offset=round(slower))

    def summary(*arguments):
        return as_json(capsys, tmp_path, *arguments)[1]["groups"][0]["summary"]

    fastest = "Example / first-box is the fastest of 3 (0.718 min). It trains in 0.5"
    assert summary().startswith(fastest) and "of Example / second-box's time" in summary()
    assert "It trains in 0.3" in summary("--baseline", "third-box")
    assert "Example / second-box takes 1.85 x" in summary("--baseline", "first-box")
    # A baseline without a score: the next row is compared.
    write_run(tmp_path / "failed", FakeRun(word_edits=(1290, 1200)), FakeMachine("failed-box"))
    assert summary("--baseline", "failed-box").startswith(fastest)


def test_medians_and_means_that_disagree_are_said_to(tmp_path, capsys):
    for name, times in (("a", (9.0, 9.0, 14.0)), ("b", (10.0, 10.0, 10.0))):
        for number, train_s in enumerate(times):
            fake = FakeRun(seed=number + 10 * ord(name), train_s=train_s)
            write_run(tmp_path / name / str(number), fake, FakeMachine(name))
    (group,) = as_json(capsys, tmp_path)[1]["groups"]
    assert "Example / a takes" not in group["summary"] or "the order is the opposite" in group["summary"]
    assert "by their scores in the table the order is the opposite" in group["summary"]


def test_the_json_says_how_sure_the_ratio_is(tmp_path, capsys):
    write_series(tmp_path / "a", 10, FakeMachine("a"))
    write_series(tmp_path / "same-seeds", 10, FakeMachine("b"), slower=1.5)
    write_series(tmp_path / "other-seeds", 10, FakeMachine("c"), slower=1.01, seed_offset=1)
    _, answer, _ = as_json(capsys, tmp_path, "--baseline", "example/a")
    rows = {row["system"]: row for row in answer["rows"]}
    assert (rows["a"]["seed_pairs"], rows["b"]["seed_pairs"], rows["c"]["seed_pairs"]) == (None, 10, 0)
    assert rows["b"]["runs_to_tell"] is None and rows["c"]["runs_to_tell"] > 10
    assert rows["b"]["throughput_speedup"] == pytest.approx(1 / 1.5, rel=0.01)
    assert rows["b"]["progress_speedup"] == 1 and rows["b"]["throughput_speedup_low"] < 0.67


def test_weak_scaling_is_compared_by_models_per_minute(tmp_path, capsys):
    for org, minutes in (("X", [12.0] * 30), ("Y", [5.0] * 6)):
        folder = tmp_path / "hpc_results_v3.0" / org
        build_result(folder, minutes, kind="weak", benchmark="deepcam", logged=ONE_INSTANCE)
    answer, _ = compared(capsys, tmp_path)
    (group,) = answer["groups"]
    fast, slow = answer["rows"]
    ratio = fast["models_per_minute"] / slow["models_per_minute"]
    assert fast["speedup"] == pytest.approx(ratio) and ratio > 1
    assert "x as many models per minute as" in group["summary"] and "time" not in group["summary"]


def test_rows_are_found_by_group_and_rank_and_by_a_path_of_all_their_logs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_series(tmp_path / "1", 2, FakeMachine("one"), slower=2.0)
    write_series(tmp_path / "other", 2, FakeMachine("two"), seed_offset=3)
    _, answer, _ = as_json(capsys, "1", "other", "--baseline", "1")
    # The number of a row comes before a path.
    assert [row["is_baseline"] for row in answer["rows"]] == [True, False] and answer["rows"][0]["system"] == "two"
    for number in range(2):
        write_run(tmp_path / "other" / f"e{number}", FakeRun(seed=number, tree_sha256="e" * 64), FakeMachine("two"))
        write_run(tmp_path / f"e{number}", FakeRun(seed=7 + number, tree_sha256="e" * 64, train_s=20), FakeMachine("x"))
    _, answer, _ = as_json(capsys, ".", "--baseline", "2.2")
    assert [(row["group"], row["is_baseline"]) for row in answer["rows"]] == [
        (1, False),
        (1, False),
        (2, False),
        (2, True),
    ]
    # Two rows have logs there, one in each group; a row with only some of its logs there is not meant.
    write_run(tmp_path / "more", FakeRun(seed=99), FakeMachine("two"))
    _, answer, _ = as_json(capsys, ".", "--baseline", "other")
    assert [(row["group"], row["system"]) for row in answer["rows"] if row["is_baseline"]] == [(2, "two")]


def test_equal_runs_cannot_be_told_apart(tmp_path, capsys):
    for name in "ab":
        write_series(tmp_path / name, 10, FakeMachine("box"), seed_offset=ord(name))
    compare.main([f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}"])
    out = " ".join(capsys.readouterr().out.split())
    assert "cannot be told apart by their time: 1.00 x as fast" in out and "runs of each would tell" not in out
