"""The decision of `python -m results gate`, on simulated runs of known speed."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.rounds.rules_by_round import rules_of
from common.errors import UserError
from results import gate
from results.comparing.score_of_runs import Score, score_runs
from results.comparing.speedup import RunFigures, Side
from results.gating import wording
from results.gating.decision import THROUGHPUT, TIME, Outcome, decide

DRAWS = 2000


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
