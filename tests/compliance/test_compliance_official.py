"""Logs of MLPerf's own benchmarks: mlperf_logging's result, with the right line numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import UserError
from compliance.__main__ import main
from compliance.check import check_paths
from compliance.official import ruleset_for, rulesets, rulesets_of
from tests.conftest import DATA
from tests.support.mlperf_round import EXTRACT, ROUND, WHOLE, PublishedRound


@pytest.mark.parametrize("where", [EXTRACT, WHOLE])
def test_every_file_of_a_published_round_has_the_official_verdict(where, capsys):
    published = PublishedRound(where)
    main([*map(str, published.results()), "--json"])
    answer = json.loads(capsys.readouterr().out)
    verdicts = {checked["file"]: checked["compliant"] for checked in answer["checked"] if checked["kind"] == "log"}
    assert len(verdicts) == len(published.files)
    for row in published.files:
        path = published.folder / published.path(row)
        assert verdicts[str(path)] == (row["compliance"] == "pass"), path
    (finding,) = [finding for finding in answer["findings"] if finding["severity"] == "error"]
    assert finding["rule"] == "official-verdict" and finding["file"].endswith("XE8545x4A100-SXM-40GB/rnnt/result_9.txt")
    line = Path(finding["file"]).read_text().splitlines()[finding["line"] - 1]
    assert '"eval_accuracy"' in line


NVIDIA_LOG = DATA / ROUND / "NVIDIA/results/dgxa100_n16_ngc21.09_pytorch/rnnt/result_0.txt"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"key": "eval_samples", "value": 2703', '"key": "eval_samples", "value": 2702'),
        ('"key": "opt_name", "value": "lamb"', '"key": "opt_name", "value": "adam"'),
    ],
)
def test_findings_have_the_line_of_the_event(old, new, tmp_path):
    text = NVIDIA_LOG.read_text().replace(old, new, 1)
    path = tmp_path / "training_results_v1.1" / "result_0.txt"
    path.parent.mkdir()
    path.write_text(text)
    found = [f for verdict in check_paths([path]) for f in verdict.findings if f.severity == "error"]
    assert [text.splitlines()[f.line - 1].count(new) for f in found] == [1]


def test_a_traceback_of_the_checker_is_a_finding(tmp_path):
    lines = NVIDIA_LOG.read_text().splitlines()
    place = next(n for n, line in enumerate(lines) if '"run_start"' in line)
    lines[place] = ':::MLLOG {"key": "run_start"}'
    path = tmp_path / "result_0.txt"
    path.write_text("\n".join(lines) + "\n")
    found = [f for verdict in check_paths([path], "1.1.0") for f in verdict.findings if f.rule == "official-verdict"]
    assert found[0].line == place + 1 and "stopped" in found[0].found


def test_the_rule_set_comes_from_the_user_the_folder_or_the_benchmark(tmp_path):
    assert ruleset_for(tmp_path / "training_results_v2.1" / "x", "bert", None) == "2.1.0"
    assert ruleset_for(tmp_path / "training_results_v2.1" / "x", "bert", "1.0.0") == "1.0.0"
    assert ruleset_for(tmp_path / "x", "rnnt", None) == "3.1.0"
    assert ruleset_for(tmp_path / "training_results_v1.1-main" / "training_v99.9" / "x", "bert", None) == "1.1.0"
    assert ruleset_for(tmp_path / "hpc_results_v3.0" / "results_2.0" / "x", "rnnt", None) == "3.1.0", (
        "not a training round"
    )
    assert "5.1.0" in rulesets()
    with pytest.raises(UserError, match="no rule set"):
        main([str(tmp_path), "--ruleset", "9.9.9"])


def test_the_check_writes_no_files(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in NVIDIA_LOG.parent.iterdir())
    assert main([str(NVIDIA_LOG)]) == 0
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == [] and sorted(path.name for path in NVIDIA_LOG.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["x" * 300, "../training_5.1.0/closed_bert", "a\0b", ""])
def test_a_benchmark_name_that_is_no_file_name_has_no_rules(name):
    assert rulesets_of(name) == []
    assert rulesets_of("bert")
