"""One report: a fault counts once, at its root cause, and text, JSON, JUnit, SARIF and annotations agree on it."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.__main__ import main
from compliance.check import ALL_RULES, check_paths
from compliance.findings import ERROR, WARNING, Finding, Verdict
from compliance.output.finding_report import Entry, Report, report_of
from compliance.output.findings_json import as_json
from compliance.output.findings_text import as_text
from compliance.output.github_annotations import as_github
from compliance.output.junit import as_junit
from compliance.output.root_causes import LINKS
from compliance.output.sarif import as_sarif
from tests.support.log_mutations import VALID_LOG
from tests.support.logs import change, drop, written
from tests.support.run_folders import ORG, RESULT_FOLDER, make_package, update_checksums

LOCK = "benchmarks/deepspeech2/implementations/reference/requirements.lock"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_package(tmp_path_factory.mktemp("package"))


@pytest.fixture
def copy(package, tmp_path):
    return shutil.copytree(package, tmp_path / ORG)


def errors_of(report: Report) -> list[Entry]:
    return [entry for entry in report.entries if entry.finding.severity == ERROR]


def places(entries: list[Entry]) -> list[tuple[str, str]]:
    return [(entry.finding.rule, Path(entry.finding.file).name) for entry in entries]


def folded(entry: Entry) -> set[tuple[str, str]]:
    return {(finding.rule, Path(finding.file).name) for finding in entry.consequences}


# ---------------------------------------------------------------------------------------------------------------------
# Root causes


def test_one_copied_log_is_one_error(copy):
    results = copy / RESULT_FOLDER
    shutil.copy(results / "result_3.txt", results / "result_4.txt")
    report = report_of(check_paths([copy]))
    (entry,) = errors_of(report)
    assert places([entry]) == [("runs-distinct", "result_4.txt")]
    assert folded(entry) == {
        ("runs-distinct", "result_4.txt"),
        ("runs-seeds", "result_4.txt"),
        ("runs-overlap", "result_4.txt"),
        ("integrity-files", "result_4.txt"),
        ("package-sums", "result_4.txt"),
        ("integrity-agreement", "record_4.json"),
    }
    assert not report.compliant and report.errors == 1


def test_if_only_the_earlier_of_two_equal_logs_was_changed_that_one_is_reported(copy):
    results = copy / RESULT_FOLDER
    shutil.copy(results / "result_4.txt", results / "result_3.txt")
    (entry,) = errors_of(report_of(check_paths([copy])))
    assert places([entry]) == [("integrity-files", "result_3.txt")]
    assert {("runs-distinct", "result_4.txt"), ("runs-seeds", "result_4.txt")} <= folded(entry)
    assert {("package-sums", "result_3.txt"), ("integrity-agreement", "record_3.json")} <= folded(entry)


def test_two_copies_are_two_errors(copy):
    results = copy / RESULT_FOLDER
    for number in (4, 5):
        shutil.copy(results / "result_3.txt", results / f"result_{number}.txt")
    found = places(errors_of(report_of(check_paths([copy]))))
    assert found == [("runs-distinct", "result_4.txt"), ("runs-distinct", "result_5.txt")]


def test_a_copy_with_the_seed_of_a_third_run_has_two_faults(copy):
    results = copy / RESULT_FOLDER
    seed = next(json.loads(line[9:])["value"] for line in lines_of(results / "result_7.txt") if '"seed"' in line)
    (results / "result_4.txt").write_bytes(written(change("seed", value=seed)(lines_of(results / "result_3.txt"))))
    found = {(e.finding.rule, Path(e.finding.file).name) for e in errors_of(report_of(check_paths([copy])))}
    assert found == {("runs-distinct", "result_4.txt"), ("runs-seeds", "result_7.txt")}


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def edit_line(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_file_that_differs_from_record_and_checksums_is_one_error(copy):
    results = copy / RESULT_FOLDER
    edit_line(results / "telemetry_3.csv", "\n", "\n\n")
    (results / "record_5.json").write_text("{}")
    edit_line(results / "record_6.json", '"clean": true', '"clean":  true')
    found = {entry.finding.file: entry for entry in errors_of(report_of(check_paths([copy])))}
    by_name = {Path(file).name: (entry.finding.rule, folded(entry)) for file, entry in found.items()}
    assert by_name == {
        "telemetry_3.csv": ("integrity-files", {("package-sums", "telemetry_3.csv")}),
        "record_5.json": ("package-sums", {("integrity-record", "record_5.json")}),
        "record_6.json": ("package-sums", set()),
    }


def test_a_missing_file_is_one_error(copy):
    results = copy / RESULT_FOLDER
    missing = [results / "record_2.json", results / "telemetry_3.csv", copy / "systems" / "a-system.json"]
    missing.append(copy / "benchmarks" / "deepspeech2" / "a-system" / "README.md")
    for path in missing:
        path.unlink()
    report = report_of(check_paths([copy]))
    for path in missing:
        of_file = [entry for entry in report.entries if entry.finding.file == str(path)]
        assert len(of_file) == 1 and len(of_file[0].consequences) == 1, path
    assert report.errors == len(missing)


def test_a_lock_file_that_ten_records_do_not_know_is_one_error(copy):
    (copy / LOCK).write_text("torch\n")
    (entry,) = errors_of(report_of(check_paths([copy])))
    assert places([entry]) == [("integrity-lock", "requirements.lock")]
    assert folded(entry) == {("package-sums", "requirements.lock")}


def drop_seed(path: Path) -> None:
    path.write_bytes(written(drop("seed")(lines_of(path))))


def test_independent_faults_of_a_file_are_all_kept(copy):
    results = copy / RESULT_FOLDER
    drop_seed(results / "result_3.txt")
    edit_line(results / "record_5.json", '"clean": true', '"clean": false')
    edit_line(copy / "systems" / "a-system.json", '"cooling"', '"cooled_by"')
    found = set(places(errors_of(report_of(check_paths([copy])))))
    assert found == {
        ("key-present", "result_3.txt"),
        ("integrity-files", "result_3.txt"),
        ("integrity-code", "record_5.json"),
        ("package-sums", "record_5.json"),
        ("package-system", "a-system.json"),
        ("package-sums", "a-system.json"),
    }


def test_a_record_and_its_log_that_were_both_changed_are_two_errors(copy):
    results = copy / RESULT_FOLDER
    edit_line(results / "result_3.txt", "\n", "\n\n")
    record = json.loads((results / "record_3.json").read_text())
    record["run"]["minutes"] = 0.1
    (results / "record_3.json").write_text(json.dumps(record))
    found = {place: folded(entry) for entry in errors_of(report_of(check_paths([copy]))) for place in places([entry])}
    assert found == {
        ("integrity-files", "result_3.txt"): {("package-sums", "result_3.txt")},
        ("package-sums", "record_3.json"): {("integrity-agreement", "record_3.json")},
    }
    # With new checksums only the disagreement shows that the record was changed.
    edit_line(results / "result_3.txt", "\n\n", "\n")
    update_checksums(copy)
    assert places(errors_of(report_of(check_paths([copy])))) == [("integrity-agreement", "record_3.json")]


FILES = ["b/result_2.txt", "b/result_10.txt", "b/record_2.json", "b"]
RELATED_RULES = sorted({link.rule for link in LINKS} | {link.cause for link in LINKS} | {"key-present"})
FINDINGS = st.builds(
    Finding,
    rule=st.sampled_from(RELATED_RULES),
    severity=st.sampled_from([ERROR, WARNING]),
    file=st.sampled_from(FILES),
    line=st.none() | st.integers(1, 9),
    expected=st.text(max_size=9),
    found=st.sampled_from(["none", "no such file", "a" * 64, "b" * 64]) | st.text(max_size=9),
    remedy=st.just("repair it"),
    related=st.none() | st.sampled_from(FILES),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(FINDINGS, max_size=12), min_size=1, max_size=3))
def test_every_format_counts_the_same_and_no_finding_is_lost(lists):
    verdicts = [
        Verdict(f"v{number}", "log", None, ["key-present", "log-readable"], found) for number, found in enumerate(lists)
    ]
    report = report_of(verdicts)
    shown = [finding for entry in report.entries for finding in (entry.finding, *entry.consequences)]
    assert sorted(map(repr, shown)) == sorted(map(repr, {finding for found in lists for finding in found}))
    assert report.compliant == (report.errors == 0) == all(verdict.compliant for verdict in verdicts)
    for entry in report.entries:
        assert entry.finding.severity == ERROR or all(each.severity != ERROR for each in entry.consequences)
    check_counts(report)


# ---------------------------------------------------------------------------------------------------------------------
# Formats


def check_counts(report: Report) -> None:
    expected = {"error": report.errors, "warning": report.warnings}
    text = as_text(report)
    found = re.search(r"(\d+) findings? in (\d+) files?: (\d+) errors?, (\d+) warnings?$", text, re.MULTILINE)
    assert [int(count) for count in found.groups()] == [
        report.errors + report.warnings,
        len({entry.finding.file for entry in report.entries}),
        report.errors,
        report.warnings,
    ]
    listed = re.findall(r"^  (?:line \d+|whole) +(error|warning) ", text, re.MULTILINE)
    answer = json.loads(as_json(report))
    assert {name: answer[f"{name}s"] for name in expected} == expected
    sarif = json.loads(as_sarif(report, ALL_RULES))
    check_sarif(sarif)
    commands = [line.split(" ")[0].strip(":") for line in as_github(report).splitlines()]
    root = ElementTree.fromstring(as_junit(report))
    warnings = sum(int(each.get("value")) for each in root.iter("property") if each.get("name") == "warnings")
    assert {"error": len(list(root.iter("failure"))), "warning": warnings} == expected
    assert int(root.get("failures")) == report.errors
    for level, count in expected.items():
        assert listed.count(level) == commands.count(level) == count
        assert [each["severity"] for each in answer["findings"]].count(level) == count
        assert [each["level"] for each in sarif["runs"][0]["results"]].count(level) == count
    for suite in root.iter("testsuite"):
        cases = list(suite.iter("testcase"))
        assert len({case.get("name") for case in cases}) == len(cases) == int(suite.get("tests"))
        assert all(len(case.findall("failure") + case.findall("skipped")) <= 1 for case in cases)


def check_sarif(tree: dict) -> None:
    """What the schema of SARIF 2.1.0 requires of the properties that are used."""
    assert tree["version"] == "2.1.0" and tree["$schema"].endswith("sarif-2.1.0.json")
    (run,) = tree["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert run["tool"]["driver"]["name"] and len({rule["id"] for rule in rules}) == len(rules)
    assert all(rule["shortDescription"]["text"] for rule in rules)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning") and result["message"]["text"]
        related = result.get("relatedLocations", [])
        assert [each["id"] for each in related] == list(range(1, len(related) + 1))
        for location in (*result["locations"], *related):
            physical = location["physicalLocation"]
            assert re.fullmatch(r"[A-Za-z0-9/._~:%-]+", physical["artifactLocation"]["uri"])
            assert physical.get("region", {"startLine": 1})["startLine"] >= 1


def test_the_formats_of_a_broken_package_agree(copy):
    results = copy / RESULT_FOLDER
    shutil.copy(results / "result_3.txt", results / "result_4.txt")
    drop_seed(results / "result_7.txt")
    (copy / LOCK).write_text("torch\n")
    (results / "extra.bin").write_bytes(b"")
    report = report_of(check_paths([copy]))
    check_counts(report)
    # A rule is not passed where its fault is reported as the consequence of another, or in another suite.
    suites = {suite.get("name"): suite for suite in ElementTree.fromstring(as_junit(report)).iter("testsuite")}
    cases = {case.get("name"): case for case in suites[f"record {results / 'record_4.json'}"].iter("testcase")}
    reason = cases["integrity-agreement"].find("skipped").get("message")
    assert reason == f"reported as runs-distinct in {results / 'result_4.txt'}"
    assert cases["integrity-lock"].find("skipped").get("message").endswith("requirements.lock")
    consequence = next(each for each in json.loads(as_json(report))["findings"] if each["rule"] == "runs-distinct")
    assert "integrity-agreement" in {each["rule"] for each in consequence["consequences"]}


def test_each_file_is_listed_once_in_natural_order(copy):
    results = copy / RESULT_FOLDER
    drop_seed(results / "result_9.txt")
    drop_seed(results / "result_2.txt")
    (results / "result_10.txt").write_bytes(written(VALID_LOG))
    edit_line(copy / "systems" / "a-system.json", '"cooling"', '"cooled_by"')
    (copy / "SHA256SUMS").write_text("nothing\n" + (copy / "SHA256SUMS").read_text())
    report = report_of(check_paths([copy]))
    files = [line for line in as_text(report).splitlines() if line.startswith("/")]
    assert len(set(files)) == len(files) == len(report.files)
    order = [name for file in files if (name := Path(file).name).startswith("result_") or str(results) not in file]
    assert order == ["SHA256SUMS", "a-system.json", "result_0.txt", "result_2.txt", "result_9.txt", "result_10.txt"]
    of_file = [entry.finding for entry in report.files[str(results / "result_9.txt")]]
    assert [finding.rule for finding in of_file] == ["integrity-files", "key-present"]


def test_the_root_cause_comes_first_in_its_file_then_damage_then_lines():
    copied = Finding("runs-distinct", ERROR, "b", 40, "a", "b", "c", "a")
    seed = Finding("runs-seeds", ERROR, "b", 11, "a", "b", "c", "a")
    damaged = Finding("log-line-parse", ERROR, "b", 30, "a", "b", "c")
    whole = Finding("key-present", ERROR, "b", None, "a", "b", "c")
    later, warned = (Finding("key-once", level, "b", 20, "a", "b", "c") for level in (ERROR, WARNING))
    for found in itertools.permutations([copied, seed, damaged, whole, later, warned]):
        (entries,) = report_of([Verdict("b", "log", None, [], list(found))]).files.values()
        assert [entry.finding for entry in entries] == [copied, damaged, whole, later, warned]
        assert entries[0].consequences == [seed]


def test_text_has_eighty_columns_and_whole_paths(copy, tmp_path):
    deep = tmp_path / ("a-folder-with-a-long-name/" * 5)
    deep.mkdir(parents=True)
    org = Path(shutil.move(copy, deep))
    shutil.copy(org / RESULT_FOLDER / "result_3.txt", org / RESULT_FOLDER / "result_4.txt")
    lines = as_text(report_of(check_paths([org]))).splitlines()
    assert str(org / RESULT_FOLDER / "result_4.txt") in lines
    assert max(len(line) for line in lines if not line.startswith("/")) <= 80
    also = next(place for place, line in enumerate(lines) if line.startswith("    also "))
    assert "in record_4.json: integrity-agreement (21 times)" in " ".join(" ".join(lines[also : also + 4]).split())
    assert re.fullmatch(r"NOT compliant: \d+ checked; \d+ findings in \d+ files: 1 error, \d+ warnings", lines[-3])


NAMES = ["result 1,50%: a.txt", "r\u00e9sult\n.txt", "::error::x.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_sarif_and_annotations_name_files_from_the_current_folder(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "logs" / name
    path.parent.mkdir()
    path.write_bytes(written(drop("seed")(VALID_LOG)))
    assert main([str(path), "--github", "--sarif", "findings.sarif"]) == 1
    tree = json.loads(Path("findings.sarif").read_text())
    check_sarif(tree)
    (result,) = tree["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert unquote(place["artifactLocation"]["uri"]) == f"logs/{name}"
    assert place["region"]["startLine"] == len(VALID_LOG) - 1 and result["ruleId"] == "key-present"
    lines = capsys.readouterr().out.splitlines()
    fields = re.fullmatch(r"::error file=([^,:]*),line=(\d+),title=([^,:]*)::(.*)", lines[-1]).groups()
    shown = f"logs/{name}".replace("\n", "\\n")
    assert fields[:3] == (escaped(shown), str(len(VALID_LOG) - 1), "key-present") and "seed" in fields[3]


def escaped(text: str) -> str:
    for character in "%:,":
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def test_a_file_outside_the_current_folder_has_an_absolute_uri(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    log = tmp_path / "a log.txt"
    log.write_bytes(b"")
    (result,) = json.loads(as_sarif(report_of(check_paths([log])), ALL_RULES))["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == log.as_uri().replace(" ", "%20")


def test_messages_of_annotations_are_escaped():
    finding = Finding("a-rule", WARNING, "f", None, "100%", "a\r\nb: c, d", "repair it")
    out = as_github(report_of([Verdict("f", "log", None, ["a-rule"], [finding])]))
    assert out == "::warning file=f,title=a-rule::expected 100%25; found a%0D%0Ab: c, d; repair it\n"


def test_a_log_cannot_give_workflow_commands(tmp_path, capsys):
    """A runner obeys a command at the start of a line, even indented; between two equal tokens it obeys none."""
    value = "x" * 63 + " ::set-env name=PATH::/tmp " + "y" * 40
    path = tmp_path / "result_0.txt"
    path.write_bytes(written(change("submission_division", value=value)(VALID_LOG)))
    assert main([str(path), "--github"]) == 1
    lines = capsys.readouterr().out.splitlines()
    token = lines[0].removeprefix("::stop-commands::")
    end = lines.index(f"::{token}::")
    assert len(token) == 32 and any("::set-env" in line for line in lines[:end])
    obeyed = {line.lstrip().split(" ")[0] for line in lines[end + 1 :]}
    assert obeyed <= {"::error", "::warning"}


def test_json_and_annotations_are_not_mixed(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--json", "--github"])
    assert stopped.value.code == 2 and "not allowed with" in capsys.readouterr().err
