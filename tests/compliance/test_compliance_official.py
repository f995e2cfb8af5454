"""Logs of MLPerf's own benchmarks: mlperf_logging's result, with the right line numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.rounds.official_checker import rulesets, rulesets_of
from common.errors import UserError
from compliance.__main__ import main
from compliance.check import check_paths
from compliance.mlperf.official_logs import BY_PLACE, Chosen, rules_for
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
    found = [
        f
        for verdict in check_paths([path], Chosen(ruleset="1.1.0"))
        for f in verdict.findings
        if f.rule == "official-verdict"
    ]
    assert found[0].line == place + 1 and "stopped" in found[0].found


def test_the_rule_set_comes_from_the_user_the_folder_or_the_benchmark(tmp_path):
    def chosen(folder: str, benchmark: str, choice: Chosen = BY_PLACE) -> tuple[str, str | None]:
        rules = rules_for(tmp_path / folder / "x", benchmark, choice)
        return rules.usage, rules.name

    assert chosen("training_results_v2.1", "bert") == ("training", "2.1.0")
    assert chosen("training_results_v2.1", "bert", Chosen(ruleset="1.0.0")) == ("training", "1.0.0")
    assert chosen(".", "rnnt") == ("training", "3.1.0")
    assert chosen(".", "openfold") == ("hpc", "3.0.0")
    assert chosen("training_results_v1.1-main/training_v99.9", "bert") == ("training", "1.1.0"), (
        "99.9 was never a round"
    )
    assert chosen("results_2.0", "rnnt") == ("training", "2.0.0")
    assert chosen("results_2.0", "oc20") == ("hpc", "2.0.0")
    assert chosen("hpc_results_v3.0", "oc20", Chosen(usage="training", ruleset="1.1.0")) == ("training", "1.1.0")
    assert chosen("training_results_v0.5", "resnet") == ("training", None)
    assert chosen("hpc_results_v0.7", "deepcam") == ("hpc", None)


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        (["--ruleset", "9.9.9"], "5.1.0"),
        (["--ruleset", "0.5.0"], "0.6.0"),
        (["--usage", "hpc", "--ruleset", "5.1.0"], "1.0.0, 2.0.0, 3.0.0"),
    ],
)
def test_a_rule_set_that_the_suite_does_not_have_is_refused_with_the_list(options, listed, tmp_path):
    with pytest.raises(UserError, match="no rule set") as refused:
        main([str(tmp_path), *options])
    assert listed in str(refused.value)


def test_a_rule_set_of_the_other_suite_is_refused_once_the_log_is_known(tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_text(':::MLLOG {"time_ms": 1, "key": "submission_benchmark", "value": "oc20", "metadata": {}}\n')
    with pytest.raises(UserError, match=r"no rule set '5\.1\.0'"):
        main([str(path), "--ruleset", "5.1.0"])


def test_every_rule_set_that_is_offered_can_be_used(tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_text(NVIDIA_LOG.read_text())
    for usage in ("training", "hpc"):
        for name in rulesets(usage):
            (verdict,) = check_paths([path], Chosen(usage, name))
            assert "official-verdict" in verdict.rules


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
