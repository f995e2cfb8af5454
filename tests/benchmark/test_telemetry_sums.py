"""Running sums compared with plain sums over all samples, and their bounded memory."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.telemetry.integrals import Integrals, Stat, Totals, figures, stat, whole
from benchmark.telemetry.readings import EVENT_REASONS, Reading

GAUGE, MEAN, COUNTER = (Reading(kind, kind) for kind in ("gauge", "mean", "counter"))
READINGS = (GAUGE, MEAN, COUNTER)
NAMES = [reading.name for reading in READINGS]


def test_gauges_are_trapezoids_means_are_rectangles_counters_are_differences():
    sums = Integrals(READINGS)
    sums.add(10, {"gauge": 0, "mean": 7, "counter": 100})
    sums.add(12, {"gauge": 4, "mean": 3, "counter": 160})
    totals, samples = sums.over(10, 12)
    assert totals["gauge"] == Totals(4.0, 2.0, 4.0)
    assert totals["mean"] == Totals(6.0, 2.0, 3.0)
    assert totals["counter"].integral == 60
    assert samples == 1


def test_edges_between_samples_are_interpolated():
    sums = Integrals([Reading("energy", "counter")])
    for second in range(11):
        sums.add(second, {"energy": 1e6 + 300 * second})
    totals, _ = sums.over(2.5, 7.25)
    assert totals["energy"].integral == pytest.approx(300 * 4.75)


def test_missing_values_count_neither_as_zero_nor_as_time():
    sums = Integrals([Reading("power", "gauge"), Reading("never", "mean")])
    for second in range(11):
        sums.add(second, {"power": 100 if second < 5 else None})
    totals, _ = sums.over(0, 10)
    assert stat(totals["power"]) == Stat(100, 100)
    assert totals["power"].known_s == 4
    assert stat(totals["never"]) is None
    assert whole(totals["power"], 10, 1) is None, "energy with a gap would look like less energy"


def test_a_counter_catches_up_after_a_gap_and_a_reset_leaves_a_gap():
    gap = Integrals([Reading("bytes", "counter")])
    for second, value in enumerate([0, 10, None, None, 40]):
        gap.add(second, {"bytes": value})
    assert gap.over(0, 4)[0]["bytes"].integral == 40
    assert whole(gap.over(0, 4)[0]["bytes"], 4, 1) == 40
    reset = Integrals([Reading("bytes", "counter")])
    for second, value in enumerate([100, 110, 3, 13]):
        reset.add(second, {"bytes": value})
    assert reset.over(0, 3)[0]["bytes"] == Totals(20, 2, None)


def test_memory_stays_bounded_and_marks_stay_exact():
    sums = Integrals(READINGS, max_blocks=64)
    values = random.Random(5)
    exact = {"gauge": 0.0, "mean": 0.0}
    energy, peak, before = 0.0, -math.inf, None
    begin, end = 2_345.25, 15_000.75
    for second in range(20_000):
        gauge, mean = values.random(), values.random()
        energy += mean
        if second == 2_346:
            sums.mark(begin)
        if second == 15_001:
            sums.mark(end)
        sums.add(second, {"gauge": gauge, "mean": mean, "counter": energy})
        share = max(0, min(second, end) - max(second - 1, begin))
        if share and before is not None:
            exact["gauge"] += share * (gauge + before) / 2
            exact["mean"] += share * mean
            peak = max(peak, mean) if second <= end else peak
        before = gauge
    totals, samples = sums.over(begin, end)
    assert totals["gauge"].integral == pytest.approx(exact["gauge"], rel=1e-9)
    assert totals["mean"].integral == pytest.approx(exact["mean"], rel=1e-9)
    assert totals["counter"].integral == pytest.approx(exact["mean"], rel=1e-6)
    assert totals["mean"].known_s == pytest.approx(end - begin)
    assert totals["mean"].peak == peak
    assert samples == pytest.approx(end - begin, abs=2)
    assert sums._blocks <= 64


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 5), st.none() | st.floats(0, 1000)), min_size=2, max_size=80), st.data())
def test_merging_changes_no_total(steps, data):
    fine, coarse = Integrals(READINGS), Integrals(READINGS, max_blocks=8)
    time_s = 0.0
    for step_s, value in steps:
        time_s += step_s
        for sums in (fine, coarse):
            sums.add(time_s, dict.fromkeys(NAMES, value))
    whole_run = [sums.over(0, time_s)[0] for sums in (fine, coarse)]
    for name in NAMES:
        assert whole_run[1][name].integral == pytest.approx(whole_run[0][name].integral)
        assert whole_run[1][name].known_s == pytest.approx(whole_run[0][name].known_s)
        assert whole_run[1][name].peak == whole_run[0][name].peak


def test_an_empty_region_has_no_figures():
    sums = Integrals(READINGS)
    assert stat(sums.over(0, 10)[0]["gauge"]) is None
    sums.add(0, {"gauge": 1})
    sums.add(1, {"gauge": 1})
    totals, samples = sums.over(5, 9)
    assert (stat(totals["gauge"]), samples) == (None, 0)


def test_flags_of_one_name_in_two_readings_are_separate():
    one = Reading("one", "flags", flags={0x1: "hot", 0x4: "slow"})
    two = Reading("two", "flags", flags={0x1: "slow", 0x2: "hot"})
    sums = Integrals([one, two])
    sums.add(0, {"one": 0x5, "two": 0})
    sums.add(1, {"one": 0x4, "two": 0x2})
    sums.add(4, {"one": 0x8, "two": None})
    totals, _ = sums.over(0, 4)
    assert figures([one, two], totals, 4, 1) == {"one": {"slow": 0.25}, "two": {"hot": 1}}
    assert figures([one, two], sums.over(5, 6)[0], 1, 1) == {"one": None, "two": None}


def test_event_reasons_are_named():
    reading = Reading("event_reasons", "flags", flags=EVENT_REASONS)
    assert reading.flag_names(0x4 | 0x40) == ["sw_power_cap", "hw_thermal_slowdown"]
    assert reading.flag_names(0) == []
    assert reading.flag_names(None) is None
