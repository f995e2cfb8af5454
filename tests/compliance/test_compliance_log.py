"""A valid log passes; every kind of invalid log is refused by the right rule at the right line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.params import load_variant
from benchmark.rounds.official_checker import rulesets_of
from compliance.__main__ import main
from compliance.check import check_paths
from compliance.findings import ERROR, Finding, Verdict
from compliance.mlperf.official_logs import Chosen
from compliance.output.finding_report import report_of
from compliance.output.junit import as_junit
from tests.support.log_mutations import END, MUTATIONS, VALID_LOG, randomly_edited, with_resumed
from tests.support.logs import TOKEN, FakeRun, at, change, drop, fields_of, line_of, shifted, written


def findings_of(data: bytes, folder: Path) -> list[Finding]:
    path = folder / "result_0.txt"
    path.write_bytes(data)
    return [finding for verdict in check_paths([path]) for finding in verdict.findings]


def errors(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.severity == ERROR]


def test_a_valid_log_has_no_findings(tmp_path):
    assert findings_of(written(VALID_LOG), tmp_path) == []


def test_there_are_at_least_sixty_mutations():
    assert len({name for name, *_ in MUTATIONS}) == len(MUTATIONS) >= 60


def test_an_invalid_log_is_refused_by_the_right_rule_at_the_right_line(tmp_path):
    wrong = []
    for name, edit, rule, where in MUTATIONS:
        lines = edit(list(VALID_LOG))
        assert lines != VALID_LOG, name
        found = [finding.line for finding in errors(findings_of(written(lines), tmp_path)) if finding.rule == rule]
        if where == END:
            expected = found[-1:] == [len(lines)]
        elif where is None:
            expected = bool(found)
        else:
            expected = (where if isinstance(where, int) else at(lines, *where) + 1) in found
        if not expected:
            wrong.append((name, rule, where, found))
    assert wrong == []


LONG_EVENT = change("seed", value="9" * 3_000_000)(VALID_LOG)[10]
METADATA_AS_TEXT = line_of(fields_of(VALID_LOG[10]) | {"metadata": "x"})
BYTES = [
    ("empty", b"", "log-events", None),
    ("blank lines", b"\n\n\n", "log-events", None),
    ("not a log", b"hello\nworld\n", "log-events", None),
    ("UTF-16", "\n".join(VALID_LOG).encode("utf-16"), "log-encoding", 1),
    ("UTF-16 without a mark", "\n".join(VALID_LOG).encode("utf-16-le"), "log-encoding", 1),
    ("garbage between lines", written(VALID_LOG[:9]) + bytes(range(128, 256)) + b"\n" + written(VALID_LOG[9:]), "log-encoding", 10),
    ("garbage inside a line", written(VALID_LOG).replace(b"a-machine", b"a-m\xff\xfechine", 1), "log-encoding", 5),
    ("NUL bytes", written(VALID_LOG[:20]) + b"\0" * 5000 + b"\n" + written(VALID_LOG[20:]), "log-encoding", 21),
    ("two events in a line", written(VALID_LOG).replace(b"\n", b" ", 1), "log-line-parse", 1),
    ("NaN", written(change("tracked_stats", 0, value={"train_loss": float("nan")})(VALID_LOG)), "log-line-parse", 29),
    ("an array for an event", written([*VALID_LOG[:5], TOKEN + "[1]", *VALID_LOG[5:]]), "log-line-parse", 6),
    ("a token with nothing behind", written([*VALID_LOG[:5], TOKEN, *VALID_LOG[5:]]), "log-line-parse", 6),
    ("metadata as text", written([*VALID_LOG[:5], METADATA_AS_TEXT]), "log-line-parse", 6),
    ("a deep value", written(VALID_LOG).replace(b'"value": 17', b'"value": ' + b"[" * 900 + b"]" * 900), "log-line-parse", 11),
    ("deep nesting", written([*VALID_LOG[:5], TOKEN + "[" * 100_000, *VALID_LOG[5:]]), "log-line-parse", 6),
    ("a line of 3 MB", written(VALID_LOG[:9]) + b"x" * 3_000_000 + b"\n" + written(VALID_LOG[9:]), "log-line-length", 10),
    ("an event of 3 MB", written([*VALID_LOG[:9], LONG_EVENT, *VALID_LOG[9:]]), "log-line-length", 10),
    ("cut in the last line", written(VALID_LOG)[:-40], "log-line-parse", len(VALID_LOG)),
]  # fmt: skip


@pytest.mark.parametrize(("data", "rule", "line"), [b[1:] for b in BYTES], ids=[b[0] for b in BYTES])
def test_a_file_with_broken_text_is_refused(data, rule, line, tmp_path):
    found = errors(findings_of(data, tmp_path))
    assert (rule, line) in {(finding.rule, finding.line) for finding in found}


@pytest.mark.long
@pytest.mark.parametrize("byte", [b"\0", b"x"])
def test_a_line_of_one_gigabyte_needs_no_memory(byte, tmp_path):
    import resource

    path = tmp_path / "result_0.txt"
    with open(path, "wb") as file:
        file.write(written(VALID_LOG[:9]))
        if byte == b"\0":
            file.seek(1 << 30, 1)  # a sparse file: nothing is stored
        else:
            for _ in range(1024):
                file.write(byte * (1 << 20))
        file.write(b"\n" + written(VALID_LOG[9:]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = errors([finding for verdict in check_paths([path]) for finding in verdict.findings])
    assert ("log-line-length", 10) in {(finding.rule, finding.line) for finding in found}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def rnnt() -> list[str]:
    """The start of a log of another benchmark, as MLPerf's submitters print it."""
    keys = ["init_start", "init_start", "seed", "opt_name", "opt_lamb_beta_1", "init_stop", "run_start", "epoch_start"]
    like = fields_of(VALID_LOG[0])
    lines = [line_of(like | {"value": "rnnt"})] + [line_of(like | {"key": key, "value": 1}) for key in keys]
    return [*lines, line_of(like | {"key": "eval_accuracy", "value": 0.5}), line_of(like | {"key": "run_stop"})]


@pytest.mark.parametrize("lines", [VALID_LOG, rnnt()], ids=["DeepSpeech2's keys", "another's keys"])
@pytest.mark.parametrize(
    "name", ["foo", "", 5, None, "x" * 300, "../rnnt", "DeepSpeech2", "deepspeech", "deep_speech_2"]
)
def test_a_log_of_an_unknown_benchmark_is_one_finding(name, lines, tmp_path):
    lines = change("submission_benchmark", value=name)(lines)
    (finding,) = findings_of(written(lines), tmp_path)
    assert (finding.rule, finding.severity, finding.line) == ("benchmark-known", "error", 1)
    assert "deepspeech2" in finding.expected and str(name or "")[:90] in finding.found
    near = "did it mean deepspeech2?" in finding.remedy
    assert near == (str(name).casefold().startswith("deep"))


@pytest.mark.parametrize("name", ["rnnt", "resnet", "gpt3"])
def test_a_deepspeech2_log_with_another_benchmarks_name_is_one_finding(name, tmp_path):
    (finding,) = findings_of(written(change("submission_benchmark", value=name)(VALID_LOG)), tmp_path)
    assert (finding.rule, finding.expected, finding.line) == ("benchmark-known", "deepspeech2", 1)
    assert name in finding.found and "DeepSpeech2's own keys" in finding.found


def test_a_log_without_a_benchmark_is_identified_by_its_keys_or_folder(tmp_path):
    nameless = written(drop("submission_benchmark")(rnnt()))
    (finding,) = findings_of(nameless, tmp_path)
    assert (finding.rule, finding.found) == ("benchmark-known", "no such event")
    (finding,) = findings_of(written(drop("submission_benchmark")(VALID_LOG)), tmp_path)
    assert finding.rule == "key-present" and finding.expected.startswith("submission_benchmark")
    (tmp_path / "deepspeech2").mkdir()
    rules = {finding.rule for finding in findings_of(nameless, tmp_path / "deepspeech2")}
    assert "key-present" in rules and "benchmark-known" not in rules


def test_a_folder_of_runs_of_an_unknown_benchmark_has_one_finding_each(tmp_path):
    for number in range(3):
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        lines = change("submission_benchmark", value="foo")(FakeRun(seed=number).write())
        (folder / "result.txt").write_bytes(written(lines))
    for paths, count in (([tmp_path], 3), ([tmp_path / "run-0"], 1), (sorted(tmp_path.iterdir()), 3)):
        found = [finding for verdict in check_paths(paths) for finding in verdict.findings]
        assert [finding.rule for finding in found] == ["benchmark-known"] * count


@pytest.mark.parametrize(("name", "ruleset"), [("rnnt", "5.1.0"), ("resnet", "4.0.0")])
def test_rules_that_a_round_does_not_have_are_named_without_their_path(name, ruleset, tmp_path):
    lines = change("submission_benchmark", value=name)(rnnt())
    place = next(n for n, line in enumerate(lines) if "opt_name" in line)
    lines[place] = line_of(fields_of(lines[place]) | {"value": "lion"})
    head = [line_of(fields_of(VALID_LOG[n])) for n in range(1, 5)]
    (tmp_path / "result_0.txt").write_bytes(written([lines[0], *head, *lines[1:]]))
    found = [
        f for verdict in check_paths([tmp_path / "result_0.txt"], Chosen(ruleset=ruleset)) for f in verdict.findings
    ]
    (finding,) = [f for f in found if f.severity == ERROR]
    assert finding.rule == "official-verdict" and finding.line == 1
    assert f"no rules called closed_{name}" in finding.found and "/" not in finding.found
    assert "--ruleset" in finding.remedy and f"{rulesets_of(name)[-1]}" in finding.remedy


def test_what_launchers_do_to_a_log_is_accepted_or_a_warning(tmp_path):
    crlf = written(VALID_LOG).replace(b"\n", b"\r\n")
    assert findings_of(crlf, tmp_path) == []
    prefixed = b"".join(b"[rank0] " + line for line in written(VALID_LOG).splitlines(keepends=True))
    found = findings_of(prefixed, tmp_path)
    assert [(f.rule, f.severity, f.line) for f in found] == [("log-prefix", "warning", 1)]
    assert str(len(VALID_LOG)) in found[0].found
    chatter = written(["loading ...", *VALID_LOG[:9], "100 %|#####|", *VALID_LOG[9:], "bye"])
    assert findings_of(chatter, tmp_path) == []


def test_clocks_of_several_ranks_may_differ_slightly(tmp_path):
    lines = FakeRun(processes=2).write()
    place = at(lines, "eval_start", 1)
    found = findings_of(written(lines[:place] + shifted(lines[place:], -900)), tmp_path)
    assert [(f.rule, f.severity) for f in found] == [("clock-order", "warning")]
    found = findings_of(written(lines[:place] + shifted(lines[place:], -5000)), tmp_path)
    assert ("clock-order", "error") in {(f.rule, f.severity) for f in found}


def test_a_resumed_run_passes(tmp_path):
    assert findings_of(written(with_resumed(VALID_LOG, "epoch_start", 1)), tmp_path) == []


def test_a_run_that_missed_the_target_is_refused_only_for_that(tmp_path):
    edits = (1290, 1200, 1100, 1000, 900, 800, 700, 600, 500, 400)
    found = errors(findings_of(FakeRun(word_edits=edits).text().encode(), tmp_path))
    assert [finding.rule for finding in found] == ["run-status"]


def test_training_after_the_target_is_refused_at_its_first_line(tmp_path):
    lines = FakeRun(word_edits=(1290, 250, 200)).write()
    found = errors(findings_of(written(lines), tmp_path))
    assert [(f.rule, f.line) for f in found] == [("target-stop", at(lines, "epoch_start", 2) + 1)]


def test_eleven_epochs_are_refused(tmp_path):
    lines = FakeRun(word_edits=(*[1290 - n for n in range(10)], 250)).write()
    found = errors(findings_of(written(lines), tmp_path))
    assert [(f.rule, f.line) for f in found] == [("epoch-cap", at(lines, "epoch_start", 10) + 1)]


def test_a_success_without_the_target_is_refused(tmp_path):
    lines = change("run_stop", metadata={"status": "success"})(FakeRun(word_edits=(1290, 800)).write())
    found = errors(findings_of(written(lines), tmp_path))
    assert [(f.rule, f.line) for f in found] == [("target-reached", at(lines, "run_stop") + 1)]


def test_caches_not_emptied_are_an_error_only_for_closed_librispeech(tmp_path):
    found = findings_of(FakeRun(cache_clear=False).text().encode(), tmp_path)
    assert [(f.rule, f.severity) for f in found] == [("entry-cache-clear", "warning")]
    run = FakeRun(params=load_variant("librispeech"), train_samples=281_241, eval_samples=5567, cache_clear=False)
    assert [(f.rule, f.severity) for f in findings_of(run.text().encode(), tmp_path)] == [
        ("entry-cache-clear", "error")
    ]


def test_librispeech_has_its_full_size(tmp_path):
    run = FakeRun(params=load_variant("librispeech"), train_samples=28_539, eval_samples=5567)
    found = findings_of(run.text().encode(), tmp_path)
    assert [(f.rule, f.expected) for f in found] == [("entry-samples", "281241 utterances")]
    # An open entry may train on any data, but is evaluated on the whole evaluation set.
    run = FakeRun(params=load_variant("librispeech_open"), train_samples=28_539, eval_samples=2703)
    found = findings_of(run.text().encode(), tmp_path)
    assert [(f.rule, f.expected) for f in found] == [("entry-samples", "5567 utterances")]


def test_exit_status_and_formats_of_the_command(tmp_path, capsys):
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_bytes(written(VALID_LOG))
    bad.write_bytes(written(drop("seed")(VALID_LOG)))
    assert main([str(good)]) == 0
    assert "not verified by MLCommons" in capsys.readouterr().out
    assert main([str(bad), "--json", "--junit", str(tmp_path / "junit.xml")]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema_version"] == 2 and answer["compliant"] is False
    assert answer["findings"][0]["rule"] == "key-present" and answer["findings"][0]["line"] == len(VALID_LOG) - 1
    fields = {"rule", "severity", "file", "line", "expected", "found", "remedy", "consequences"}
    assert set(answer["findings"][0]) == fields
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    failed = [case.get("name") for case in root.iter("testcase") if case.find("failure") is not None]
    assert failed == ["key-present"] and root.get("failures") == "1"


def test_an_empty_folder_fails_and_a_missing_path_cannot_be_checked(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 1
    assert "folder-logs" in capsys.readouterr().out
    from common.errors import run_cli

    assert run_cli(lambda: main([str(tmp_path / "nowhere")])) == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err


def test_hostile_text_is_escaped_and_wrapped(tmp_path, capsys):
    lines = change("submission_division", value="\x1b[31m</failure>\n<b>\u202e&" + "é" * 300)(VALID_LOG)
    path = tmp_path / "log \x1b[0m<i>.txt"
    path.write_bytes(written(lines))
    assert main([str(path), "--junit", str(tmp_path / "j.xml")]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out
    body = [line for line in out.splitlines() if line.startswith("    ")]
    assert max(map(len, body)) <= 80
    case = next(
        case for case in ElementTree.parse(tmp_path / "j.xml").iter("testcase") if case.find("failure") is not None
    )
    assert case.get("classname") == str(tmp_path / r"log \x1b[0m<i>.txt")
    assert r"\u202e&" in case.find("failure").text and "</failure>" in case.find("failure").get("message")


def test_characters_that_xml_cannot_represent_are_replaced():
    finding = Finding("a-rule", ERROR, "a\ufffe", 3, "tab\t", "\x00\x0b\ud800\uffff\U0001f600", "line\nbreak")
    text = as_junit(report_of([Verdict("a\ufffe", "log", None, ["a-rule"], [finding])]))
    case = next(ElementTree.fromstring(text).iter("testcase"))
    assert case.get("classname") == r"a\ufffe"
    assert case.find("failure").text == "a\\ufffe:3: error: expected tab\t; found ????\U0001f600; line\nbreak"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 6))
def test_no_edit_causes_a_traceback(tmp_path, seed, edits):
    chance = random.Random(seed)
    lines = list(VALID_LOG)
    for _ in range(edits):
        lines = randomly_edited(lines or VALID_LOG, chance)
    for finding in findings_of(written(lines), tmp_path):
        assert finding.line is None or 1 <= finding.line <= len(lines)
        assert finding.expected and finding.remedy


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 12_000), cut=st.integers(0, 300), junk=st.binary(max_size=60))
def test_no_bytes_cause_a_traceback(tmp_path, place, cut, junk):
    data = written(VALID_LOG)
    findings_of(data[:place] + junk + data[place + cut :], tmp_path)
