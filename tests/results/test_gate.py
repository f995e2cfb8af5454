"""`python -m results gate`: the decision on simulated runs of known speed, and the whole command on run folders."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import record
from benchmark.rounds.rules_by_round import rules_of
from common.errors import UserError
from results import gate
from results.comparing.identity import KEYS
from results.comparing.score_of_runs import Score, score_runs
from results.comparing.speedup import RunFigures, Side
from results.gating import wording
from results.gating.decision import THROUGHPUT, TIME, Outcome, decide
from results.gating.history import append, have_common_runs, read_history, titles_of
from results.gating.history_chart import history_chart
from results.gating.matching import against_history, against_runs
from results.gating.same_hardware import HARDWARE
from results.gating.sides import Runs
from results.rendering.markup import escape
from tests.conftest import DATA, ROOT
from tests.support.logs import MINI_PARAMS, FakeRun
from tests.support.run_folders import FakeMachine, write_run

SVG = "{http://www.w3.org/2000/svg}"
DRAWS = 2000

# ---------------------------------------------------------------------------------------------------------------------
# The decision


def side(minutes, epochs=None, rates=None, seeds=None) -> Side:
    epochs, rates = epochs or [3] * len(minutes), rates or [100.0] * len(minutes)
    seeds = seeds or [object() for _ in minutes]
    runs = [RunFigures(*each) for each in zip(minutes, epochs, rates, seeds, strict=True)]
    rules = rules_of("deepspeech2")
    score = score_runs(rules, minutes)
    return Side(score, runs, rules.dropped if score.kind == "olympic" else 0, pairable=True)


def drawn(generator: random.Random, truth: float, seeds: list[int], luck: dict[int, int]) -> Side:
    """Ten runs whose epochs take `truth` minutes with 1 % noise; a seed decides whether it takes 3 or 4 of them."""
    epochs = [luck[seed] for seed in seeds]
    times = [truth * generator.gauss(1, 0.01) for _ in seeds]
    minutes = [count * time for count, time in zip(epochs, times, strict=True)]
    return side(minutes, epochs, [100 / time for time in times], seeds)


def fraction_failed(truth: float, paired: bool, metric: str = TIME, runs: int = 10) -> float:
    generator = random.Random(f"{truth} {paired} {metric} {runs}")
    failed = 0
    for _ in range(DRAWS):
        luck = {seed: generator.choice((3, 4)) for seed in range(2 * runs)}
        seeds = list(range(runs))
        base = drawn(generator, 1.0, seeds, luck)
        new = drawn(generator, truth, seeds if paired else [seed + runs for seed in seeds], luck)
        failed += not decide(base, new, metric, 0.05).passed
    return failed / DRAWS


@pytest.mark.parametrize("paired", [True, False], ids=["paired", "unpaired"])
@pytest.mark.parametrize("truth", [1.00, 1.02, 1.05])
def test_runs_within_the_margin_fail_wrongly_in_less_than_5_percent(truth, paired):
    assert fraction_failed(truth, paired) < 0.05


@pytest.mark.parametrize("metric", [TIME, THROUGHPUT])
def test_runs_that_are_slower_fail_in_more_than_95_percent(metric):
    assert fraction_failed(1.20, paired=True, metric=metric) > 0.95


def test_throughput_needs_no_common_seeds_and_fewer_runs():
    assert fraction_failed(1.20, paired=False, metric=THROUGHPUT, runs=3) > 0.95
    assert fraction_failed(1.05, paired=False, metric=THROUGHPUT, runs=3) < 0.05


@pytest.mark.parametrize("runs", [1, 2, 3, 5])
def test_few_runs_fail_wrongly_as_rarely(runs):
    """With too few for an interval, never."""
    assert fraction_failed(1.05, paired=True, runs=runs) < 0.05
    assert fraction_failed(1.05, paired=False, runs=runs) < 0.05


@pytest.mark.parametrize(
    ("new", "outcome", "told"),
    [
        ([1.0, 1.01, 1.02, 0.99, 0.98], Outcome.WITHIN, r"takes as much time \(95 % interval .* less to .* more\)"),
        ([1.04, 1.05, 1.06, 1.03, 1.02], Outcome.UNCLEAR, r"takes 4 % more time, up to 5 % .*; about \d+ runs of each"),
        (
            [1.07, 1.1, 1.12, 1.02, 1.04],
            Outcome.SEEMS_SLOWER,
            r"slower by about 7 %, but not with certainty: .*; about \d+ runs",
        ),
        ([1.2, 1.21, 1.22, 1.19, 1.18], Outcome.SLOWER, r"takes 20 % more time \(95 % interval 17 % to 23 % more\)"),
        ([0.8, 0.81, 0.82, 0.79, 0.78], Outcome.WITHIN, r"takes 20 % less time \(95 % interval .* less\)"),
        (
            [1.5],
            Outcome.TOO_FEW,
            r"seems to take 50 % more time, .* it needs 2 more of the new code \(3 on each side\)",
        ),
        ([28.0, 28.1, 28.2], Outcome.SLOWER, r"takes 28 x the time \(95 % interval 2\d.* to 2\d.* x\)"),
        ([1e-5, 1.1e-5, 1e-5], Outcome.WITHIN, r"takes 1.03e-05 x the time \(95 % interval .* x\)"),
        ([None] * 5, Outcome.NO_TARGET, "does not reach its target, the baseline does .no score: 5 of 5 runs failed"),
        ([1.2, 1.3, 1.25, None, 1.2], Outcome.SLOWER, r"takes 25 % more time"),
        ([1.5, None, 1.5, None, 1.5], Outcome.SLOWER, r"takes 50 % more time \("),
    ],
)
def test_the_text_says_how_much_and_how_certain(new, outcome, told):
    decision = decide(side([1.0, 1.01, 1.02, 0.99, 0.98]), side(new), TIME, 0.05)
    assert decision.outcome == outcome and re.search(told, decision.text), decision.text


@pytest.mark.parametrize(
    ("new", "margin", "told"),
    [
        # Never "takes as much time" of what fails, nor the margin itself.
        ([1.0004] * 3, 0, r"takes 0\.04 % more time \(95 % interval 0\.04 % more\), at most 0 % is allowed"),
        ([1.0502] * 3, 0.05, r"takes 5\.02 % more time \(95 % interval 5\.02 % more\), at most 5 % is allowed"),
        ([1.0006] * 3, 0.0005, r"takes 0\.1 % more time .*, at most 0\.05 % is allowed"),
        ([1.000001, 0.999999, 1.0], 0.05, r"takes as much time \(95 % interval as much\), up to 5 %"),
        ([0.9996, 0.9999, 0.9994], 0.05, r"takes as much time \(95 % interval 0 % to 0\.1 % less\), up to 5 %"),
        ([11.0, 12.0, 13.0], 1, r"takes 12 x the time \(95 % interval 9\.\d x to 15 x\), at most 100 % is allowed"),
    ],
)
def test_figures_show_on_which_side_of_the_margin_they_are(new, margin, told):
    decision = decide(side([1.0, 1.0, 1.0]), side(new), TIME, margin)
    assert re.search(told, decision.text), decision.text


@given(st.floats(-0.98, 9.9), st.sampled_from([0.0, 0.0005, 0.05, 0.07, 0.57, 1.0]))
def test_a_change_is_written_above_the_limit_if_and_only_if_it_is(change, limit):
    shown = float(wording.percent(change, limit).removesuffix(" %")) * (1 if change > 0 else -1)
    clear = abs(change - limit) > 1e-8
    assert not clear or (shown > round(limit * 100, 9)) == (change > limit)
    assert abs(shown - 100 * change) <= 0.5


def test_sides_that_are_too_far_apart_are_an_error_that_says_so():
    tiny, huge = side([1e-300] * 3, rates=[1e-300] * 3), side([1e300] * 3, rates=[1e300] * 3)
    with pytest.raises(UserError, match="the times to the target of the two sides are too far apart for a ratio"):
        decide(tiny, huge, TIME, 0.05)
    with pytest.raises(UserError, match="the throughputs of the two sides are too far apart for a ratio"):
        decide(tiny, huge, THROUGHPUT, 0.05)


def test_the_margin_decides():
    base, new = side([1.0, 1.01, 0.99, 1.0]), side([1.1, 1.11, 1.09, 1.1])
    outcomes = [decide(base, new, TIME, margin).outcome for margin in (0, 0.05, 0.10, 0.2, 1)]
    assert outcomes == [Outcome.SLOWER, Outcome.SLOWER, Outcome.UNCLEAR, Outcome.WITHIN, Outcome.WITHIN]
    same = side([2.0, 2.0, 2.0])
    assert decide(same, side([2.0, 2.0, 2.0]), TIME, 0).outcome == Outcome.WITHIN


def test_the_runs_that_would_tell_do():
    """With as many runs as the text says, the outcome is certain in about 80 % of draws."""
    generator = random.Random(3)

    def runs(mean: float, count: int) -> Side:
        return side([generator.gauss(mean, 0.05 * mean) for _ in range(count)])

    decision = decide(runs(1.0, 10), runs(1.12, 10), TIME, 0.05)
    assert decision.outcome == Outcome.SEEMS_SLOWER
    ratio = decision.speedup.time.value
    needed = int(re.search(r"about (\d+) runs of each would tell", decision.text)[1])
    outcomes = [decide(runs(1.0, needed), runs(1 / ratio, needed), TIME, 0.05).outcome for _ in range(500)]
    assert 0.6 < outcomes.count(Outcome.SLOWER) / 500 < 0.95


def test_too_few_runs_say_how_many_more():
    decision = decide(side([1.0]), side([2.0]), TIME, 0.05)
    assert decision.outcome == Outcome.TOO_FEW and decision.passed
    assert "seems to take 100 % more time" in decision.text
    assert "needs 2 more of the baseline and 2 more of the new code (3 on each side)" in decision.text
    assert "needs 1 more of the baseline (3" in decide(side([1.0, 1.1]), side([2.0] * 3), TIME, 0.05).text
    assert (
        "needs 1 more of the baseline and 1 more of the new code (2"
        in decide(side([1.0]), side([2.0]), THROUGHPUT, 0.05).text
    )


def test_without_a_score_there_is_nothing_to_decide():
    failed, reached = side([None, None]), side([1.0, 1.0])
    assert decide(failed, reached, TIME, 0.05).outcome == Outcome.WITHIN
    with pytest.raises(UserError, match=r"neither the new runs .* nor the baseline .* reach the target"):
        decide(failed, failed, TIME, 0.05)
    assert decide(failed, reached, THROUGHPUT, 0.05).outcome == Outcome.WITHIN
    unknown = Side(Score(1.0, "median", "single run"), [RunFigures(1.0)])
    with pytest.raises(UserError, match="throughput of the baseline is not known - use --metric time"):
        decide(unknown, reached, THROUGHPUT, 0.05)


@pytest.mark.parametrize("text", ["5", "-1%", "101%", "1.01", "", "%", "5%%", "nan", "5% or so"])
def test_a_margin_is_a_percentage_or_a_fraction(text):
    assert [gate.margin(good) for good in ("5%", "0.05", "0", "100%", "2.5 %", "1")] == [0.05, 0.05, 0, 1, 0.025, 1]
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        gate.margin(text)


# ---------------------------------------------------------------------------------------------------------------------
# The command

LONG, SHORT = (1290, 800, 420, 330, 250), (1290, 800, 420, 250)


def series(folder, count=3, slower=1.0, commit="a", seeds=0, day=0, machine=None, edits=(SHORT,), **changes):
    """Runs of one commit; equal `seeds` have equal seeds. Run n has the word errors `edits[n % len(edits)]`."""
    for number in range(count):
        fake = FakeRun(
            seed=1000 + seeds + number,
            start_s=1_760_000_000.0 + 3600 * number + 86400 * day,
            train_s=9.0 * slower * (1 + 0.01 * math.sin(number + slower)),
            word_edits=edits[number % len(edits)],
            **changes,
        )
        code = record.CodeVersion(commit=commit * 40, clean=True)
        write_run(folder / f"run-{number}", fake, machine or FakeMachine(), code=code)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders that the tests only read."""
    top = tmp_path_factory.mktemp("runs")
    series(top / "main", commit="a")
    series(top / "same", 3, 1.01, commit="b", day=1)
    series(top / "slow", 3, 1.2, commit="c", day=2)
    series(top / "one", 1, 1.1, commit="d", day=3)
    series(top / "lucky", 5, 1.0, commit="e", seeds=50, edits=(SHORT, SHORT, LONG, SHORT, SHORT), day=4)
    series(top / "unlucky", 5, 1.0, commit="f", seeds=90, edits=(LONG, LONG, SHORT, LONG, SHORT), day=5)
    series(top / "failed", 3, 1.0, commit="d", edits=((1290, 800),), day=6)
    series(top / "gpu", 3, 1.5, commit="d", machine=FakeMachine("gpu-box", gpus=1), day=7)
    optimizer = dataclasses.replace(MINI_PARAMS.optimizer, learning_rate=0.0015)
    params = dataclasses.replace(MINI_PARAMS, optimizer=optimizer)
    series(top / "other", commit="d", day=8, params=params)
    series(top / "mixed" / "b", 2, commit="b", day=9)
    series(top / "mixed" / "c", 2, commit="c", day=10)
    for number, commit in enumerate("01234"):
        series(top / "many" / commit, 1, commit=commit, day=20 + number)
    (top / "zeros").mkdir()
    for file in (top / "zeros.txt", top / "zeros" / "a.txt", top / "zeros" / "b.txt"):
        file.write_bytes(bytes(1000))
    (top / "empty.txt").touch()
    (top / "perf.txt").write_bytes((DATA / "formats" / "history.jsonl").read_bytes())
    return top


@pytest.fixture
def run_gate(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        status = gate.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="module")
def history_entries():
    return read_history(DATA / "formats" / "history.jsonl", [])


def of_runs(entry, minutes, seeds):
    """The same with other runs."""
    runs = [RunFigures(each, 3.0, 100.0 + n, seed) for n, (each, seed) in enumerate(zip(minutes, seeds, strict=True))]
    return dataclasses.replace(entry, runs=tuple(runs), score=score_runs(rules_of("deepspeech2"), minutes))


def with_values(entry, **values):
    """The same with other values of its configuration."""
    return dataclasses.replace(entry, configuration=entry.configuration | values)


def runs_of(*entries):
    return Runs("side", list(entries), [[] for _ in entries], [])


def one_line_of(text):
    return " ".join(text.split())


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


def test_an_error_exits_with_2_and_one_line(runs):
    command = [sys.executable, "-m", "results", "gate", runs / "other", "--baseline", runs / "main"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_an_error_is_an_annotation_too(run_gate, runs, capsys):
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


# ---------------------------------------------------------------------------------------------------------------------
# The history


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


def test_an_entry_for_which_there_is_no_space_leaves_nothing_behind(run_gate, runs, tmp_path):
    file = tmp_path / "perf.jsonl"
    run_gate("main", "--history", file, "--append")
    before = file.read_bytes()
    blocks = (len(before) + 1024) // 512  # the largest file that the shell's child may write
    command = f'ulimit -f {blocks}; exec "$0" -m results gate "$1" --history "$2" --append'
    arguments = ["sh", "-c", command, sys.executable, runs / "same", file]
    # Python would also write a truncated file of compiled code.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (2, f"error: --history {file}: File too large\n")
    assert file.read_bytes() == before


def test_entries_that_are_appended_at_once_are_all_kept(runs, tmp_path):
    file = tmp_path / "perf.jsonl"
    names = ("main", "same", "lucky", "unlucky")
    line = [sys.executable, "-m", "results", "gate", "--history", file, "--append"]
    started = [subprocess.Popen([*line, runs / name], cwd=ROOT, stdout=subprocess.DEVNULL) for name in names]
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


# ---------------------------------------------------------------------------------------------------------------------
# Markdown, annotations, chart

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
