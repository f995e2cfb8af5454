"""A package of ten runs is compliant; if any file is removed or any number changed, a finding names that file."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import results.package
from benchmark import record
from benchmark.machine.system import FIELDS
from compliance.check import check_paths
from compliance.findings import ERROR, Finding
from compliance.rule_file import RULE_FILE
from results.comparing.comparison import compare_runs
from results.package import build_package
from results.reading.discover import find_sources
from results.reading.load import read_run
from results.rendering.terminal_table import render_text
from tests.support.log_mutations import VALID_LOG
from tests.support.logs import FakeRun, change, fields_of, line_of, written
from tests.support.run_folders import ORG, FakeMachine, make_runs, update_checksums, write_run

DS2 = "deepspeech2"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Ten run folders of committed code."""
    checkout = tmp_path_factory.mktemp("checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results.package, "ROOT", checkout)
        yield make_runs(tmp_path_factory.mktemp("runs"), checkout)


@pytest.fixture(scope="module")
def package(runs, tmp_path_factory):
    described = tmp_path_factory.mktemp("about") / "describe.yaml"
    described.write_text("cooling: air\nhost_networking: none\n")
    out = tmp_path_factory.mktemp("package")
    org = build_package(runs, ORG, "a-system", out, described)
    return org


@pytest.fixture
def copy(package, tmp_path):
    return shutil.copytree(package, tmp_path / ORG)


def findings_in(org: Path) -> list[Finding]:
    return [finding for verdict in check_paths([org]) for finding in verdict.findings]


def errors_in(org: Path) -> list[Finding]:
    return [finding for finding in findings_in(org) if finding.severity == ERROR]


def test_the_package_passes(package):
    assert errors_in(package) == []
    kinds = {verdict.kind for verdict in check_paths([package])}
    assert kinds == {"log", "runs", "record", "package"}
    # Its parent folder is a repository with one submitter.
    assert [f for verdict in check_paths([package.parent]) for f in verdict.findings if f.severity == ERROR] == []


def test_the_package_passes_the_official_checkers(package):
    import sys

    from mlperf_logging.system_desc_checker import system_desc_checker

    assert system_desc_checker.check_system_desc(package / "systems" / "a-system.json", "training", "5.1.0")[0]
    result = package / "results" / "a-system" / DS2 / "result_3.txt"
    command = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--ruleset", "5.1.0", "--config", RULE_FILE]
    command += ["--log_output", package.parent / "official.log", result]
    assert subprocess.run(command, capture_output=True).returncode == 0


SOME = re.compile(r"(_3\.\w+|a-system\.json|README\.md|\.sh|/params\.yaml|SUMS|requirements\.lock)$")
some_or_all = pytest.mark.parametrize("which", [SOME, pytest.param(re.compile(""), marks=pytest.mark.long)])


def files_of(org: Path, which: re.Pattern) -> list[Path]:
    return sorted(path for path in org.rglob("*") if path.is_file() and which.search(str(path)))


@some_or_all
def test_removing_any_file_fails_and_names_it(copy, which):
    for path in files_of(copy, which):
        content = path.read_bytes()
        path.unlink()
        assert any(path.name in finding.file for finding in errors_in(copy)), path
        path.write_bytes(content)
    assert errors_in(copy) == []


@some_or_all
def test_changing_any_number_fails_and_names_the_file(copy, which):
    chance = random.Random(11)
    for path in files_of(copy, which):
        text = path.read_bytes()
        digits = [match.start() for match in re.finditer(rb"\d", text)]
        if not digits:
            continue
        place = chance.choice(digits)
        other = str((int(text[place : place + 1]) + chance.randint(1, 9)) % 10).encode()
        path.write_bytes(text[:place] + other + text[place + 1 :])
        found = errors_in(copy)
        # A number in SHA256SUMS is part of the hash or the name of another file, which is named instead.
        assert found and (path.name == "SHA256SUMS" or any(path.name in finding.file for finding in found)), path
        path.write_bytes(text)


def test_an_extra_file_fails(copy):
    (copy / "results" / "a-system" / DS2 / "result_10.txt").write_bytes(written(VALID_LOG))
    found = {(finding.rule, Path(finding.file).name) for finding in errors_in(copy)}
    assert ("package-sums", "result_10.txt") in found and ("runs-count", DS2) in found


def edit_json(path: Path, edit: Callable[[dict], None]) -> None:
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


def edit_log(path: Path, edit: Callable[[list[str]], list[str]]) -> None:
    path.write_bytes(written(edit(path.read_text().splitlines())))


def without(path: Path) -> None:
    path.unlink()


RESULTS = f"results/a-system/{DS2}"
BENCHMARK = f"benchmarks/{DS2}"
LOCK = f"{BENCHMARK}/implementations/reference/requirements.lock"
SYSTEM, RECORD, RESULT = "systems/a-system.json", f"{RESULTS}/record_2.json", f"{RESULTS}/result_3.txt"


def set_field(value: object, *names: str | int) -> Callable[[Path], None]:
    """An edit of one field of a JSON file."""

    def edit(path: Path) -> None:
        tree = inner = json.loads(path.read_text())
        for name in names[:-1]:
            inner = inner[name]
        inner[names[-1]] = value
        path.write_text(json.dumps(tree))

    return edit


def smaller_batches(path: Path) -> None:
    path.write_text(path.read_text().replace("batch_size: 16", "batch_size: 8"))


EDITED = [
    ("submitter", SYSTEM, set_field("Other", "submitter"), "package-agreement"),
    ("division", SYSTEM, set_field("open", "division"), "package-agreement"),
    ("availability", SYSTEM, set_field("Preview", "status"), "package-agreement"),
    ("more GPUs", SYSTEM, set_field("8", "accelerators_per_node"), "package-agreement"),
    ("other GPUs", SYSTEM, set_field("B200", "accelerator_model_name"), "package-agreement"),
    ("a field gone", SYSTEM, lambda p: edit_json(p, lambda t: t.pop("cooling")), "package-system"),
    ("a field emptied", SYSTEM, set_field("", "framework"), "package-system"),
    ("a number for text", SYSTEM, set_field(1, "number_of_nodes"), "package-system"),
    ("no JSON", SYSTEM, lambda p: p.write_text("{"), "package-system"),
    ("no description", SYSTEM, without, "package-system"),
    ("nine runs", f"{RESULTS}/result_9.txt", without, "runs-count"),
    ("a gap in the numbers", f"{RESULTS}/result_4.txt", without, "package-tree"),
    ("no record", RECORD, without, "package-record"),
    ("a broken record", RECORD, lambda p: p.write_text("{}"), "integrity-record"),
    ("another seed in the record", RECORD, set_field(5, "seed"), "integrity-agreement"),
    ("fewer minutes in the record", RECORD, set_field(0.1, "run", "minutes"), "integrity-agreement"),
    ("a better score in the record", RECORD, set_field(1.0, "epochs", 1, "wer"), "integrity-agreement"),
    ("other parameters in the record", RECORD, set_field(8, "params", "train", "batch_size"), "integrity-agreement"),
    ("changed code", RECORD, set_field(False, "code", "clean"), "integrity-code"),
    ("unknown code", RECORD, set_field(None, "code", "commit"), "integrity-code"),
    ("another environment", RECORD, set_field("0" * 64, "lock_sha256"), "integrity-lock"),
    ("no environment", RECORD, set_field(None, "lock_sha256"), "integrity-lock"),
    ("another dataset", RECORD, set_field("0" * 64, "dataset", "tree_sha256"), "integrity-agreement"),
    ("an edited log", RESULT, lambda p: edit_log(p, change("seed", value=12345)), "integrity-files"),
    ("an edited telemetry", f"{RESULTS}/telemetry_3.csv", lambda p: p.write_text(p.read_text() + "\n"), "integrity-files"),
    ("a seed again", RESULT, lambda p: edit_log(p, change("seed", value=100)), "runs-seeds"),
    ("no parameters", f"{BENCHMARK}/a-system/params.yaml", without, "package-code"),
    ("other parameters", f"{BENCHMARK}/a-system/params.yaml", smaller_batches, "package-code"),
    ("no way to run it", f"{BENCHMARK}/a-system/run_and_time.sh", without, "package-code"),
    ("no README", f"{BENCHMARK}/a-system/README.md", without, "package-code"),
    ("no lock file", LOCK, without, "package-code"),
    ("another lock file", LOCK, lambda p: p.write_text("torch\n"), "integrity-lock"),
]  # fmt: skip


def test_an_edited_package_with_new_checksums_is_refused(copy):
    accepted = []
    for case, name, edit, rule in EDITED:
        whole = (copy / name).read_bytes()
        edit(copy / name)
        update_checksums(copy)
        if rule not in {finding.rule for finding in errors_in(copy)}:
            accepted.append((case, rule))
        (copy / name).write_bytes(whole)
    assert accepted == []


def test_a_copied_log_under_another_seed_is_found(copy):
    folder = copy / RESULTS
    lines = (folder / "result_0.txt").read_text().splitlines()
    (folder / "result_1.txt").write_bytes(written(change("seed", value=4242)(lines)))
    update_checksums(copy)
    found = [f for f in errors_in(copy) if f.rule == "runs-distinct"]
    assert [Path(f.file).name for f in found] == ["result_1.txt"]


def test_one_run_that_missed_the_target_is_a_warning_and_two_are_errors(runs, tmp_path):
    missed = [1290 - n for n in range(10)]
    changes = {"code": record.read_record(runs[0]).code, "lock_sha256": record.read_record(runs[0]).lock_sha256}
    machine = FakeMachine("two-gpus", gpus=2)
    failed = []
    for number in range(2):
        run = FakeRun(seed=number, start_s=1_770_000_000.0 + 3600 * number, word_edits=tuple(missed))
        run.train_s += number
        failed.append(write_run(tmp_path / f"failed-{number}", run, machine, **changes))
    one = build_package([*runs[:9], failed[0]], ORG, "a-system", tmp_path / "one")
    assert errors_in(one) == []
    assert ("run-status", "warning") in {(f.rule, f.severity) for f in findings_in(one)}
    two = build_package([*runs[:8], *failed], ORG, "a-system", tmp_path / "two")
    assert {f.rule for f in errors_in(two)} == {"run-status", "runs-aborted"}


def test_logs_in_the_folder_of_another_benchmark_are_refused(copy):
    (copy / "results" / "a-system" / DS2).rename(copy / "results" / "a-system" / "dlrm")
    update_checksums(copy)
    assert {"package-agreement", "package-code"} <= {finding.rule for finding in errors_in(copy)}


@pytest.mark.parametrize("name", ["foo", "rnnt", "DeepSpeech2"])
def test_a_log_of_another_benchmark_in_a_package_is_one_finding(name, copy):
    edit_log(copy / RESULT, change("submission_benchmark", value=name))
    update_checksums(copy)
    found = [(finding.rule, Path(finding.file).name) for finding in errors_in(copy)]
    assert found == [("benchmark-known", "result_3.txt"), ("runs-count", DS2)]


def test_a_package_of_an_unknown_benchmark_has_one_finding_for_each_log(copy):
    for path in (copy / RESULTS).glob("result_*.txt"):
        edit_log(path, change("submission_benchmark", value="foo"))
    for path in (copy / RESULTS).glob("*.*"):
        if not path.name.startswith("result_"):
            path.unlink()
    (copy / RESULTS).rename(copy / "results" / "a-system" / "foo")
    assert [finding.rule for finding in errors_in(copy)] == ["benchmark-known"] * 10


def test_an_empty_log_is_not_compared_with_its_record(copy):
    (copy / RESULT).write_text("")
    update_checksums(copy)
    assert {finding.rule for finding in errors_in(copy)} == {"log-events", "runs-count", "integrity-files"}
    assert len(errors_in(copy)) == 3


def test_a_run_folder_is_checked_with_its_record(runs, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "run")
    assert [f for v in check_paths([run]) for f in v.findings if f.severity == ERROR] == []
    (run / "telemetry.csv").write_text("x")
    found = [f for v in check_paths([run]) for f in v.findings if f.severity == ERROR]
    assert [(f.rule, Path(f.file).name) for f in found] == [("integrity-files", "telemetry.csv")]
    (run / "record.json").unlink()
    found = [f for v in check_paths([run]) for f in v.findings if f.severity == ERROR]
    assert [(f.rule, Path(f.file).name) for f in found] == [("integrity-record", "record.json")]


def test_runs_next_to_a_package_are_checked_too(package, runs, tmp_path):
    shutil.copytree(package, tmp_path / ORG)
    run = shutil.copytree(runs[0], tmp_path / "runs" / "one")
    assert [f for v in check_paths([tmp_path]) for f in v.findings if f.severity == ERROR] == []
    (run / "params.yaml").write_text("x")
    found = [f for v in check_paths([tmp_path]) for f in v.findings if f.severity == ERROR]
    assert [(f.rule, f.file) for f in found] == [("integrity-files", str(run / "params.yaml"))]


def test_a_folder_of_runs_is_one_result(runs):
    verdicts = check_paths([runs[0].parent])
    assert [v.kind for v in verdicts].count("runs") == 1
    assert [f for v in verdicts for f in v.findings if f.severity == ERROR] == []


def test_a_logs_device_decides_whether_accelerators_are_compared(copy):
    edit_json(copy / "systems" / "a-system.json", lambda t: t.update(accelerators_per_node="0"))
    for path in (copy / RESULTS).glob("result_*.txt"):
        lines = path.read_text().splitlines()
        place = next(n for n, line in enumerate(lines) if '"key": "accelerators"' in line)
        fields = fields_of(lines[place])
        fields["value"] = [item | {"device": "cpu"} for item in fields["value"]]
        path.write_bytes(written([*lines[:place], line_of(fields), *lines[place + 1 :]]))
    assert "package-agreement" not in {finding.rule for finding in errors_in(copy)}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A minimal submitter's folder with a description and one log, and the description's path."""
    org = tmp_path_factory.mktemp("described") / ORG
    for folder in ("systems", f"results/a-system/{DS2}", "benchmarks"):
        (org / folder).mkdir(parents=True)
    (org / "results" / "a-system" / DS2 / "result_0.txt").write_bytes(written(VALID_LOG))
    return org, org / "systems" / "a-system.json"


@settings(max_examples=40, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(sorted(FIELDS)), ANYTHING, max_size=8),
    place=st.integers(0, 900),
    junk=st.binary(max_size=9),
    cut=st.integers(0, 9),
)
@example(changes=dict.fromkeys(("number_of_nodes", "accelerators_per_node"), "²"), place=0, junk=b"", cut=0)
def test_any_system_description_gives_findings_and_a_table(described, changes, place, junk, cut):
    org, path = described
    data = json.dumps(dict.fromkeys(FIELDS, "1") | changes).encode()
    path.write_bytes(data[:place] + junk + data[place + cut :])
    assert all(finding.expected and finding.remedy for finding in findings_in(org))
    comparison = compare_runs(read_run(source) for source in find_sources([org]))
    shown = render_text(comparison, 80)
    assert "\x1b" not in shown and len(comparison.groups) == 1
