"""`python -m results gate` on run folders: what it prints, writes and returns."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from common.errors import UserError
from results.comparing.identity import KEYS
from results.gating.decision import THROUGHPUT, TIME, Outcome
from results.gating.history_chart import history_chart
from results.gating.matching import against_history, against_runs
from results.gating.same_hardware import HARDWARE
from results.rendering.markup import escape
from tests.conftest import ROOT
from tests.gating.gate_runs import of_runs, one_line_of, runs_of, series, with_values
from tests.support.logs import MINI_PARAMS

SVG = "{http://www.w3.org/2000/svg}"


def test_runs_that_are_not_slower_pass(run_gate):
    status, out, err = run_gate("same", "--baseline", "main")
    assert (status, err) == (0, "")
    text = one_line_of(out)
    assert text.startswith("passed: deepspeech2 mini: new takes 0.")
    assert "new takes 1.00" in text and "Compared by 3 pairs of runs of the same seed." in text
    assert "differs in: commit aaaaaaaa -> bbbbbbbb" in text
    assert "MLPerf-style, not verified by MLCommons" in text
    assert max(map(len, out.splitlines())) <= 80


def test_runs_that_are_slower_fail_unless_the_margin_is_wide(run_gate):
    status, out, _ = run_gate("branch=slow", "--baseline", "trunk=main")
    assert status == 1 and "FAILED: deepspeech2 mini: branch takes 1" in out
    assert "branch takes 1.1" in one_line_of(out) and "x trunk's time" in one_line_of(out)
    assert run_gate("slow", "--baseline", "main", "--metric", "throughput")[0] == 1
    assert run_gate("slow", "--baseline", "main", "--at-most", "30%")[0] == 0


def test_a_slowdown_that_may_be_luck_passes_and_says_so(run_gate):
    status, out, _ = run_gate("unlucky", "--baseline", "lucky")
    assert status == 0
    assert re.search(
        r"passed: .*slower by about 9.4 %, but not with certainty: 95 % interval .* about \d+ runs", one_line_of(out)
    )
    assert "with the same seeds on both sides, fewer runs would do" in one_line_of(out)
    # By the steps alone, it is certain that nothing is slower.
    status, out, _ = run_gate("unlucky", "--baseline", "lucky", "--metric", "throughput")
    assert status == 0 and "time per sample (95 % interval" in one_line_of(out)


@pytest.mark.parametrize(
    ("seeds", "failed", "note"),
    [
        (range(50, 55), 0, "with the same seeds on both sides, fewer runs would do"),
        (range(2, 7), 0, "with the same seeds on both sides, fewer runs would do"),
        (range(5), 1, "the seeds are the same, but runs failed, so they were not compared in pairs"),
        ([0, 0, 1, 2, 3], 0, None),
        ([None, 0, 1, 2, 3], 0, None),
    ],
)
def test_the_same_seeds_are_advised_only_where_they_are_not(history_entries, seeds, failed, note):
    minutes = [0.7, 0.95, 0.7, 0.7, 0.7]
    base = of_runs(history_entries[0], minutes, range(5))
    new = of_runs(history_entries[0], [*minutes[:4], None if failed else 0.95], seeds)
    (gated,) = against_runs(runs_of(new), runs_of(base), TIME, 0.05)[0]
    assert gated.decision.outcome in (Outcome.UNCLEAR, Outcome.SEEMS_SLOWER)
    told = [each for each in gated.notes if "seeds" in each]
    assert [each.removesuffix(" (docs/gate.md)") for each in told] == ([] if note is None else [note])
    # Throughput does not depend on the seed.
    (gated,) = against_runs(runs_of(new), runs_of(base), THROUGHPUT, 0.0)[0]
    assert not any("seeds" in each for each in gated.notes)


def test_too_few_runs_pass_with_a_warning(run_gate):
    status, out, _ = run_gate("one", "--baseline", "main", "--github")
    assert status == 0 and "too few runs to tell: it needs 2 more of the new code" in one_line_of(out)
    assert "::warning title=Cannot tell yet%3A deepspeech2 mini::passed: " in out


def test_runs_that_do_not_reach_the_target_fail(run_gate):
    status, out, _ = run_gate("failed", "--baseline", "main")
    assert status == 1 and "new does not reach its target" in out
    assert "more runs did not reach the target (new: 3 of 3, baseline: 0 of 3)" in one_line_of(out)
    assert run_gate("failed", "--baseline", "main", "--metric", "throughput")[0] == 0


def test_other_hardware_is_a_warning(run_gate):
    status, out, _ = run_gate("gpu", "--baseline", "main", "--github")
    assert status == 1 and "warning: other hardware" in out
    assert re.search(r"^::warning title=.*::other hardware, .*: accelerators 0 -> 1$", out, re.MULTILINE)


@pytest.mark.parametrize("key", HARDWARE)
def test_each_difference_of_the_hardware_is_a_warning_and_no_baseline_in_a_history(history_entries, key):
    entry = with_values(history_entries[0], **dict.fromkeys(HARDWARE, "1"))
    other = with_values(of_runs(entry, [0.7, 0.7, 0.7], [7, 8, 9]), **{key: "2"})
    ((gated,), _) = against_runs(runs_of(other), runs_of(entry), TIME, 0.05)
    (warning,) = gated.warnings
    assert re.fullmatch("other hardware, so this may not be about the code: .* 1 -> 2", warning)
    (gated,) = against_history(runs_of(other), [entry], ("h", "baseline"), TIME, 0.05, required=False)
    assert gated.baseline is None and "h has other hardware only: " in gated.decision.text
    chart = history_chart([entry], [other], TIME).decode()
    assert "1 entry, 0 failed the gate" in chart


@pytest.mark.parametrize("key", HARDWARE)
@pytest.mark.parametrize("older", [True, False], ids=["baseline", "new"])
def test_hardware_that_one_side_does_not_say_is_not_the_same(history_entries, key, older):
    entry = with_values(history_entries[0], **dict.fromkeys(HARDWARE, "1"))
    other = of_runs(entry, [0.7, 0.7, 0.7], [7, 8, 9])
    before, after = (with_values(entry, **{key: None}), other) if older else (entry, with_values(other, **{key: None}))
    ((gated,), _) = against_runs(runs_of(after), runs_of(before), TIME, 0.05)
    assert gated.warnings == [] and f"not known of side: {KEYS[key]}" in gated.notes
    (gated,) = against_history(runs_of(after), [before], ("h", "baseline"), TIME, 0.05, required=False)
    chart = history_chart([before], [after], TIME).decode()
    if key == "threads":  # Logs of earlier versions did not have them.
        assert gated.baseline == before and "2 entries" in chart
    else:
        assert gated.baseline is None and "1 entry" in chart
        whom = "its newest entry" if older else "side"
        told = f"h has no entry that is known to be of the same hardware: not known of {whom}: {KEYS[key]}"
        assert told in gated.decision.text
    # Named by the user, it will do.
    (gated,) = against_history(runs_of(after), [before], ("h", "baseline"), TIME, 0.05, required=True)
    assert gated.baseline == before


def test_what_neither_side_says_of_the_hardware_is_named(history_entries):
    (gated,) = against_runs(runs_of(history_entries[1]), runs_of(history_entries[0]), TIME, 0.05)[0]
    assert "not known of either side: cores, threads" in gated.notes  # and no accelerator, which there is none of


def test_more_failed_runs_are_a_warning_by_their_share(history_entries):
    few = of_runs(history_entries[0], [0.7, 0.7, None], range(3))
    many = of_runs(history_entries[0], [0.7] * 8 + [None] * 2, range(10))
    (gated,) = against_runs(runs_of(many), runs_of(few), THROUGHPUT, 0.05)[0]
    assert gated.warnings == []
    (gated,) = against_runs(runs_of(few), runs_of(many), THROUGHPUT, 0.05)[0]
    assert gated.warnings == ["more runs did not reach the target (side: 1 of 3, side: 2 of 10)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["other", "--baseline", "main"], "new and baseline cannot be compared: other parameters .*0.0015, not 0.003"),
        (["mixed", "--baseline", "main"], "new: runs of 2 kinds.*bbbbbbbb.*cccccccc.*--ignore commit"),
        (["main", "--baseline", "main"], "runs are on both sides: .*main/run-0/result.txt and 2 more"),
        (["mixed/b", "--baseline", "mixed", "--ignore", "commit"], "runs are on both sides"),
        (["main"], "nothing to compare with - give --baseline PATH or --history FILE"),
        (["main", "--baseline", "same", "--append"], "--append needs a history"),
        (["main", "--baseline", "same", "--chart", "a.svg"], "--chart needs a history"),
        (["main", "--baseline", "none.jsonl"], "none.jsonl: no such file"),
        (["nothing", "--baseline", "main"], "nothing: no such file"),
        (["main", "--baseline", "same", "--ignore", "colour"], "unknown key 'colour'"),
        (["main", "--baseline", "same", "--accept"], "--accept has an effect only on the history"),
        (["main", "--history", "h.jsonl", "--chart", "/dev/null"], "--chart /dev/null: not a regular file"),
        (["many", "--baseline", "main"], r"new: runs of 5 kinds.* and 2 more - .*--ignore commit$"),
        (["main", "--baseline", "zeros.txt"], "zeros.txt: no log lines in any known format - pass a run folder"),
        (["main", "--baseline", "empty.txt"], "empty.txt: no log lines in any known format - pass a run folder"),
        (["main", "--baseline", "zeros"], "zeros: no log lines in any known format in any of 2 files - pass"),
        (["main", "--baseline", "perf.txt"], r"perf.txt: this is the history of a gate.* must be named \*.jsonl"),
        (["perf.txt", "--baseline", "main"], "perf.txt: this is the history of a gate, not a log - give it as --hist"),
    ],
)
def test_what_cannot_be_compared_is_an_error_that_names_the_reason(run_gate, arguments, message):
    with pytest.raises(UserError) as caught:
        run_gate(*arguments)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_an_error_exits_with_2_and_one_line(gate_runs):
    command = [sys.executable, "-m", "results", "gate", gate_runs / "other", "--baseline", gate_runs / "main"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_an_error_is_an_annotation_too(run_gate, gate_runs, capsys):
    with pytest.raises(UserError):
        run_gate("other", "--baseline", "main", "--github")
    out = capsys.readouterr().out
    assert out.startswith("::error title=Performance gate%3A error::new and baseline cannot be compared: other param")
    assert out.count("\n") == 1


def test_runs_of_two_commits_can_be_taken_as_one_side(run_gate):
    status, out, _ = run_gate("main", "--baseline", "mixed", "--ignore", "commit")
    assert status == 0 and "baseline: merged although not the same commit" in one_line_of(out)


def test_what_is_unknown_of_a_run_does_not_hide_the_remedy(run_gate, tmp_path):
    """The run without a record says neither its commit nor its nodes."""
    for number, commit in enumerate("abc"):
        series(tmp_path / commit, 1, commit=commit, day=number)
    (tmp_path / "c" / "run-0" / "record.json").unlink()
    with pytest.raises(UserError, match=r"runs of 3 kinds.* --ignore commit$"):
        run_gate(tmp_path, "--baseline", "main")
    assert run_gate(tmp_path, "--baseline", "slow", "--ignore", "commit")[0] == 0


def test_each_benchmark_is_gated_and_the_worst_decides(run_gate, tmp_path):
    for side_name, slower in (("old", 1.0), ("new", 1.3)):
        series(tmp_path / side_name / "mini", 3, slower)
        params = dataclasses.replace(MINI_PARAMS, train=dataclasses.replace(MINI_PARAMS.train, target_wer=20.0))
        series(tmp_path / side_name / "harder", 3, 1.0, params=params, edits=((1290, 200),))
    series(tmp_path / "new" / "mine", 1, edits=((9,),), tree_sha256="e" * 64)
    series(tmp_path / "old" / "theirs", 1, edits=((9,),), tree_sha256="d" * 64)
    status, out, _ = run_gate(tmp_path / "new", "--baseline", tmp_path / "old", "--history", tmp_path / "h", "--append")
    text = one_line_of(out)
    assert status == 1 and text.count("passed: ") == 1 and text.count("FAILED: ") == 1
    assert re.search(r"FAILED: deepspeech2 mini \(parameters \w{8}, target WER 23\): new takes", text)
    assert "only new has deepspeech2 mini" in text and "other dataset digest (eeeeeeee, not " in text
    assert re.search("only baseline has deepspeech2 mini, .* dataset digest dddddddd", text)
    assert "appended 2 entries" in text
    chart = tmp_path / "two.svg"
    run_gate(tmp_path / "new", "--baseline", tmp_path / "old", "--history", tmp_path / "h", "--chart", chart)
    assert len(ElementTree.parse(chart).findall(f"{SVG}svg")) == 2


HOSTILE = "a|<b>&`*\n::error::x %0A\x1b[31m"


def test_the_markdown_is_appended_and_its_text_is_escaped(run_gate, tmp_path):
    file = tmp_path / "summary.md"
    file.write_text("earlier\n")
    run_gate(f"{HOSTILE}=slow", "--baseline", "main", "--markdown", file)
    run_gate("same", "--baseline", "main", "--markdown", file)
    text = file.read_text()
    assert text.startswith("earlier\n### FAILED: deepspeech2 mini\n\n") and "\n\n### passed: deepspeech2 mini\n" in text
    assert r"a\|\<b\>\&\`\*\\n::error::x %0A\\x1b\[31m takes 1" in text and "<b>" not in text
    assert text.count("Scores are MLPerf-style, not verified by MLCommons.") == 2


def test_annotations_for_github_are_escaped(run_gate):
    status, out, _ = run_gate(f"{HOSTILE}=slow", "--baseline", "main", "--github")
    lines = out.splitlines()
    token = lines[0].removeprefix("::stop-commands::")
    end = lines.index(f"::{token}::")
    assert status == 1 and len(token) == 32
    (annotation,) = lines[end + 1 :]
    assert annotation.startswith("::error title=Slower than the baseline%3A deepspeech2 mini::FAILED: ")
    assert r"a|<b>&`*\n::error::x %250A\x1b[31m takes" in annotation
    assert (
        run_gate("same", "--baseline", "main", "--github")[1].splitlines()[-1].startswith("::notice title=Not slower")
    )


def test_the_chart_shows_every_entry_and_the_new_runs(run_gate, tmp_path):
    file, chart = tmp_path / "perf.jsonl", tmp_path / "perf.svg"
    for name in ("main", "gpu", f"{HOSTILE}=slow"):
        run_gate(name, "--history", file, "--append")
    run_gate("same", "--history", file, "--chart", chart)  # not appended, and drawn
    root = ElementTree.fromstring(chart.read_text())
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    named = root.get("aria-labelledby").split()
    (title, description) = (element for element in root if element.get("id") in named)
    assert (title.tag, description.tag) == (f"{SVG}title", f"{SVG}desc")
    assert description.text.startswith("deepspeech2 mini: 3 entries, 1 failed the gate; the last has 0.")
    dots = root.findall(f".//{SVG}circle")
    assert [dot.get("class") for dot in dots] == ["dot other"] * 9 + ["dot s0", "dot s1", "dot s0"]
    across = [float(dot.get("cx")) for dot in dots[9:]]
    assert across == sorted(set(across))
    assert len(root.find(f".//{SVG}polyline").get("points").split()) == 3
    tooltips = [dot.find(f"{SVG}title").text for dot in dots]
    assert r"a|<b>&`*\n::error::x %0A\x1b[31m, commit cccccccc" in tooltips[10] and "failed the gate" in tooltips[10]
    assert "prefers-color-scheme: dark" in chart.read_text() and escape("<b>") in chart.read_text()
    run_gate("same", "--history", file, "--chart", chart, "--metric", "throughput", "--append")
    throughput = ElementTree.fromstring(chart.read_text())
    assert throughput.find(f"{SVG}title").text == "Throughput of deepspeech2 mini, entry by entry"
    assert len(throughput.findall(f".//{SVG}circle")) == 12
