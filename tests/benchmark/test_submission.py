"""Results and submission packages: compared with MLPerf's own tools, and the same for building, scoring and checking."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlperf_logging.result_summarizer.result_summarizer import _compute_olympic_average
from mlperf_logging.system_desc_checker.system_desc_checker import check_system_desc

from benchmark import submission
from benchmark.machine.system import FIELDS
from compliance.check import check_paths
from results.reading.discover import find_sources
from tests.support.logs import FakeRun, written

MINUTES = st.floats(0.001, 1e6)


@given(st.lists(MINUTES, max_size=45), st.integers(0, 5), st.sampled_from([1, 4]))
def test_the_olympic_mean_is_bit_identical_with_mlperfs(minutes, failed, dropped):
    mean = submission.olympic_mean([*minutes, *[float("inf")] * failed], dropped)
    assert mean == (_compute_olympic_average(list(minutes), failed, dropped) if failed <= dropped else None)


@pytest.mark.parametrize("ruleset", ["4.0.0", "4.1.0", "5.1.0"])
def test_a_descriptions_status_is_accepted_by_mlperfs_checker(ruleset, tmp_path):
    path = tmp_path / "box.json"
    for status, name in submission.AVAILABILITY.items():
        path.write_text(json.dumps(dict.fromkeys(FIELDS, "N/A") | {"status": name}))
        assert check_system_desc(path, "training", ruleset)[0]
        path.write_text(json.dumps(dict.fromkeys(FIELDS, "N/A") | {"status": status}))
        assert not check_system_desc(path, "training", ruleset)[0] and check_system_desc(path, "training", "3.1.0")[0]


def test_files_of_a_run_are_next_to_its_log():
    assert submission.file_of_run(Path("run/result.txt"), "record.json") == Path("run/record.json")
    assert submission.file_of_run(Path("x/result_10.txt"), "telemetry.csv") == Path("x/telemetry_10.csv")
    assert submission.file_of_run(Path("x/slurm-12.out"), "record.json") is None


def test_the_same_logs_are_scored_and_checked(tmp_path):
    """Numbered logs, in order, in every kind of submitter's folder; not those in code folders or with other names."""
    places = []
    for org, marker in (("One", "systems"), ("Two", "benchmarks"), ("Three", "SHA256SUMS")):
        results = tmp_path / org / "results" / "box" / "deepspeech2"
        code = tmp_path / org / "benchmarks" / "deepspeech2" / "implementations" / "own"
        for folder in (results, code) if marker == "benchmarks" else (results,):
            folder.mkdir(parents=True)
            for name in ("result_2.txt", "result_10.txt", "result_best.txt", "result_1.txt.bak"):
                (folder / name).write_bytes(written(FakeRun().write()))
        if marker != "benchmarks":
            path = tmp_path / org / marker
            path.mkdir() if marker == "systems" else path.touch()
        places += [results / "result_2.txt", results / "result_10.txt"]
    checked = [Path(verdict.file) for verdict in check_paths([tmp_path]) if verdict.kind == "log"]
    assert sorted(checked) == sorted(source.log for source in find_sources([tmp_path])) == sorted(places)
    for org in ("One", "Two", "Three"):
        here = [path for path in checked if org in path.parts]
        assert [path.name for path in here] == ["result_2.txt", "result_10.txt"]
