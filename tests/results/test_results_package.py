"""The submission package: its tree, its seals, what it refuses, and that it is the same twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import pytest
from mlperf_logging.system_desc_checker.system_desc_checker import check_system_desc

from benchmark.machine import system
from benchmark.params import load_params
from benchmark.record import CodeVersion, read_record, write_record
from common.errors import UserError
from compliance.check import check_paths
from results import package, score
from results.compare import load_runs
from results.comparing.comparison import compare_runs
from results.packaging import source_code
from results.packaging.system_description import read_description
from tests.conftest import ROOT
from tests.support.logs import FakeRun
from tests.support.run_folders import FakeMachine, write_run, write_series

ROOM = "results/box/deepspeech2"


@pytest.fixture(scope="module")
def code():
    """The checkout's own commit, as records have it."""
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no git checkout")
    return CodeVersion(commit=done.stdout.strip(), clean=True)


def renew(run, **changes):
    """Change fields of a run's record."""
    write_record(dataclasses.replace(read_record(run), **changes), run)


@pytest.fixture
def runs(tmp_path, code):
    show = ["git", "-C", ROOT, "show", f"{code.commit}:requirements.lock"]
    lock = hashlib.sha256(subprocess.run(show, capture_output=True, check=True).stdout).hexdigest()
    made = write_series(tmp_path / "runs", 10)
    for run in made:
        renew(run, code=code, lock_sha256=lock)
    return made


def build(runs, out, *more, org="Example", name="box"):
    return package.main([*map(str, runs), "--org", org, "--system", name, "--out", str(out), *more])


def snapshot(folder):
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder):
    return {name: content for name, (content, _) in snapshot(folder).items()}


def trained_by(module):
    return ("python", "-m", module, "--params", "params.yaml")


def test_a_trainer_of_ones_own_is_part_of_the_package(runs, tmp_path, capsys):
    for run in runs:
        renew(run, command=trained_by("examples.plain_trainer"))
    assert build(runs, tmp_path / "out") == 0
    org = tmp_path / "out" / "Example"
    script = (org / "benchmarks" / "deepspeech2" / "box" / "run_and_time.sh").read_text()
    assert '--params "$here/params.yaml" --trainer-module examples.plain_trainer "$@"' in script

    def faults():
        return [
            finding for verdict in check_paths([org]) for finding in verdict.findings if finding.rule == "package-code"
        ]

    assert faults() == []
    (org / "benchmarks/deepspeech2/implementations/reference/examples/plain_trainer.py").unlink()
    (fault,) = faults()
    assert fault.expected == "the trainer that ran, examples/plain_trainer.py"


def test_runs_of_several_trainers_or_of_one_that_is_not_here_are_refused(runs, tmp_path):
    renew(runs[3], command=trained_by("examples.plain_trainer"))
    with pytest.raises(UserError, match="another trainer than in"):
        build(runs, tmp_path / "out")
    for run in runs:
        renew(run, command=trained_by("mine.train"))
    with pytest.raises(UserError, match=r"the trainer mine\.train is not in the code that ran"):
        build(runs, tmp_path / "out")


def test_the_tree_is_that_of_a_submission(runs, tmp_path, capsys):
    assert build(runs, tmp_path / "out") == 0
    org = tmp_path / "out" / "Example"
    found = set(contents(org))
    for number, run in enumerate(runs):
        assert (org / ROOM / f"result_{number}.txt").read_bytes() == (run / "result.txt").read_bytes()
        assert (org / ROOM / f"record_{number}.json").read_bytes() == (run / "record.json").read_bytes()
    implementation = "benchmarks/deepspeech2/implementations/reference"
    assert {f"{implementation}/benchmark/mllog.py", f"{implementation}/requirements.lock"} <= found
    assert load_params(org / "benchmarks/deepspeech2/box/params.yaml").sha256 == FakeRun().params.sha256
    readme = (org / "benchmarks/deepspeech2/box/README.md").read_text()
    assert "olympic mean of 10 runs" in readme and "not verified by MLCommons" in readme
    script = org / "benchmarks/deepspeech2/box/run_and_time.sh"
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    sums = dict(reversed(line.split("  ", 1)) for line in (org / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == found - {"SHA256SUMS"}
    for name, sha256 in sums.items():
        assert hashlib.sha256((org / name).read_bytes()).hexdigest() == sha256


def test_the_description_passes_mlperfs_checker_and_says_what_is_missing(runs, tmp_path, capsys):
    build(runs, tmp_path / "out")
    err = capsys.readouterr().err
    assert "cooling" in err and "--describe" in err
    file = tmp_path / "out" / "Example" / "systems" / "box.json"
    for ruleset in ("4.1.0", "5.1.0"):
        assert check_system_desc(str(file), "training", ruleset)[0]
    fields = json.loads(file.read_text())
    assert list(fields) == list(system.FIELDS) and fields["submitter"] == "Example" and fields["system_name"] == "box"
    assert fields["accelerators_per_node"] == "0" and fields["status"] == "Available on-premise"
    (tmp_path / "more.yaml").write_text("cooling: liquid\nhost_networking: none\nhost_processors_per_node: 2\n")
    build(runs, tmp_path / "out", "--describe", str(tmp_path / "more.yaml"))
    fields = json.loads(file.read_text())
    assert (fields["cooling"], fields["host_processors_per_node"]) == ("liquid", "2")
    assert "are empty" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("coolness: x", "no field"),
        ("submitter: Me", "what the runs say"),
        ("number_of_nodes: 4", "what the runs say"),
        ("- a", "expected"),
        ("cooling: [1]", "must be text"),
        ("{", "not a YAML file"),
        ("a: 2020-99-99", "no field"),
    ],
)
def test_a_bad_description_is_refused(runs, tmp_path, text, told):
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(UserError, match=told):
        build(runs, tmp_path / "out", "--describe", str(tmp_path / "d.yaml"))
    assert not (tmp_path / "out").exists()


# What YAML 1.1 makes numbers, dates, truth values or nothing of, and other text that a person may write without quotes.
AWKWARD = [
    "2.10", "24.10", "010", "0o17", "0x10", "0b11", "1_000", "1e3", "1e-3", "1.5E+3", ".5", "5.", "-0", "+1", "12:30",
    "190:20:30", "12:30:45.5", "no", "No", "off", "y", "yes", "on", "True", "false", ".inf", "-.INF", ".nan", "nan", "NA",
    "N/A", "None", "nil", "2026-11-27", "2001-12-14t21:59:43.10-05:00", "=", "<<", "~/x", "1,5", "0.10.0", "3 %", "C:\\new",
    "it's", "a#b", "-x", "?x", ":x", "x [y] {z}", "e\u0301 \u00a0 日本 \U0001f600",
]  # fmt: skip


def test_a_description_arrives_as_it_was_written(runs, tmp_path):
    decided = ("submitter", "division", "status", "number_of_nodes", "accelerators_per_node", "other_software_stack")
    free = [name for name in system.FIELDS if name not in decided]
    for start in range(0, len(AWKWARD), len(free)):
        given = dict(zip(free, AWKWARD[start:], strict=False))
        stack = {text: text for text in AWKWARD if text != "<<"}
        lines = [f"{name}: {text}\n" for name, text in given.items()] + ["other_software_stack:\n"]
        (tmp_path / "d.yaml").write_text("".join(lines + [f"  {n}: {t}\n" for n, t in stack.items()]), encoding="utf-8")
        build(runs, tmp_path / "out", "--describe", str(tmp_path / "d.yaml"))
        written = json.loads((tmp_path / "out" / "Example" / "systems" / "box.json").read_text(encoding="utf-8"))
        assert {name: written[name] for name in given} == given
        assert written["other_software_stack"] == stack


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cooling: '010'", "010"),
        ('cooling: "no"', "no"),
        ("cooling: 'null'", "null"),
        ('cooling: "~"', "~"),
        ('cooling: ""', ""),
        ("'cooling': 2.10  # measured", "2.10"),
        ("cooling: |\n  2.10\n  no", "2.10\nno"),
        ("cooling: >-\n  2.10\n  no", "2.10 no"),
        ("cooling:\n  2.10", "2.10"),
        ("\ufeffcooling: no\r\n", "no"),
        ("--- # about\ncooling: 1_000\n...", "1_000"),
        ('{"cooling": 2.10}', "2.10"),
        ('{"cooling": 1e3, "hw_notes": "x"}', "1e3"),
        ('{"cooling":false}', "false"),
        ('{"cooling": "\\u00e9 \\ud83d\\ude00"}', "é \U0001f600"),
    ],
)
def test_a_text_in_any_of_yamls_forms_is_that_text(tmp_path, text, expected):
    (tmp_path / "d.yaml").write_bytes(text.encode())
    assert read_description(tmp_path / "d.yaml")["cooling"] == expected


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("hw_notes: x\ncooling:", 2, "cooling has no text"),
        ("cooling: ~", 1, "in quotes"),
        ("cooling: null", 1, "in quotes"),
        ("cooling: #1 fan", 1, "begins with #"),
        ('{"hw_notes": "x",\n"cooling": null}', 2, "no text"),
        ("cooling:\n- air\n- water", 1, "`cooling: one, two`"),
        ("cooling: {a: b}", 1, "must be text"),
        ("cooling: a\nhw_notes: b\ncooling: c", 3, "'cooling' occurs twice"),
        ("cooling: a\n'cooling': c", 2, "occurs twice"),
        ("other_software_stack:\n  a: 1\n  a: 2", 3, "occurs twice"),
        ("other_software_stack:\n  a: 1\n  b:", 3, "b has no text"),
        ("other_software_stack:\n  a: [1]", 2, "a must be text"),
        ("cooling: !!int 010", 1, "tags"),
        ("cooling: !important x", 1, "tags"),
        ("cooling: ! x", 1, "tags"),
        ("cooling: &co x", 1, "anchors"),
        ("cooling: &a x\nhw_notes: *a", 1, "anchors"),
        ("hw_notes: *a", 1, "aliases"),
        ("<<: {cooling: x}", 1, "'<<' is no field"),
        ("cooling: a: b", 1, "in quotes"),
        ("? [cooling]\n: x", 1, "key must be text"),
        ('cooling: "\\ud83d"', 1, "half a character"),
        ("cooling: \x00", None, "not a YAML file"),
        ("", None, "expected"),
        (b"cooling: k\xfchl", None, "UTF-8"),
        ("cooling: x".encode("utf-16"), None, "UTF-8"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path, text, line, told):
    path = tmp_path / "d.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        read_description(path)
    assert caught.value.where == (f"{path}:{line}" if line else str(path))
    assert told in str(caught.value)


def test_the_same_runs_give_the_same_bytes_whatever_their_order(runs, tmp_path, capsys):
    inputs = snapshot(tmp_path / "runs")
    build(runs, tmp_path / "one")
    build(list(reversed(runs)), tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    before = snapshot(tmp_path / "one")
    build(runs, tmp_path / "one")
    assert snapshot(tmp_path / "one") == before and "unchanged" in capsys.readouterr().err
    assert snapshot(tmp_path / "runs") == inputs


def test_the_package_is_compliant_until_a_file_is_taken_away(runs, tmp_path):
    # What was altered on its way would be a compliant description of another machine.
    (tmp_path / "d.yaml").write_text("framework: 2.10\nhw_notes: 12:30\ncooling: no\nhost_memory_configuration: 010\n")
    build(runs, tmp_path / "out", "--describe", str(tmp_path / "d.yaml"))
    described = json.loads((tmp_path / "out" / "Example" / "systems" / "box.json").read_text())
    names = ("framework", "hw_notes", "cooling", "host_memory_configuration")
    assert [described[name] for name in names] == ["2.10", "12:30", "no", "010"]

    def check():
        command = [sys.executable, "-m", "compliance", str(tmp_path / "out")]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = check()
    assert done.returncode == 0, done.stdout
    (tmp_path / "out" / "Example" / ROOM / "telemetry_4.csv").unlink()
    done = check()
    assert done.returncode == 1 and "telemetry_4.csv" in done.stdout


def test_a_smaller_package_leaves_no_old_result_behind(runs, tmp_path, capsys):
    build(runs, tmp_path / "out")
    build(runs[:3], tmp_path / "out")
    assert "3 runs; a submission has exactly 10" in capsys.readouterr().err
    build(runs[:3], tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_other_systems_of_the_submitter_stay(runs, code, tmp_path):
    build(runs, tmp_path / "out")
    more = write_series(tmp_path / "more", 2, FakeMachine("gpu-box", gpus=2))
    for run in more:
        renew(run, code=code)
    build(more, tmp_path / "out", name="gpu box")
    org = tmp_path / "out" / "Example"
    assert (org / ROOM / "result_9.txt").is_file() and (org / "results/gpu box/deepspeech2/result_1.txt").is_file()
    fields = json.loads((org / "systems" / "gpu box.json").read_text())
    assert (fields["accelerators_per_node"], fields["accelerator_model_name"]) == ("2", "NVIDIA H200")
    sums = (org / "SHA256SUMS").read_text()
    assert f"{ROOM}/result_9.txt" in sums and "gpu box/deepspeech2/record_1.json" in sums


def other(run, tmp_path, **changes):
    """A copy of a run made in other circumstances."""
    fake = FakeRun(seed=77, start_s=1_770_000_000.0, **changes)
    made = write_run(tmp_path / "other", fake)
    renew(made, code=read_record(run).code, lock_sha256=read_record(run).lock_sha256)
    return made


def _params(**train):
    params = FakeRun().params
    return dataclasses.replace(params, train=dataclasses.replace(params.train, **train))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"params": _params(max_epochs=9)}, "another parameters"),
        ({"params": dataclasses.replace(_params(), variant="other")}, "another variant"),
        ({"tree_sha256": "e" * 64}, "another data set"),
        ({"org": "Somebody"}, "another submission_org"),
    ],
)
def test_runs_of_another_kind_are_refused(runs, tmp_path, changes, told):
    with pytest.raises(UserError, match=told):
        build([*runs[:2], other(runs[0], tmp_path, **changes)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"code": CodeVersion(commit="f" * 40, clean=True)}, "another code"),
        ({"lock_sha256": "a" * 64}, "another lock file"),
        ({"software": {"torch": "2.12.0"}}, "another software"),
        ({"system": {"host_processor_model_name": "Other CPU"}}, "another system"),
        ({"status": "interrupted"}, "is interrupted"),
        ({"status": "unfinished"}, "is unfinished"),
        ({"code": CodeVersion(commit=None, clean=None)}, "another code|no git checkout"),
    ],
)
def test_records_that_do_not_fit_are_refused(runs, tmp_path, changes, told):
    renew(runs[4], **changes)
    with pytest.raises(UserError, match=told):
        build(runs, tmp_path / "out")


def test_a_seed_or_a_log_used_twice_is_refused(runs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(runs[0], copy)
    with pytest.raises(UserError, match=r"seed 1000 .* again"):
        build([*runs, copy], tmp_path / "out")


def test_an_edited_or_missing_file_is_refused(runs, tmp_path):
    log = runs[2] / "result.txt"
    log.write_text(log.read_text().replace('"seed"', '"seed" '))
    with pytest.raises(UserError, match="changed after the run"):
        build(runs, tmp_path / "out")
    (runs[1] / "telemetry.csv").unlink()
    with pytest.raises(UserError, match="gone"):
        build(runs[:2], tmp_path / "out")


def test_uncommitted_changes_are_refused_unless_allowed(runs, code, tmp_path):
    for run in runs:
        renew(run, code=dataclasses.replace(code, clean=False))
    with pytest.raises(UserError, match=r"uncommitted changes.*--allow-dirty"):
        build(runs, tmp_path / "out")
    assert build(runs, tmp_path / "out", "--allow-dirty") == 0
    readme = tmp_path / "out" / "Example" / "benchmarks/deepspeech2/box/README.md"
    assert "with uncommitted changes" in readme.read_text()


def test_a_commit_that_is_not_here_is_told(runs, tmp_path):
    for run in runs:
        renew(run, code=CodeVersion(commit="f" * 40, clean=True))
    with pytest.raises(UserError, match="commit"):
        build(runs, tmp_path / "out")


def test_the_wrong_submitter_and_odd_names_are_refused(runs, tmp_path):
    with pytest.raises(UserError, match="SUBMISSION_ORG"):
        build(runs, tmp_path / "out", org="Somebody")
    for name in ("../up", "a/b", "", ".", "-x", "a\nb", "."):
        with pytest.raises(UserError, match="folder's name"):
            package.main([str(runs[0]), "--org=Example", f"--system={name}", "--out", str(tmp_path / "out")])


def test_nothing_is_written_into_runs_or_over_what_is_no_package(runs, tmp_path):
    with pytest.raises(UserError, match="may not lie in a run"):
        build(runs, runs[0])
    (tmp_path / "out" / "Example").mkdir(parents=True)
    (tmp_path / "out" / "Example" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no package"):
        build(runs, tmp_path / "out")
    assert (tmp_path / "out" / "Example" / "thesis.txt").read_text() == "years of work"


def test_a_packaged_log_that_was_cut_short_is_a_failed_run_of_its_system(runs, tmp_path):
    build(runs, tmp_path / "out")
    log = tmp_path / "out" / "Example" / ROOM / "result_0.txt"
    log.write_bytes(log.read_bytes()[:300])
    (row,) = compare_runs(load_runs([tmp_path / "out"])).rows
    assert (row.converged, row.runs, row.score.kind, row.accelerators) == (9, 10, "olympic", 0)


def test_published_logs_are_no_run_folders(runs, tmp_path):
    build(runs, tmp_path / "out")
    with pytest.raises(UserError, match="not a run folder"):
        build([tmp_path / "out"], tmp_path / "again")


def test_the_code_is_that_of_the_commit_not_of_the_folder(tmp_path):
    def git(*arguments):
        command = ["git", "-C", tmp_path, "-c", "user.name=t", "-c", "user.email=t@invalid", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "model.py").write_text("first = 1\n")
    for folder in ("results/published", "tests/data"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "result_0.txt").write_text("others' own")
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "model.py").write_text("second = 2\n")
    (tmp_path / "new.py").write_text("new = 3\n")
    then = source_code.code_files(tmp_path, CodeVersion(commit=commit, clean=True), allow_dirty=True)
    assert then == {"model.py": (b"first = 1\n", False), "run.sh": (b"#!/bin/sh\n", True)}
    now = source_code.code_files(tmp_path, CodeVersion(commit=commit, clean=False), allow_dirty=True)
    assert now["model.py"] == (b"second = 2\n", False) and "new.py" in now and len(now) == 3


def test_the_score_of_a_series_is_one_line(runs, tmp_path, capsys):
    assert score.main([str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert "score of Example / a-machine: 0.7" in out and "olympic mean of 10 runs" in out
    assert "not verified by MLCommons" in out
    write_series(tmp_path / "runs" / "missed", 2, word_edits=(1290, 1200), seed_offset=500)
    assert score.main([str(tmp_path / "runs" / "missed")]) == 1
    write_series(tmp_path / "runs" / "other", 1, tree_sha256="e" * 64)
    assert score.main([str(tmp_path / "runs")]) == 2
