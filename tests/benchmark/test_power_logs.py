"""Energy from MLPerf's power logs: equal to what mlperf_logging computes, in joules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlperf_logging.result_summarizer.result_summarizer import _compute_total_power

from benchmark.rounds.power_logs import energy_joules
from common.errors import UserError
from results import compare
from tests.support.mlperf_round import build_result

START, STOP, READING = "power_measurement_start", "power_measurement_stop", "power_reading"


def write(path: Path, events: list[tuple[float, str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"time_ms": ms, "key": key, "value": value, "metadata": {}} for ms, key, value in events]
    path.write_text("".join(f":::MLLOG {json.dumps(line)}\n" for line in lines))


def both(result: Path, run_ms: float) -> tuple[float, float]:
    log = result / "result_0.txt"
    return energy_joules(result / "power", log, run_ms), _compute_total_power(str(result), str(log), run_ms, "4.0.0")


watts = st.floats(0, 20_000)
nodes = st.fixed_dictionaries(
    {
        "readings": st.lists(st.tuples(st.integers(1, 9_000), watts), min_size=1, max_size=8),
        "efficiency": st.none() | st.floats(0.5, 1),
        "stop": st.none() | st.integers(1, 9_500),
    }
)


@settings(max_examples=40)
@given(st.lists(nodes, min_size=1, max_size=3), st.lists(st.tuples(st.none() | st.floats(0.5, 1), watts), max_size=2))
def test_nodes_and_switches_give_mlperfs_energy(tmp_path_factory, nodes, switches):
    result = tmp_path_factory.mktemp("result")
    for number, node in enumerate(nodes):
        events = [(0, START, None)]
        events += [(0, "conversion_eff", node["efficiency"])] if node["efficiency"] else []
        events += [(ms, READING, value) for ms, value in node["readings"]]
        events += [(node["stop"], STOP, None)] if node["stop"] else []
        write(result / "power" / "result_0" / f"node_{number}.txt", events)
    for number, (efficiency, estimate) in enumerate(switches):
        events = [(0, "conversion_eff", efficiency)] if efficiency else []
        write(result / "power" / "result_0" / f"sw_{number}.txt", [*events, (0, "interconnect_power_est", estimate)])
    ours, theirs = both(result, 720_000)
    assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([(0, READING, 5000)], "no power_measurement_start"),
        ([(5, START, None)], "the power measurement has no duration"),
        ([(5, START, None), (5, STOP, None)], "the power measurement has no duration"),
        ([(0, START, None), (9, READING, "5 kW"), (10, STOP, None)], "power_reading is not a number"),
        (None, "no power logs"),
    ],
)
def test_power_logs_that_do_not_say_are_an_error(tmp_path, events, why):
    if events is not None:
        write(tmp_path / "power" / "result_0" / "node_0.txt", events)
    with pytest.raises(UserError, match=why):
        energy_joules(tmp_path / "power", tmp_path / "result_0.txt", 1000)


def with_power(repository: Path, minutes, kilowatts, **changes) -> Path:
    """A result whose runs draw so many kilowatts each on one node."""
    result = build_result(repository / "Org", minutes, **changes)
    for number, power in enumerate(kilowatts):
        events = [(0, START, None), (60_000, READING, 1000 * power), (60_000, STOP, None)]
        write(result / "power" / f"result_{number}" / "node_0.txt", events)
    return result


def row_of(capsys, path):
    assert compare.main([str(path), "--format", "json"]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)["rows"]
    return row, captured.err


def test_a_results_energy_is_that_of_the_runs_that_count(tmp_path, capsys):
    """5 kW for 12 minutes are 1 kWh; the fastest and the slowest run do not count, as in the score."""
    with_power(tmp_path / "training_results_v4.0", [11, 12, 12, 12, 13], [60, 5, 5, 5, 70])
    row, err = row_of(capsys, tmp_path)
    assert row["energy_kwh"] == pytest.approx(1.0, rel=1e-12) and row["power_w"] == pytest.approx(29_000)
    assert err == "", "power/ is read"


def test_a_failed_run_counts_as_the_slowest_in_the_energy_too(tmp_path, capsys):
    with_power(tmp_path / "training_results_v4.0", [11, 12, None, 12, 12], [60, 5, 99, 5, 5])
    assert row_of(capsys, tmp_path)[0]["energy_kwh"] == pytest.approx(1.0, rel=1e-12)


def test_the_scaling_factor_applies_to_the_energy(tmp_path, capsys):
    result = with_power(tmp_path / "training_results_v4.0", [12] * 5, [5] * 5)
    (result / "scaling.json").write_text('{"scaling_factor": 1.5}')
    assert row_of(capsys, tmp_path)[0]["energy_kwh"] == pytest.approx(1.5, rel=1e-12)


def test_a_missing_power_log_leaves_the_energy_unknown_and_says_so(tmp_path, capsys):
    result = with_power(tmp_path / "training_results_v4.0", [12] * 5, [5] * 5)
    (result / "power" / "result_3" / "node_0.txt").unlink()
    row, _ = row_of(capsys, tmp_path)
    assert row["energy_kwh"] is None and row["score_minutes"] == 12.0
    assert row["notes"] == ["energy not known: no power logs node_*.txt (1 of 5 runs)"]
