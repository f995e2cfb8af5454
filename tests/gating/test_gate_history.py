"""The history of `python -m results gate`: which entries are a baseline, and that no line is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest

from benchmark import record
from common.errors import UserError
from results.gating.decision import TIME, Outcome, decide
from results.gating.history import append, have_common_runs, read_history, titles_of
from tests.conftest import DATA, ROOT
from tests.gating.gate_runs import one_line_of, series, with_values
from tests.support.logs import FakeRun
from tests.support.run_folders import write_run


def test_the_history_of_a_project(run_gate, tmp_path):
    """First runs, a pull request, a slow commit, the next one, and the slow one accepted."""
    file = tmp_path / "perf.jsonl"
    status, out, _ = run_gate("main", "--history", file, "--append")
    assert (
        status == 0
        and "new has nothing to compare with yet: perf.jsonl has no entry of earlier runs" in one_line_of(out)
    )
    assert f"appended 1 entry to {file}" in out
    before = file.read_bytes()
    status, out, _ = run_gate("main", "--history", file, "--append")
    assert status == 0 and "nothing appended" in out and file.read_bytes() == before
    assert run_gate("slow", "--history", file)[0] == 1 and file.read_bytes() == before
    status, out, _ = run_gate("slow", "--history", file, "--append")
    assert status == 1 and "baseline: 0." in out and "commit aaaaaaaa, 2025-10-09T" in one_line_of(out)
    # What failed is no baseline, and neither are the runs themselves.
    status, out, _ = run_gate("same", "--history", file, "--append")
    assert status == 0 and "differs in: commit aaaaaaaa -> bbbbbbbb" in one_line_of(out)
    for _ in range(2):
        assert "commit aaaaaaaa -> bbbbbbbb" in one_line_of(run_gate("same", "--history", file)[1])
    assert [entry.passed for entry in read_history(file, [])] == [None, False, True]
    # Accepted with a wider margin, it is.
    status, out, _ = run_gate("slow", "--history", file, "--append", "--at-most", "30%")
    assert status == 0 and "appended 1 entry" in out
    assert [entry.passed for entry in read_history(file, [])] == [None, True, True]
    assert len(file.read_text().splitlines()) == 4


def test_runs_that_are_in_doubt_are_no_baseline_if_there_is_another(run_gate, tmp_path):
    file = tmp_path / "perf.jsonl"
    for name in ("main", "one"):
        assert run_gate(name, "--history", file, "--append")[0] == 0
    assert [(entry.outcome, entry.doubtful) for entry in read_history(file, [])] == [
        ("nothing", False),
        ("too_few", True),
    ]
    assert "commit aaaaaaaa -> bbbbbbbb" in run_gate("same", "--history", file)[1]
    # Where nothing else fits, it will do.
    file.write_text(file.read_text().splitlines()[1] + "\n")
    status, out, _ = run_gate("same", "--history", file, "--append")
    assert "commit dddddddd -> bbbbbbbb" in out and "baseline was itself in doubt" in one_line_of(out)
    # It has too few runs for any comparison, until a user decides for others.
    assert status == 0 and "--append --accept makes these the next baseline" in one_line_of(out)
    assert run_gate("same", "--history", file, "--append", "--accept")[1].startswith("accepted: deepspeech2 mini: ")
    assert "commit bbbbbbbb -> cccccccc" in one_line_of(run_gate("slow", "--history", file)[1])


def test_runs_that_seem_slower_are_no_baseline(run_gate, tmp_path):
    file = tmp_path / "perf.jsonl"
    for name in ("lucky", "unlucky"):
        assert run_gate(name, "--history", file, "--append")[0] == 0
    assert read_history(file, [])[1].outcome == "seems_slower"
    assert "commit eeeeeeee -> bbbbbbbb" in run_gate("same", "--history", file)[1]


def test_runs_without_a_score_are_no_baseline_of_throughput_if_there_is_another(run_gate, tmp_path):
    file = tmp_path / "perf.jsonl"
    for name in ("main", "failed"):
        assert run_gate(name, "--history", file, "--append", "--metric", "throughput")[0] == 0
    assert [entry.passed for entry in read_history(file, [])] == [None, True]
    assert "aaaaaaaa -> bbbbbbbb" in run_gate("same", "--history", file, "--metric", "throughput")[1]


@pytest.mark.parametrize("how", [["--accept"], ["--at-most", "30%"]])
def test_accepted_runs_stay_accepted(run_gate, tmp_path, how):
    file, chart = tmp_path / "perf.jsonl", tmp_path / "perf.svg"
    run_gate("main", "--history", file, "--append")
    assert run_gate("slow", "--history", file, "--append")[0] == 1
    assert run_gate("slow", "--history", file, "--append", *how)[0] == 0
    before = file.read_bytes()
    for again in (["--append"], ["--append"], []):
        status, out, _ = run_gate("slow", "--history", file, "--chart", chart, "--github", *again)
        assert status == 0 and file.read_bytes() == before
        assert "accepted: deepspeech2 mini: new takes 1" in out and "at most 5 % is allowed" in one_line_of(out)
        assert "these runs were accepted before (perf.jsonl)" in out
        assert not again or f"nothing appended to {file}: these runs were accepted before" in out
        assert "::notice title=Slower than the baseline (accepted)%3A deepspeech2 mini::accepted: " in out
    assert "the last has 0.834" in chart.read_text() and "0 failed the gate" in chart.read_text()
    # Compared with other runs, they are as slow as they are, which takes nothing back.
    status, out, _ = run_gate("slow", "--baseline", "main", "--history", file, "--append")
    assert status == 1 and "these runs were accepted before" in out and file.read_bytes() == before
    (entry,) = read_history(file, [])[1:]
    assert entry.accepted and not entry.failed and not entry.doubtful


def test_any_slowdown_of_runs_that_reach_the_target_can_be_accepted(run_gate, tmp_path):
    file = tmp_path / "perf.jsonl"
    series(tmp_path / "new", 3, 30.0, commit="b", day=1)
    run_gate("main", "--history", file, "--append")
    status, out, _ = run_gate(tmp_path / "new", "--history", file, "--append", "--accept")
    assert status == 0 and re.search("accepted: deepspeech2 mini: new takes 25 x the time", one_line_of(out))
    assert "accepted with --accept" in out
    assert run_gate("failed", "--history", file, "--append", "--accept")[0] == 1
    # What is not slower is not called accepted.
    assert run_gate("main", "--baseline", "same", "--history", file, "--append", "--accept")[1].startswith("passed: ")


def test_that_there_is_nothing_to_compare_with_takes_no_failure_back(run_gate, tmp_path):
    file = tmp_path / "perf.jsonl"
    assert run_gate("slow", "--baseline", "main", "--history", file, "--append")[0] == 1
    assert "nothing appended" in run_gate("slow", "--history", file, "--append")[1]
    assert read_history(file, [])[0].failed


def test_the_same_runs_are_recognised_by_what_was_measured(history_entries):
    entry = history_entries[0]
    assert have_common_runs(entry, with_values(entry, added_later="x"))
    extended = dataclasses.replace(entry, runs=entry.runs[:1], started_at=None)
    assert have_common_runs(entry, extended)
    other = dataclasses.replace(entry, runs=tuple(dataclasses.replace(run, seed=5) for run in entry.runs))
    assert not have_common_runs(entry, other)


def test_an_entry_that_could_not_be_read_is_not_written(history_entries, tmp_path):
    file = tmp_path / "perf.jsonl"
    entry = history_entries[0]
    runs = tuple(dataclasses.replace(run, progress=0.0) for run in entry.runs)  # as some MLPerf benchmarks count
    at_once = tuple(dataclasses.replace(run, minutes=0.0) for run in entry.runs)
    given = [dataclasses.replace(entry, runs=at_once), dataclasses.replace(entry, runs=runs)]
    assert append(file, given[:1]) == ["a time, a rate or a score is not above 0"] and not file.exists()
    assert append(file, given) == ["a time, a rate or a score is not above 0", ""]
    problems = []
    assert read_history(file, problems) == given[1:] and problems == []


def test_a_series_that_was_extended_is_not_its_own_baseline(run_gate, tmp_path):
    file = tmp_path / "perf.jsonl"
    run_gate("main", "--history", file, "--append")
    series(tmp_path / "new", 2, 1.001, commit="b")
    run_gate(tmp_path / "new", "--history", file, "--append")
    fake = FakeRun(seed=1002, start_s=1_760_100_000.0, train_s=9.15)
    write_run(tmp_path / "new" / "run-2", fake, code=record.CodeVersion(commit="b" * 40, clean=True))
    status, out, _ = run_gate(tmp_path / "new", "--history", file, "--append")
    assert status == 0 and "commit aaaaaaaa -> bbbbbbbb" in out and "appended 1 entry" in out
    assert [len(entry.runs) for entry in read_history(file, [])] == [3, 2, 3]


def test_a_history_is_a_baseline_like_the_runs_that_it_is_of(run_gate, tmp_path):
    for name, new in (("main", "slow"), ("lucky", "unlucky"), ("failed", "main")):
        file = tmp_path / f"{name}.jsonl"
        run_gate(name, "--history", file, "--append")
        metric = "throughput" if name == "failed" else "time"
        whole = run_gate(new, "--baseline", name, "--metric", metric)
        alone = run_gate(new, "--baseline", file, "--metric", metric)
        assert alone == (whole[0], whole[1].replace("\n  baseline: 3 of 3 runs: aborted", ""), whole[2])


def test_entries_that_do_not_fit_are_no_baseline(run_gate, tmp_path):
    file = tmp_path / "perf.jsonl"
    run_gate("main", "--history", file, "--append")
    status, out, _ = run_gate("gpu", "--history", file)
    assert status == 0 and "perf.jsonl has other hardware only: accelerators 0 -> 1" in one_line_of(out)
    status, out, _ = run_gate("other", "--history", file)
    assert status == 0 and "perf.jsonl has other parameters (optimizer.learning_rate 0.0015" in one_line_of(out)
    # As an explicit baseline, other hardware will do.
    assert "warning: other hardware" in run_gate("gpu", "--baseline", file)[1]
    with pytest.raises(UserError, match=r"nothing to compare .* with: perf.jsonl has other parameters"):
        run_gate("other", "--baseline", file)
    failed = tmp_path / "failed.jsonl"
    run_gate("failed", "--history", failed, "--append")
    assert "all entries of this benchmark in failed.jsonl" in one_line_of(run_gate("main", "--history", failed)[1])


def test_a_damaged_line_is_reported_and_the_others_are_read(run_gate, tmp_path):
    file = tmp_path / "perf.jsonl"
    run_gate("main", "--history", file, "--append")
    (line,) = file.read_text().splitlines()
    file.write_text(line + "\n" + line[:200])  # what a crash may leave
    status, _, err = run_gate("slow", "--history", file, "--append")
    assert (status, err.count("\n")) == (1, 1) and f"{file}:2: this line is damaged and was left out (not JSON)" in err
    assert file.read_text().startswith(line + "\n" + line[:200] + "\n{")
    problems = []
    assert [entry.passed for entry in read_history(file, problems)] == [None, False] and len(problems) == 1


@pytest.mark.parametrize("option", ["--history", "--baseline"])
def test_a_history_without_any_entry_is_an_error_that_tells_what_is_wrong(run_gate, tmp_path, capsys, option):
    file = tmp_path / "perf.jsonl"
    run_gate("main", "--history", file, "--append")
    file.write_text(file.read_text()[:200])
    with pytest.raises(UserError, match=r"perf.jsonl: this file has no entry that can be read.* - restore it"):
        run_gate("same", option, file, "--github")
    out, err = capsys.readouterr()
    assert err == f"warning: {file}:1: this line is damaged and was left out (not JSON)\n"
    problem, error = out.splitlines()
    assert problem.startswith("::warning title=Performance gate::") and ":1: this line is damaged" in problem
    assert error.startswith("::error title=Performance gate%3A error::")


def test_many_problems_are_few_annotations(run_gate, tmp_path):
    file = tmp_path / "perf.jsonl"
    run_gate("main", "--history", file, "--append")
    file.write_text(file.read_text() + "damaged\n" * 20)
    _, out, err = run_gate("same", "--history", file, "--github")
    assert err.count("\n") == 20 and out.count("::warning") == 6 and "15 more problems" in out


def test_an_output_that_cannot_be_written_loses_nothing_else(run_gate, tmp_path, capsys):
    file = tmp_path / "perf.jsonl"
    chart = tmp_path / "none" / "perf.svg"
    arguments = ("--history", file, "--append", "--markdown", "/dev/full", "--chart", chart, "--github")
    with pytest.raises(UserError) as caught:
        run_gate("main", *arguments)
    assert str(caught.value) == f"--chart {chart}: No such file or directory"
    out, err = capsys.readouterr()
    assert err.startswith("error: --markdown /dev/full: No space left on device - ") and err.count("\n") == 1
    assert "appended 1 entry" in out and out.count("::error title=Performance gate%3A error::--") == 2
    assert len(read_history(file, [])) == 1
    chart.parent.mkdir()
    with pytest.raises(UserError, match="--history /proc/none: No such file"):
        run_gate("main", "--history", "/proc/none", "--append", "--chart", chart, "--markdown", tmp_path / "summary.md")
    assert "passed: " in capsys.readouterr().out and chart.exists() and (tmp_path / "summary.md").exists()


def test_an_entry_for_which_there_is_no_space_leaves_nothing_behind(run_gate, gate_runs, tmp_path):
    file = tmp_path / "perf.jsonl"
    run_gate("main", "--history", file, "--append")
    before = file.read_bytes()
    blocks = (len(before) + 1024) // 512  # the largest file that the shell's child may write
    command = f'ulimit -f {blocks}; exec "$0" -m results gate "$1" --history "$2" --append'
    arguments = ["sh", "-c", command, sys.executable, gate_runs / "same", file]
    # Python would also write a truncated file of compiled code.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (2, f"error: --history {file}: File too large\n")
    assert file.read_bytes() == before


def test_entries_that_are_appended_at_once_are_all_kept(gate_runs, tmp_path):
    file = tmp_path / "perf.jsonl"
    names = ("main", "same", "lucky", "unlucky")
    line = [sys.executable, "-m", "results", "gate", "--history", file, "--append"]
    started = [subprocess.Popen([*line, gate_runs / name], cwd=ROOT, stdout=subprocess.DEVNULL) for name in names]
    assert {process.wait() for process in started} <= {0, 1}
    problems = []
    entries = read_history(file, problems)
    assert problems == [] and {entry.configuration["commit"][0] for entry in entries} == set("abef")


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("runs", [{"minutes": 0.0}], "not above 0"),
        ("runs", [{"minutes": "1"}], "must be a number"),
        ("runs", [{"minutes": None}], "a score without a run"),
        ("runs", [], "a score without a run"),
        ("dropped", 2, "fewer runs than its score leaves out"),
        ("aspects", None, "expected the keys"),
        ("schema_version", "1", "its schema_version is"),
        ("schema_version", -1, "its schema_version is"),
    ],
)
def test_an_impossible_entry_is_a_damaged_line(run_gate, tmp_path, field, value, why):
    file = tmp_path / "perf.jsonl"
    run_gate("main", "--history", file, "--append")
    tree = json.loads(file.read_text())
    file.write_text("\n" + json.dumps(tree | {field: value}) + "\n[1]\n" + "[" * 9000 + "\n\xff\n" + json.dumps(tree))
    problems = []
    assert len(read_history(file, problems)) == 1
    assert [problem.split(": ")[0] for problem in problems] == [f"{file}:{number}" for number in (2, 3, 4, 5)]
    assert why in problems[0]


def test_a_file_of_a_later_version_or_of_something_else_is_not_touched(run_gate, tmp_path):
    file = tmp_path / "perf.jsonl"
    for text, message in (
        ('{"schema_version": 99}\n', "version 99; this program reads versions up to 1"),
        ("notes of mine\n", "no entry that can be read"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            run_gate("main", "--history", file, "--append")
        assert file.read_text() == text


def test_a_history_of_version_1_is_read():
    """An entry of each kind: passed, failed, of runs that failed, accepted; the first ones without an outcome."""
    problems = []
    entries = read_history(DATA / "formats" / "history.jsonl", problems)
    assert problems == [] and [entry.passed for entry in entries] == [None, False, False, True]
    assert [entry.failed for entry in entries] == [False, True, True, False]
    first, slow, failed, accepted = entries
    assert (accepted.outcome, accepted.accepted, accepted.doubtful) == ("slower", True, False)
    assert (titles_of([first])[0], first.configuration["commit"], first.started_at) == (
        "deepspeech2 mini",
        "aaaaaaaa",
        "2025-10-09T10:53:26Z",
    )
    assert (first.side.pairable, first.side.dropped, len(first.side.runs)) == (True, 0, 3)
    assert first.runs[0].seed == 1000 and first.runs[0].progress == 4 and first.runs[0].samples_per_s > 100
    assert first.score.minutes == sorted(run.minutes for run in first.runs)[1]
    assert decide(first.side, slow.side, TIME, 0.05).outcome == Outcome.SLOWER
    assert failed.side.failed == 3 and decide(first.side, failed.side, TIME, 0.05).outcome == Outcome.NO_TARGET


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["--history", "h/run-0/result.txt", "--append"], "h/run-0/result.txt"),
        (["--markdown", "b/run-0/record.json"], "b/run-0/record.json"),
        (["--markdown", "b/run-0/params.yaml"], "b/run-0/params.yaml"),
        (["--history", "p.jsonl", "--chart", "h/run-0/telemetry.csv"], "h/run-0/telemetry.csv"),
        (["--history", "hard.jsonl", "--append"], "hard.jsonl"),
        (["--history", "p.jsonl", "--markdown", "./p.jsonl"], "p.jsonl"),
        (["--history", "p.jsonl", "--chart", "p.jsonl"], "p.jsonl"),
        (["--history", "p.jsonl", "--chart", "h/run-0/result.txt"], "h/run-0/result.txt"),
    ],
)
def test_inputs_are_never_written_to(run_gate, tmp_path, monkeypatch, arguments, file):
    series(tmp_path / "h", 1)
    series(tmp_path / "b", 1, day=1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hard.jsonl").hardlink_to(tmp_path / "b" / "run-0" / "record.json")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"{file}: this (file is named twice|is one of the inputs)"):
        run_gate("h", "--baseline", "b", *arguments)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_runs_of_which_something_is_unknown_are_not_appended(run_gate, tmp_path):
    """Unknown parameters equal nothing, so such an entry could never be a baseline."""
    series(tmp_path / "runs", 1)
    log = tmp_path / "runs" / "run-0" / "result.txt"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if "params_sha256" not in line))
    (tmp_path / "runs" / "run-0" / "record.json").unlink()
    status, _, err = run_gate(tmp_path / "runs", "--history", tmp_path / "h.jsonl", "--append")
    assert status == 0 and "not appended, because something is unknown: " in err
    assert not (tmp_path / "h.jsonl").exists()
