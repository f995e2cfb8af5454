"""Packages of MLPerf benchmarks: the outcome of MLPerf's package_checker, and warnings about what was not checked."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlperf_logging.package_checker import package_checker

from benchmark.machine.system import FIELDS
from compliance.check import check_paths
from compliance.findings import ERROR, Finding
from compliance.mlperf.official_logs import BY_PLACE, Chosen
from tests.compliance.mlperf_logs import mlperf_lines, v05_lines, v06_lines, write_log, write_package

RUNS = [mlperf_lines(seed) for seed in range(5)]
DEEPCAM = [mlperf_lines(seed, "deepcam", epochs=8 + seed) for seed in range(1, 6)]
FAILED = mlperf_lines(9, status="aborted", accuracy=0.5)


@pytest.fixture
def org(tmp_path):
    return tmp_path / "training_results_v4.0" / "OrgA"


@pytest.fixture
def hpc(tmp_path):
    return tmp_path / "hpc_results_v3.0" / "OrgA"


def findings_in(path: Path, chosen: Chosen = BY_PLACE) -> list[Finding]:
    return [finding for verdict in check_paths([path], chosen) for finding in verdict.findings]


def errors_in(path: Path) -> list[str]:
    return [finding.rule for finding in findings_in(path) if finding.severity == ERROR]


def official(org: Path, usage: str = "training", ruleset: str = "4.0.0") -> bool:
    """Whether package_checker finds no errors; it writes scaling.json, which is removed."""
    logging.disable(logging.CRITICAL)
    try:
        systems = package_checker.check_systems(str(org), usage, ruleset)
        return (
            package_checker.check_training_result_files(str(org), usage, ruleset, False, False, False, False, False)
            and systems
        )
    finally:
        logging.disable(logging.NOTSET)
        for path in org.rglob("scaling.json"):
            path.unlink()


def too_fast() -> list[list[str]]:
    return [mlperf_lines(seed, epochs=5) for seed in range(5)]


def with_broken_line() -> list[list[str]]:
    broken = [*RUNS[0][:6], RUNS[0][6][:40], *RUNS[0][7:]]
    return [broken, *RUNS[1:]]


@pytest.mark.parametrize(
    ("logs", "rules"),
    [
        pytest.param(RUNS, set(), id="five runs"),
        pytest.param([*RUNS[:4], FAILED], set(), id="one failed run"),
        pytest.param([*RUNS[:3], FAILED, mlperf_lines(8, status="aborted", accuracy=0.5)],
                     {"official-verdict", "official-failed-runs", "official-convergence"}, id="two failed runs"),
        pytest.param(RUNS[:4], {"official-runs"}, id="four runs"),
        pytest.param([*RUNS, mlperf_lines(5)], {"official-runs"}, id="six runs"),
        pytest.param([mlperf_lines(1)] * 5, {"official-seeds"}, id="one seed"),
        pytest.param([mlperf_lines("x"), *RUNS[1:]], {"official-seeds"}, id="a seed that is not a number"),
        pytest.param([[line for line in RUNS[0] if '"seed"' not in line], *RUNS[1:]], {"official-seeds"}, id="no seed"),
        pytest.param(too_fast(), {"official-convergence"}, id="too fast"),
        pytest.param([mlperf_lines(s, epochs=34.4) for s in range(5)], set(), id="fast within the limit"),
        pytest.param([mlperf_lines(s, epochs=90, global_batch_size=70000) for s in range(5)],
                     {"official-convergence"}, id="no reference point of a batch that large"),
        pytest.param([mlperf_lines(s, epochs=30, global_batch_size=1000) for s in range(5)],
                     {"official-convergence"}, id="a small batch, too fast for the smallest reference"),
        pytest.param([mlperf_lines(s, epochs=60, global_batch_size=1000) for s in range(5)], set(),
                     id="a small batch, slower than the smallest reference"),
        pytest.param([mlperf_lines(s, epochs=44, global_batch_size=5000) for s in range(5)], set(), id="interpolated"),
    ],
)  # fmt: skip
def test_a_closed_package_has_the_outcome_of_package_checker(org, logs, rules):
    write_package(org, logs)
    assert set(errors_in(org)) == rules
    assert official(org) == (not rules)


@pytest.mark.parametrize(
    "logs", [[mlperf_lines(1, division="open")] * 5, [mlperf_lines(s, division="open", epochs=5) for s in range(5)]]
)
def test_an_open_package_may_repeat_seeds_and_converge_faster(org, logs):
    write_package(org, logs, description={"division": "open"})
    assert errors_in(org) == [] and official(org)


def test_a_broken_line_fails_its_run_and_is_reported_where_package_checker_stops(org):
    write_package(org, with_broken_line())
    found = findings_in(org)
    assert {(f.rule, Path(f.file).name) for f in found if f.severity == ERROR} == {("official-seeds", "result_0.txt")}
    assert any(f.rule == "official-failed-runs" and f.severity != ERROR and "result_0" in f.found for f in found)


def test_batch_sizes_that_differ_are_an_error_where_package_checker_crashes(org):
    write_package(org, [mlperf_lines(0, global_batch_size=4096), *RUNS[1:]])
    assert errors_in(org) == ["official-convergence"]
    with pytest.raises(KeyError):
        official(org)


def test_four_failed_runs_of_unet3d_are_forgiven_and_five_are_not(org):
    folder = write_package(org, [FAILED] * 4, "unet3d", description={"division": "open"})
    assert {f.severity for f in findings_in(folder.parents[2]) if f.rule == "official-failed-runs"} == {"warning"}
    write_log(folder / "result_4.txt", FAILED)
    assert {f.severity for f in findings_in(folder.parents[2]) if f.rule == "official-failed-runs"} == {"error"}


def test_the_names_of_logs_are_those_of_package_checker(org):
    folder = write_package(org, [])
    for number, lines in enumerate(RUNS):
        write_log(folder / f"result_run{number}.txt", lines)
    assert errors_in(org) == [] and official(org)
    write_log(folder / "slurm-1.out", RUNS[0])
    found = [f.found for f in findings_in(org)]
    assert found == ["not read: slurm-1.out"] and official(org)


@pytest.mark.parametrize(("name", "rules"), [("rcp-bypass", set()), ("rcp-bypass\n", {"official-convergence"})])
@pytest.mark.parametrize("place", ["", "resnet"])
def test_a_bypass_of_convergence_turns_the_error_into_a_warning(org, name, rules, place):
    folder = write_package(org, too_fast())
    (folder.parent / place / "package_checker_params").write_text(name)
    found = findings_in(org)
    assert {f.rule for f in found if f.severity == ERROR} == rules and official(org) == (not rules)
    if not rules:
        assert any("not checked: convergence as an error" in f.found for f in found)


def test_a_bypass_of_seeds_is_reported(org):
    folder = write_package(org, [mlperf_lines(1)] * 5)
    (folder / "package_checker_params").write_text("seed-checker-bypass")
    (finding,) = findings_in(org)
    assert "not checked: seeds" in finding.found and official(org)


@pytest.mark.parametrize(
    ("round_name", "benchmark", "reported"),
    [
        ("training_results_v4.1", "resnet", "resnet is not in training 4.1.0"),
        ("training_results_v1.0", "minigo", "no reference convergence points of minigo"),
        ("training_results_v0.5", "resnet", "no rule set for MLPerf Training 0.5"),
        ("training_results_v0.7", "resnet", "seeds, convergence and descriptions"),
        ("hpc_results_v0.7", "deepcam", "no rule set for MLPerf HPC 0.7"),
        ("packages", "resnet", "no folder's name has it; training 4.0.0 was used"),
    ],
)
def test_what_was_not_checked_is_reported(tmp_path, round_name, benchmark, reported):
    logs = [mlperf_lines(seed, benchmark if benchmark == "deepcam" else "resnet") for seed in range(5)]
    write_package(tmp_path / round_name / "OrgA", logs, benchmark)
    found = [finding.found for finding in findings_in(tmp_path / round_name / "OrgA")]
    assert [reported in text and "not checked" in text for text in found].count(True) == 1


def test_no_reference_points_of_a_benchmark_are_reported(tmp_path):
    org = tmp_path / "training_results_v1.0" / "OrgA"
    write_package(org, RUNS, "dlrm")
    assert any("no reference convergence points of dlrm" in finding.found for finding in findings_in(org))


def test_a_division_that_is_neither_closed_nor_open_is_reported(org):
    write_package(org, [mlperf_lines(1)] * 5, description={"division": "Closed"})
    (finding,) = findings_in(org)
    assert "not checked: seeds and convergence" in finding.found and official(org)


def test_a_part_of_a_package_reports_what_only_whole_packages_are_checked_for(org):
    folder = write_package(org, [mlperf_lines(1)] * 4)
    for part in (folder, folder.parent, org / "results"):
        (finding,) = findings_in(part)
        assert finding.rule == "folder-logs" and "number of runs, seeds" in finding.found and str(org) in finding.remedy


class TestHpc:
    def test_a_package_of_strong_scaling(self, hpc):
        write_package(hpc, DEEPCAM, "deepcam", kind="strong")
        assert findings_in(hpc) == [] and official(hpc, "hpc", "3.0.0")

    @pytest.mark.parametrize(("runs", "rules"), [(9, []), (4, ["official-runs"])])
    def test_weak_scaling_has_at_least_the_number_of_runs(self, hpc, runs, rules):
        logs = [mlperf_lines(seed + 1, "deepcam", epochs=12) for seed in range(runs)]
        folder = write_package(hpc, logs, "deepcam", kind="weak")
        write_log(folder / "pruned_results" / "result_0.txt", ["not a log"])
        found = findings_in(hpc)
        assert [f.rule for f in found if f.severity == ERROR] == rules
        assert "not read: pruned_results/ (1 files)" in [f.found for f in found]
        assert official(hpc, "hpc", "3.0.0") == (not rules)

    def test_a_log_alone_is_checked_as_one_of_hpc(self, tmp_path):
        path = write_log(tmp_path / "result_0.txt", DEEPCAM[0])
        assert findings_in(path) == []
        (finding,) = findings_in(path, Chosen("training", "3.0.0"))
        assert "no rules called" in finding.found

    def test_the_suite_can_be_chosen(self, tmp_path):
        write_package(tmp_path / "OrgA", DEEPCAM, "deepcam", kind="strong")
        assert errors_in(tmp_path / "OrgA") == []
        assert findings_in(tmp_path / "OrgA", Chosen("hpc", "3.0.0")) == [
            f for f in findings_in(tmp_path / "OrgA") if "the round" not in f.found
        ]


POWER = ("node_0.txt", "node_1.txt", "sw_0.txt")


@pytest.mark.parametrize(
    ("files", "errors"),
    [
        (POWER, []),
        (POWER[:2], []),  # one run with another number of switches is forgiven
        (("node_a.txt",), ["official-power"]),
    ],
)
def test_power_logs_are_checked_as_package_checker_does(org, files, errors):
    folder = write_package(org, RUNS)
    for number in range(5):
        for name in files if number == 2 else POWER:
            write_log(folder / "power" / f"result_{number}" / name, ["{}"])
    assert errors_in(org) == errors
    if not errors:
        assert official(org)


def test_power_logs_of_two_runs_are_missing(org):
    folder = write_package(org, RUNS)
    for number in range(3):
        write_log(folder / "power" / f"result_{number}" / "node_0.txt", ["{}"])
    assert errors_in(org) == ["official-failed-runs"] and not official(org)


ANY_TYPE = (
    st.text(max_size=4)
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.lists(st.text(max_size=2), max_size=2)
)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(FIELDS)), ANY_TYPE | st.just("Preview"), max_size=3),
    st.sets(st.sampled_from(sorted(FIELDS)), max_size=1),
    st.sampled_from(["1.0", "3.1", "4.0", "5.1"]),
)
def test_a_description_of_any_types_has_the_outcome_of_system_desc_checker(tmp_path_factory, changes, gone, version):
    org = tmp_path_factory.mktemp("described") / f"training_results_v{version}" / "OrgA"
    write_package(org, [], description=changes)
    path = org / "systems" / "box.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in tree.items() if name not in gone}))
    accepted = False
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(TypeError):  # how it stops on values that are not text
        accepted = package_checker.check_systems(str(org), "training", f"{version}.0")
    logging.disable(logging.NOTSET)
    assert ("package-system" not in errors_in(org)) == accepted


@pytest.mark.parametrize("value", [1, 1.0, True, None])
def test_numbers_in_a_description_are_accepted(org, value):
    write_package(org, RUNS, description={"number_of_nodes": value, "host_processors_per_node": value})
    assert findings_in(org) == [] and official(org)


def test_a_description_that_no_result_needs_is_checked_too(org):
    write_package(org, RUNS)
    (org / "systems" / "other.json").write_text("{}")
    assert set(errors_in(org)) == {"package-system"} and not official(org)


def test_a_description_of_round_07_needs_only_its_division(tmp_path):
    org = tmp_path / "training_results_v0.7" / "OrgA"
    write_package(org, RUNS)
    path = org / "systems" / "box.json"
    path.write_text('{"division": "open"}')
    assert "package-system" not in errors_in(org)
    path.write_text("{}")
    assert "package-system" in errors_in(org)
    with pytest.raises(KeyError, match="division"):
        official(org, ruleset="0.7.0")


def test_a_package_of_round_06_is_read_and_of_05_has_no_rules(tmp_path):
    old = tmp_path / "training_results_v0.6" / "OrgA"
    write_package(old, [v06_lines()] * 5)
    assert errors_in(old) == []
    write_log(old / "results" / "box" / "resnet" / "result_0.txt", v06_lines(finished=False))
    write_log(old / "results" / "box" / "resnet" / "result_1.txt", v06_lines(finished=False))
    assert errors_in(old) == ["official-verdict", "official-verdict", "official-failed-runs"]
    older = tmp_path / "training_results_v0.5" / "OrgA"
    write_package(older, [v05_lines()] * 5)
    (finding,) = findings_in(older)
    assert finding.severity == "warning" and "MLPerf Training 0.5" in finding.found


ODD_VALUES = ["NaN", "Infinity", "1e400", "[" * 40 + "]" * 40, '"\\ud800"']


@pytest.mark.parametrize("value", ODD_VALUES)
def test_values_that_mlperfs_parser_reads_do_not_hide_a_seed(org, value):
    """Python's mllog prints NaN: such a log is accepted, and an equal seed in it is found."""
    odd = f':::MLLOG {{"time_ms": 5, "key": "loss", "value": {value}, "metadata": {{}}}}'
    write_package(org, [[*run, odd] for run in RUNS])
    assert errors_in(org) == [] and official(org)


@pytest.mark.parametrize("value", ODD_VALUES)
def test_equal_seeds_beside_such_values_are_an_error(org, value):
    odd = f':::MLLOG {{"time_ms": 5, "key": "loss", "value": {value}, "metadata": {{}}}}'
    write_package(org, [[*mlperf_lines(1), odd]] * 5)
    assert set(errors_in(org)) == {"official-seeds"} and not official(org)


@pytest.mark.parametrize("value", ["NaN", '"\\ud83d"'])
def test_a_description_that_only_python_reads_has_its_division(org, value):
    write_package(org, [mlperf_lines(1)] * 5)
    (path,) = (org / "systems").iterdir()
    path.write_text(path.read_text().replace("{", f'{{"x": {value}, ', 1))
    assert "official-seeds" in errors_in(org) and not official(org)


def test_a_seed_logged_many_times_is_one_finding(org):
    again = next(line for line in RUNS[1] if '"key": "seed"' in line)
    write_package(org, [RUNS[0], [*RUNS[1], *[again] * 300], *RUNS[2:]])
    (finding,) = [f for f in findings_in(org) if f.rule == "official-seeds" and f.severity == ERROR]
    assert "(300 times)" in finding.found and "this run before" in finding.expected
