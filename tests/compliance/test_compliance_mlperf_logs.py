"""Single logs and plain folders of MLPerf's benchmarks: the verdict of its checker on every form of a log, in linear time."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlperf_logging.compliance_checker import mlp_compliance

from benchmark.rounds.official_checker import check_log
from compliance.check import check_paths
from compliance.findings import ERROR, Finding
from compliance.mlperf.official_logs import BY_PLACE, Chosen
from tests.compliance.mlperf_logs import mlperf_lines, v05_lines, v06_lines, write_log
from tests.support.log_mutations import VALID_LOG

LOG = mlperf_lines(1)
ROUND = "training_results_v4.0"


def findings_in(path: Path, chosen: Chosen = BY_PLACE) -> list[Finding]:
    return [finding for verdict in check_paths([path], chosen) for finding in verdict.findings]


def official(path: Path, ruleset: str = "4.0.0") -> tuple[bool, dict[str, str], dict[str, str], list[str]] | None:
    """The verdict and messages of mlperf_logging's own command; None if it stops with a traceback."""
    checker = mlp_compliance.make_checker("training", ruleset, False, False)
    mlp_compliance.enqueued_configs.clear()
    logging.disable(logging.CRITICAL)
    try:
        valid = mlp_compliance.main(str(path), f"training_{ruleset}/common.yaml", checker)[0]
    except Exception:
        return None
    finally:
        logging.disable(logging.NOTSET)
    state = "\ncurrent context"
    errors, warnings = (
        {key: text.split(state)[0] for key, text in kind.items()} for kind in (checker.overwritable, checker.warnings)
    )
    return valid, errors, warnings, [text.split(state)[0] for text in checker.not_overwritable]


LINES = st.one_of(
    st.sampled_from([*LOG, "", "text", ":::MLLOG ", ":::MLLOG {}", ":::MLLOG []", ':::MLLOG {"key": 1}', "x" * 3000]),
    st.builds("rank 0: {}".format, st.sampled_from(LOG)),
    st.builds("{0} {1}".format, st.sampled_from(LOG), st.sampled_from(LOG)),
    st.builds(lambda line, at: line[:at], st.sampled_from(LOG), st.integers(0, 200)),
    st.builds(lambda line: line.replace('"time_ms": 17', '"time_ms": "17'), st.sampled_from(LOG)),
    st.builds(
        lambda line, value: line.replace("null", value), st.sampled_from(LOG), st.sampled_from(["NaN", "[]", "1e999"])
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, len(LOG)), LINES), max_size=4),
    gone=st.sets(st.integers(0, len(LOG) - 1), max_size=2),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_the_verdict_and_the_messages_are_those_of_the_official_command(tmp_path_factory, edits, gone, end):
    lines = [line for place, line in enumerate(LOG) if place not in gone]
    for place, line in edits:
        lines.insert(place, line)
    path = write_log(tmp_path_factory.mktemp("log") / "result_0.txt", lines, end)
    expected = official(path)
    untouched = dict(vars(mlp_compliance))
    verdict = check_log(path, "training", "4.0.0")
    assert vars(mlp_compliance) == untouched
    if expected is None:
        assert not verdict.valid and (verdict.stopped or verdict.missing_rules or verdict.errors)
        return
    state = "\ncurrent context"
    errors, warnings = (
        {m.key: m.text.split(state)[0] for m in kind if m.key} for kind in (verdict.errors, verdict.warnings)
    )
    others = [m.text.split(state)[0] for m in verdict.errors if m.key is None]
    assert (verdict.valid, errors, warnings, others) == expected


@pytest.mark.parametrize(
    "line",
    [
        "x" * 2_000_000,
        "x" * 200_000,
        ":::MLLOG " * 200_000,
        ":::MLLOG" * 200_000,
        ':::MLLOG {"time_ms": 1, "key": "a", "metadata": {}, "value": ' + "[" * 900_000,
        ':::MLLOG {"time_ms": 1, "key": "a", "metadata": {}, "value": "' + "y" * 2_000_000 + '"}',
    ],
    ids=["2 MB", "200 kB", "tokens", "tokens without a space", "deep", "a long value"],
)
@pytest.mark.parametrize("form", ["MLLOG", "0.6", "0.5"])
def test_a_long_line_is_checked_in_linear_time(tmp_path, line, form):
    # With quadratic time, these would take from minutes to hours.
    lines = {"MLLOG": LOG, "0.6": v06_lines(), "0.5": v05_lines()}[form]
    old = line if form == "MLLOG" else line.replace(":::MLLOG", ":::MLL" if form == "0.6" else ":::MLP a 1 (")
    path = write_log(tmp_path / "result_0.txt", [*lines[:3], old, *lines[3:]])
    assert all(verdict.kind == "log" for verdict in check_paths([path]))


def test_thousands_of_lines_that_break_a_rule_are_one_finding(tmp_path):
    wrong = [line.replace('"epoch_num": 35', '"step": 1') for line in LOG if "eval_accuracy" in line]
    path = write_log(tmp_path / ROUND / "result_0.txt", [*LOG[:-2], *wrong * 5000, *LOG[-2:]])
    (finding,) = findings_in(path)
    assert finding.rule == "official-verdict" and finding.line == len(LOG) - 2 + 5000


@pytest.mark.parametrize(("end", "severity"), [("\r", "warning"), ("\r\n", None)])
def test_line_ends_that_mlperf_takes_are_at_most_a_warning(tmp_path, end, severity):
    path = write_log(tmp_path / ROUND / "result_0.txt", LOG, end)
    assert {(f.rule, f.severity) for f in findings_in(path)} == ({("log-line-ends", severity)} if severity else set())


def test_a_progress_bar_before_and_after_the_events_is_taken(tmp_path):
    lines = [f"10%\r20%\r{line}\r30%" for line in LOG]
    path = write_log(tmp_path / ROUND / "result_0.txt", lines)
    assert {f.severity for f in findings_in(path)} == {"warning"}


def quoted(line: str) -> str:
    before, _, after = line.partition('"time_ms": ')
    time_ms, _, rest = after.partition(",")
    return f'{before}"time_ms": "{time_ms}",{rest}'


@pytest.mark.parametrize("which", [slice(None), slice(4, 5), slice(-1, None)], ids=["all", "the benchmark", "the last"])
def test_times_in_quotes_are_a_warning_for_mlperf(tmp_path, which):
    lines = list(LOG)
    lines[which] = [quoted(line) for line in lines[which]]
    path = write_log(tmp_path / ROUND / "result_0.txt", lines)
    found = findings_in(path)
    assert [(f.rule, f.severity) for f in found] == [("log-line-parse", "warning")]
    count = len(LOG[which])
    assert ((f"({count} such lines" in found[0].found) == (count > 1)) and "MLPerf takes both" in found[0].remedy


@pytest.mark.parametrize(("edit", "end", "rule"), [(quoted, "\n", "log-line-parse"), (str, "\r", "log-line-ends")])
def test_what_only_mlperf_takes_is_an_error_in_a_log_of_deepspeech2(tmp_path, edit, end, rule):
    path = write_log(tmp_path / "result_0.txt", [edit(line) for line in VALID_LOG], end)
    assert {f.rule for f in findings_in(path) if f.severity == ERROR} == {rule}


def test_a_log_of_round_06_is_read_and_checked(tmp_path):
    good, bad = v06_lines(), v06_lines(finished=False)
    for folder in ("training_results_v0.6", "plain"):
        assert findings_in(write_log(tmp_path / folder / "result_0.txt", good)) == []
        (finding,) = findings_in(write_log(tmp_path / folder / "result_1.txt", bad))
        assert finding.rule == "official-verdict" and finding.severity == ERROR
    assert findings_in(tmp_path / "plain" / "result_0.txt", Chosen(ruleset="0.6.0")) == []
    rules = {f.found for f in findings_in(tmp_path / "plain" / "result_0.txt", Chosen(ruleset="5.1.0"))}
    assert any("No log lines detected" in found for found in rules)


@pytest.mark.parametrize("folder", ["training_results_v0.5/v0.5.0/orga", "plain"])
def test_a_log_of_round_05_has_one_warning(tmp_path, folder):
    (finding,) = findings_in(write_log(tmp_path / folder / "result_0.txt", v05_lines()))
    assert finding.severity == "warning" and "no rule set for MLPerf Training 0.5" in finding.found


def test_a_folder_of_logs_without_a_rule_set_has_one_warning(tmp_path):
    for number in range(5):
        write_log(tmp_path / "training_results_v0.5" / f"result_{number}.txt", v05_lines())
    one, other = findings_in(tmp_path / "training_results_v0.5")
    assert one.severity == other.severity == "warning"
    assert "(5 logs)" in one.found + other.found and "not a whole package" in one.found + other.found


NAMES = ["result_0.txt", "result_run0.txt", "slurm-1.out", "resnet.log", "sub/folder/result_a.txt", "sub/train.txt"]


def test_every_log_of_a_plain_folder_is_checked(tmp_path):
    incomplete = LOG[:-1]
    for name in NAMES:
        write_log(tmp_path / ROUND / name, incomplete)
    found = findings_in(tmp_path / ROUND)
    assert {Path(f.file).relative_to(tmp_path / ROUND).as_posix() for f in found if f.severity == ERROR} == set(NAMES)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.from_regex(r"[a-z]{1,5}(\.[a-z0-9]{1,4})?", fullmatch=True), min_size=1, max_size=4, unique=True))
def test_no_file_with_log_lines_is_skipped_silently(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("logs") / ROUND
    write_log(folder / "result_0.txt", LOG)
    for name in names:
        write_log(folder / name, LOG)
    verdicts = check_paths([folder])
    found = [f for v in verdicts for f in v.findings if f.rule == "folder-logs"]
    unnamed = [f for f in found if "other file" in f.found]
    assert any("number of runs, seeds, convergence, descriptions" in f.found for f in found)
    missing = sum(int(f.found.split()[2]) for f in unnamed)
    assert sum(verdict.kind == "log" for verdict in verdicts) + missing == 1 + len(names)
