"""Speed-ups: their intervals have their nominal coverage, and absurd times never give an absurd certainty or a crash."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.rounds.rules_by_round import rules_of
from common.errors import UserError
from results import compare
from results.comparing.score_of_runs import score_runs
from results.comparing.speedup import Ratio, RunFigures, Side, Speedup, speedup_of
from results.comparing.verdict import comparison_text
from tests.results.test_results_compare import as_json
from tests.support.logs import FakeRun
from tests.support.run_folders import FakeMachine, write_run, write_series

RULES = rules_of("deepspeech2")
DRAWS = 2000


def side(minutes, *, epochs=None, rates=None, seeds=None, pairable=True):
    """A side whose runs have these minutes (None: failed)."""
    count = len(minutes)
    score = score_runs(RULES, minutes)
    columns = (minutes, epochs or [None] * count, rates or [None] * count, seeds or [None] * count)
    runs = [RunFigures(*values) for values in zip(*columns, strict=True)]
    return Side(score, runs, RULES.dropped if score.kind == "olympic" else 0, pairable)


def drawn_side(draw, slower, runs, seeds=None, epochs_of=None):
    """Runs of 3 or 4 epochs by chance, 10 minutes an epoch times `slower`, with 1 % noise."""
    epochs = [epochs_of[seed] for seed in seeds] if seeds else [draw.choice((3, 4)) for _ in range(runs)]
    rates = [100 / slower * draw.gauss(1, 0.01) for _ in epochs]
    minutes = [count * 1000 / rate for count, rate in zip(epochs, rates, strict=True)]
    return side(minutes, epochs=[float(count) for count in epochs], rates=rates, seeds=seeds)


@pytest.mark.parametrize("truth", [1.00, 1.02, 1.05, 1.20])
def test_the_interval_covers_the_truth_in_about_95_percent_of_the_draws(truth):
    draw = random.Random(round(truth * 100))
    covered, steps = 0, 0
    for _ in range(DRAWS):
        found = speedup_of(drawn_side(draw, truth, 10), drawn_side(draw, 1.0, 10))
        covered += found.time.low <= truth <= found.time.high
        steps += found.throughput.low <= truth <= found.throughput.high
    assert 0.93 <= covered / DRAWS <= 0.97
    assert 0.93 <= steps / DRAWS <= 0.97


@pytest.mark.parametrize(("few", "many"), [(3, 3), (1, 10), (1, 5), (2, 4), (5, 5)])
def test_few_runs_do_not_give_too_narrow_an_interval(few, many):
    draw = random.Random(few * 100 + many)
    covered = 0
    for _ in range(DRAWS):
        found = speedup_of(drawn_side(draw, 1.1, few), drawn_side(draw, 1.0, many))
        covered += found.time.low <= 1.1 <= found.time.high
    assert covered / DRAWS >= 0.93


@pytest.mark.parametrize("truth", [1.00, 1.02, 1.20])
@pytest.mark.parametrize("runs", [3, 10])
def test_runs_of_the_same_seeds_are_compared_in_pairs(truth, runs):
    draw = random.Random(runs)
    covered, certain, widest = 0, 0, 0.0
    for _ in range(DRAWS):
        seeds = draw.sample(range(10**6), runs)
        epochs_of = {seed: draw.choice((3, 4)) for seed in seeds}
        sides = [drawn_side(draw, slower, runs, draw.sample(seeds, runs), epochs_of) for slower in (truth, 1.0)]
        found = speedup_of(*sides)
        assert found.pairs == runs
        covered += found.time.low <= truth <= found.time.high
        certain += found.time.certain
        widest = max(widest, found.time.high / found.time.low)
    assert 0.93 <= covered / DRAWS <= 0.97
    # The luck with the epochs is the same on both sides: 2 % are seen that ten unpaired runs do not show.
    if truth == 1.02 and runs == 10:
        assert certain / DRAWS > 0.9
    assert widest < (1.5 if runs == 3 else 1.1)


def test_exactly_proportional_runs_of_the_same_seeds_leave_no_doubt():
    minutes = [0.86, 0.87, 0.66, 0.65, 0.86, 0.64, 0.88, 0.85, 0.66, 0.87]
    epochs = [4.0 if each > 0.7 else 3.0 for each in minutes]
    scaled = [each * 0.83 for each in minutes]
    rates, faster = [100.0] * 10, [100 / 0.83] * 10
    seeds = list(range(10))
    found = speedup_of(
        side(minutes, epochs=epochs, rates=rates, seeds=seeds),
        side(scaled[::-1], epochs=epochs[::-1], rates=faster, seeds=seeds[::-1]),
    )
    assert found.pairs == 10
    for ratio in (found.time, found.throughput):
        assert (ratio.low, ratio.value, ratio.high) == pytest.approx((1 / 0.83,) * 3)
    assert (found.progress.low, found.progress.value, found.progress.high) == (1, 1, 1)
    # Without common seeds, the luck with the epochs is part of the uncertainty; the throughput is free of it.
    found = speedup_of(
        side(minutes, epochs=epochs, rates=rates, seeds=seeds),
        side(scaled, epochs=epochs, rates=faster, seeds=[seed + 100 for seed in seeds]),
    )
    assert found.pairs == 0 and found.time.low < 1.1 and found.time.high > 1.3
    assert found.throughput.low == pytest.approx(1 / 0.83)


def test_a_few_runs_of_the_baselines_seeds_are_paired_with_those():
    base = side([10.0, 14.0, 10.1, 14.2, 9.9], seeds=[1, 2, 3, 4, 5])
    found = speedup_of(base, side([5.02, 7.0, 7.05], seeds=[1, 2, 4]))
    assert found.pairs == 3 and found.time.value == pytest.approx((10 + 14 + 14.2) / (5.02 + 7 + 7.05))
    # A failed run, a repeated seed, an unknown one or one that the other side has not: no pairs.
    for minutes, seeds in (
        ([5.0, None, 7.0], [1, 2, 4]),
        ([5.0, 6.0, 7.0], [1, 2, 2]),
        ([5.0, 6.0, 7.0], [1, 2, None]),
        ([5.0, 6.0, 7.0], [1, 2, 99]),
    ):
        assert speedup_of(base, side(minutes, seeds=seeds)).pairs == 0
    assert speedup_of(base, side([5.0, 6.0, 7.0], seeds=[1, 2, 4], pairable=False)).pairs == 0


positive = st.floats(min_value=5e-324, max_value=1.7e308)
same = st.tuples(positive, st.integers(1, 12)).map(lambda drawn: [drawn[0]] * drawn[1])
some = st.lists(positive, min_size=1, max_size=12)


@given(some | same, some | same)
def test_equal_tiny_and_enormous_values_give_ordered_finite_bounds_or_none(base, row):
    for found in (
        speedup_of(side(base), side(row)).time,
        speedup_of(side([1.0] * len(base), rates=base), side([1.0] * len(row), rates=row)).throughput,
    ):
        if found is None:
            continue
        assert (found.low is None) == (found.high is None)
        if found.low is not None:
            assert 0 <= found.low <= found.value * (1 + 1e-9) and found.value <= found.high * (1 + 1e-9)
            assert not math.isnan(found.high) and found.value > 0
            if found.certain:
                assert (found.value > 1) == (found.low > 1)
        comparison_text("a", "b", Speedup(found, found, found))


@given(st.lists(st.floats(0.1, 1e6), min_size=3, max_size=12), st.floats(1e-3, 1e3))
def test_a_ratio_depends_neither_on_the_unit_nor_on_which_side_is_the_baseline(minutes, unit):
    other = [each * 1.5 + 0.1 for each in reversed(minutes)]
    forth = speedup_of(side(minutes), side(other)).time
    back = speedup_of(side(other), side(minutes)).time
    scaled = speedup_of(side([each * unit for each in minutes]), side([each * unit for each in other])).time
    assert forth.value == pytest.approx(1 / back.value) == pytest.approx(scaled.value)
    if forth.low is not None:
        assert (forth.low, forth.high) == pytest.approx((1 / back.high, 1 / back.low), rel=1e-6)
        assert (forth.low, forth.high) == pytest.approx((scaled.low, scaled.high), rel=1e-6)


def test_a_failed_run_counts_as_the_slowest_and_too_many_leave_no_ratio():
    base = side([10.0, 11, 12, 13, 14, 15, 16, 17, 18, 19])
    once = speedup_of(base, side([5.0, 6, 7, 8, 9, 10, 11, 12, 13, None])).time
    assert once.low < once.value < once.high
    assert speedup_of(base, side([5.0, 6, 7, 8, 9, 10, 11, 12, None, None])).time is None
    few = speedup_of(base, side([5.0, 6.0, None])).time
    assert few.low is None and "runs failed" in few.method


def test_the_number_of_runs_that_would_tell_is_about_right():
    """With as many runs as it says, four of five draws tell a difference of that size."""
    draw = random.Random(7)
    found = speedup_of(
        side([10.0, 11.0, 12.0, 13.0] * 2, seeds=None), side([9.5, 10.5, 11.5, 12.5] * 2, seeds=None)
    ).time
    assert not found.certain and 20 < found.runs_to_tell() < 120
    told = 0
    for _ in range(400):
        sides = [
            [draw.choice((10.0, 11.0, 12.0, 13.0)) * slower for _ in range(found.runs_to_tell())]
            for slower in (1, 11 / 11.5)
        ]
        told += speedup_of(*map(side, sides)).time.certain
    assert 0.65 < told / 400 < 0.95


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
        "much, about 38 runs of each would tell; b's training steps are 1.21 x as fast (1.20-1.22)."
    )
    assert "may be chance (single runs" in text_of(Ratio(1.2, None, None, "single runs: no uncertainty known"))
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


def test_equal_runs_cannot_be_told_apart(tmp_path, capsys):
    for name in "ab":
        write_series(tmp_path / name, 10, FakeMachine("box"), seed_offset=ord(name))
    compare.main([f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}"])
    out = " ".join(capsys.readouterr().out.split())
    assert "cannot be told apart by their time: 1.00 x as fast" in out and "runs of each would tell" not in out
