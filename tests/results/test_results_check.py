"""`--check`: each log is checked by the rules of its round, and a run that does not comply counts as failed."""

from __future__ import annotations

import shutil

import pytest

from results import compare, score
from tests.conftest import DATA
from tests.support.mlperf_round import ROUND, build_result, change, compared, rows_of
from tests.support.run_folders import FakeMachine, write_series


@pytest.fixture
def rnnt(tmp_path):
    """NVIDIA's published RNN-T result of round 1.1, to be changed; its folder."""
    shutil.copytree(DATA / ROUND, tmp_path / "training_results_v1.1")
    return tmp_path / "training_results_v1.1" / "NVIDIA/results/dgxa100_n16_ngc21.09_pytorch/rnnt"


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


def _table(capsys):
    """The printed lines from the header of the first table on."""
    lines = capsys.readouterr().out.splitlines()
    return lines[next(at for at, line in enumerate(lines) if line.startswith("#")) :]


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
    header, _, one, two, *_ = _table(capsys)
    assert "steps" in header.split() and "epochs" not in header
    assert "4000" in one.split() and "12.3k" in two.split()
    samples = [("eval_accuracy", 80.0, {"metric": "FID", "samples_count": 3_961_206})]
    samples.append(("eval_accuracy", 0.2, {"metric": "CLIP", "samples_count": 3_961_206}))
    build_result(repository / "Other", [7] * 10, benchmark="stable_diffusion", lines=lambda number: samples)
    compare.main([str(tmp_path), "--width", "120"])
    header, _, one, _, other, *_ = _table(capsys)
    assert "to target" in header and "4000 steps" in one and "3.96M samples" in other
