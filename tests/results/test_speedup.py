"""Speed-ups: their intervals have their nominal coverage, and absurd times never give an absurd certainty or a crash."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmark.rounds.rules_by_round import rules_of
from results.comparing.score_of_runs import score_runs
from results.comparing.speedup import RunFigures, Side, Speedup, speedup_of
from results.comparing.verdict import comparison_text
from tests.support.mlperf_round import build_result, compared

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


@pytest.mark.parametrize(("few", "many"), [(3, 3), (3, 4), (3, 8), (3, 10), (4, 10), (5, 5), (10, 3)])
def test_few_runs_do_not_give_too_narrow_an_interval(few, many):
    draw = random.Random(few * 100 + many)
    covered, steps = 0, 0
    for _ in range(DRAWS):
        found = speedup_of(drawn_side(draw, 1.1, few), drawn_side(draw, 1.0, many))
        covered += found.time.low <= 1.1 <= found.time.high
        steps += found.throughput.low <= 1.1 <= found.throughput.high
    assert covered / DRAWS >= 0.93 and steps / DRAWS >= 0.93


@pytest.mark.parametrize(("few", "many"), [(2, 2), (2, 10), (3, 2)])
def test_two_runs_tell_the_speed_of_the_steps_only(few, many):
    draw = random.Random(few * 100 + many)
    covered = 0
    for _ in range(DRAWS):
        found = speedup_of(drawn_side(draw, 1.1, few), drawn_side(draw, 1.0, many))
        assert found.time.low is None and found.progress.low is None
        assert found.time.method == "too few runs, no interval"
        covered += found.throughput.low <= 1.1 <= found.throughput.high
    assert 0.93 <= covered / DRAWS <= 0.97
    one = speedup_of(side([3.0], rates=[10.0]), side([2.0] * 10, rates=[11.0] * 10))
    assert one.time.method == one.throughput.method == "too few runs, no interval"
    single = speedup_of(side([3.0], rates=[10.0]), side([2.0], rates=[11.0]))
    assert single.time.method == single.throughput.method == "single runs, no interval"


TEN = [10.0, 10.4, 9.9, 13.1, 13.3, 10.2, 12.9, 10.1, 13.0, 9.7]
OTHER_TEN = [8.2, 8.1, 10.9, 8.0, 11.2, 8.4, 8.3, 11.0, 7.9, 8.05]


def width_of(test):
    return test.confidence_interval(0.95).high


def test_the_intervals_are_those_of_scipys_tests():
    """On the values relative to their means: the ratio's logarithm, linearised."""

    def relative(values, dropped=0):
        kept = sorted(values)[dropped : len(values) - dropped]
        return [value / (sum(kept) / len(kept)) for value in values]

    base, row = TEN[:7], OTHER_TEN[:6]
    welch = speedup_of(side(base), side(row)).time
    half = width_of(stats.ttest_ind(relative(base), relative(row), equal_var=False))
    assert welch.value == pytest.approx((sum(base) / 7) / (sum(row) / 6))
    assert (welch.low, welch.high) == pytest.approx((welch.value * math.exp(-half), welch.value * math.exp(half)))
    yuen = speedup_of(side(TEN), side(OTHER_TEN)).time
    half = width_of(stats.ttest_ind(relative(TEN, 1), relative(OTHER_TEN, 1), equal_var=False, trim=0.1))
    # scipy has Yuen's own standard error, with (n - 1) / (h (h - 1)) for the n / h^2 of Tukey and McLaughlin.
    half *= math.sqrt((10 / 64) / (9 / (8 * 7)))
    assert yuen.value == pytest.approx(side(TEN).score.minutes / side(OTHER_TEN).score.minutes)
    assert (yuen.low, yuen.high) == pytest.approx((yuen.value * math.exp(-half), yuen.value * math.exp(half)))
    rates = speedup_of(side([1.0] * 2, rates=[5.0, 5.1]), side([1.0] * 4, rates=[6.0, 6.1, 6.3, 5.9])).throughput
    half = width_of(stats.ttest_ind(relative([5.0, 5.1]), relative([6.0, 6.1, 6.3, 5.9]), equal_var=True))
    assert rates.value == pytest.approx(6.075 / 5.05)
    assert (rates.low, rates.high) == pytest.approx((rates.value * math.exp(-half), rates.value * math.exp(half)))
    seeds = list(range(7))
    paired = speedup_of(side(TEN[:7], seeds=seeds), side(OTHER_TEN[:7], seeds=seeds)).time
    half = width_of(stats.ttest_rel(relative(TEN[:7]), relative(OTHER_TEN[:7])))
    assert (paired.low, paired.high) == pytest.approx((paired.value * math.exp(-half), paired.value * math.exp(half)))


def test_a_scaling_factor_and_the_trimmed_throughput():
    score = score_runs(RULES, OTHER_TEN, scaling=1.5)
    scaled = dataclasses.replace(side(OTHER_TEN), score=score)
    plain, found = (speedup_of(side(TEN), each).time for each in (side(OTHER_TEN), scaled))
    assert (found.value, found.low, found.high) == pytest.approx((plain.value / 1.5, plain.low / 1.5, plain.high / 1.5))
    assert found.value == pytest.approx(side(TEN).score.minutes / score.minutes)
    outlier = [100.0] * 9 + [1.0]
    found = speedup_of(side(TEN, rates=[100.0] * 10), side(TEN, rates=outlier)).throughput
    assert found.value == pytest.approx(1.0)


@pytest.mark.parametrize("counts", [(3, 3), (3, 4), (4, 4), (4, 3)])
def test_scores_of_one_or_two_runs_give_no_interval(counts, tmp_path, capsys):
    """gpt3 wants three runs and drops two of them."""
    for name, count in zip("xy", counts, strict=True):
        minutes = [50.0 + 10 * number + ord(name) % 2 for number in range(count)]
        build_result(tmp_path / "training_results_v3.0" / name.upper(), minutes, system=name, benchmark="gpt3")
    answer, _ = compared(capsys, tmp_path)
    fast, slow = answer["rows"]
    assert fast["speedup"] == pytest.approx(slow["score_minutes"] / fast["score_minutes"])
    assert fast["speedup_low"] is None and fast["speedup_method"] == "too few runs, no interval"


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
    # However a log writes the seed.
    assert speedup_of(base, side([5.0, 6.0, 7.0], seeds=["1", 2.0, 4])).pairs == 3


def test_a_value_that_is_missing_leaves_out_its_pair():
    seeds = [1, 2, 3, 4]
    base = side([10.0] * 4, rates=[100.0, 200.0, 300.0, None], seeds=seeds)
    assert speedup_of(base, side([10.0] * 4, rates=[100.0, 200.0, 300.0, 400.0], seeds=seeds)).throughput.value == 1
    # Fewer than three pairs: all that is known, without pairs.
    found = speedup_of(base, side([10.0] * 4, rates=[None, None, 300.0, 400.0], seeds=seeds)).throughput
    assert found.value == pytest.approx(350 / 200) and "pairs" not in found.method
    alone = speedup_of(side([10.0] * 4, rates=[100.0, None, None, None], seeds=seeds), base)
    assert alone.throughput.value == 2 and alone.time.value == 1 and alone.pairs == 4


def test_progress_in_another_unit_is_not_compared():
    base = dataclasses.replace(side([10.0] * 3, epochs=[3.0, 4.0, 3.0]), unit="epochs")
    assert speedup_of(base, dataclasses.replace(base, unit="samples")).progress is None
    assert speedup_of(base, base).progress.value == 1


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
    # Of few runs too: the failed one counts as 19 minutes, which is less than it would have taken.
    few = speedup_of(base, side([5.0, 6.0, None])).time
    assert few.value == pytest.approx(14.5 / 10) and few.low < 1 < few.high
    slower = speedup_of(side([5.0, 5.1, 5.0, 5.2, 5.1]), side([20.0, 21.0, None, 20.5, 19.9])).time
    assert slower.high < 0.3
    assert speedup_of(base, side([5.0, None, None])).time is None
    assert speedup_of(base, side([5.0, 6.0, None], epochs=[3.0, 3.0, None])).progress is None


def test_the_number_of_runs_that_would_tell_is_about_right():
    """With as many runs as it says, four of five draws tell a difference of that size."""
    draw = random.Random(7)
    found = speedup_of(
        side([10.0, 11.0, 12.0, 13.0] * 2, seeds=None), side([9.5, 10.5, 11.5, 12.5] * 2, seeds=None)
    ).time
    assert not found.certain and 20 < found.runs_to_tell() < 120
    # Never what there is already.
    for _ in range(200):
        few = speedup_of(drawn_side(draw, 1.1, 3), drawn_side(draw, 1.0, 3)).time
        assert few.certain or (few.runs_to_tell() or 4) > 3
    told = 0
    for _ in range(400):
        sides = [
            [draw.choice((10.0, 11.0, 12.0, 13.0)) * slower for _ in range(found.runs_to_tell())]
            for slower in (1, 11 / 11.5)
        ]
        told += speedup_of(*map(side, sides)).time.certain
    assert 0.65 < told / 400 < 0.95
