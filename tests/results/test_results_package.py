"""The submission package: its tree, its checksums, what it refuses, and that the same runs give the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess

import pytest
from mlperf_logging.system_desc_checker.system_desc_checker import check_system_desc

from benchmark.machine import system
from benchmark.params import load_params
from benchmark.record import TIMING_VARIABLES, CodeVersion, hash_files, read_record, write_record
from common.errors import UserError
from compliance.__main__ import main as check_compliance
from compliance.check import check_paths
from results import package, score
from results.compare import load_runs
from results.comparing.comparison import compare_runs
from results.packaging import source_code
from tests.conftest import ROOT
from tests.results.test_description_file import AWKWARD
from tests.support.logs import FakeRun, at, fields_of, line_of, written
from tests.support.run_folders import FakeMachine, small_checkout, write_run, write_series

RESULTS = "results/box/deepspeech2"


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """The commit of a small checkout, from which the packages take their code."""
    checkout = tmp_path_factory.mktemp("checkout")
    committed = small_checkout(checkout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "ROOT", checkout)
        yield committed


def renew(run, /, **changes):
    """Change fields of a run's record."""
    write_record(dataclasses.replace(read_record(run), **changes), run)


@pytest.fixture(scope="module")
def series(tmp_path_factory, code):
    lock = hashlib.sha256((package.ROOT / "requirements.lock").read_bytes()).hexdigest()
    folder = tmp_path_factory.mktemp("series")
    for run in write_series(folder, 10):
        renew(run, code=code, lock_sha256=lock)
    return folder


@pytest.fixture
def runs(tmp_path, series):
    return sorted(shutil.copytree(series, tmp_path / "runs").iterdir())


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


def test_a_custom_trainer_is_part_of_the_package(runs, tmp_path, capsys):
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


STUB = """#!/bin/sh
{
    for name in DEVICE NPROC NNODES OMP_NUM_THREADS PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF DROP_CACHES; do
        # Only what is exported reaches the harness.
        if printenv "$name" >/dev/null; then printf '%s=%s\\0' "$name" "$(printenv "$name"; echo .)"; fi
    done
    printf '%s\\0' "$@"
} >"$OUT"
"""
"""Stands in for the main script of the packaged code and writes the variables and arguments that it was started with."""
SHELLS = [name for name in ("sh", "dash", "bash", "busybox", "ksh", "zsh") if shutil.which(name)]


def facts(run, /, **changes):
    """Change the facts of a run in its record."""
    renew(run, run=dataclasses.replace(read_record(run).run, **changes))


def packaged_script(out):
    """The package's script that makes a run like the packaged ones; the code that it calls is replaced by STUB."""
    benchmark = out / "Example/benchmarks/deepspeech2"
    (benchmark / "implementations/reference/run_and_time.sh").write_text(STUB)
    return benchmark / "box/run_and_time.sh"


def started_with(script, folder, shell="sh", **environment):
    """The variables and the arguments with which the packaged script starts the benchmark."""
    folder.mkdir()
    line = ["busybox", "sh"] if shell == "busybox" else [shell]
    kept = {"PATH": os.environ["PATH"], "OUT": str(folder / "started"), "HOME": "/home/someone"}
    done = subprocess.run([*line, script, "--seed", "1 2"], env=kept | environment, cwd=folder, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert [path.name for path in folder.iterdir()] == ["started"], "nothing else was executed"
    parts = (folder / "started").read_text().split("\0")[:-1]
    variables = dict(part.removesuffix("\n.").split("=", 1) for part in parts if part.endswith("\n."))
    return variables, [part for part in parts if not part.endswith("\n.")]


def test_the_packaged_script_sets_what_was_set_for_the_runs_and_nothing_else(runs, tmp_path):
    for run in runs:
        tree = json.loads((run / "record.json").read_text())
        for name in SETTINGS:  # as in older records
            del tree["run"][name]
        (run / "record.json").write_text(json.dumps(tree))
    build(runs, tmp_path / "plain")
    script = packaged_script(tmp_path / "plain")
    assert "OMP_NUM_THREADS" not in script.read_text()
    always = {"DEVICE": "cpu", "NPROC": "1", "NNODES": "1"}
    found, arguments = started_with(script, tmp_path / "a")
    assert found == always
    assert arguments == ["--params", str(script.parent / "params.yaml"), "--seed", "1 2"]
    own = {"OMP_NUM_THREADS": "5", "DROP_CACHES": "1"}
    assert started_with(script, tmp_path / "b", **own)[0] == always | own, "the caller's own is passed on"

    values = {"OMP_NUM_THREADS": "8", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:64"}
    for run in runs:
        facts(run, **{name.lower(): value for name, value in values.items()}, threads=8, drop_caches=False)
    build(runs, tmp_path / "set")
    script = packaged_script(tmp_path / "set")
    assert started_with(script, tmp_path / "c")[0] == always | values | {"DROP_CACHES": "0"}
    own = {"OMP_NUM_THREADS": "5", "DROP_CACHES": "1", "DEVICE": "auto"}
    assert started_with(script, tmp_path / "d", **own)[0] == always | values | own, "the caller's own takes precedence"

    for run in runs:
        facts(run, drop_caches=True, omp_num_threads="")
    build(runs, tmp_path / "dropped")
    found, _ = started_with(packaged_script(tmp_path / "dropped"), tmp_path / "e")
    assert "DROP_CACHES" not in found, "the default"
    assert found["OMP_NUM_THREADS"] == "", "set and empty is not unset: PyTorch then decides"


@pytest.mark.parametrize(
    "text",
    [
        "$(touch pwned)",
        "`touch pwned`",
        "1; touch pwned",
        "1'; touch pwned; '",
        '1"; touch pwned; "',
        "}; touch pwned; {",
        "}'; touch pwned #",
        "1\ntouch pwned\n",
        "$HOME ~ * ${OUT} %s \\ \\n é {device} {{}}",
        "\\'; touch pwned",
        "&& touch pwned",
    ],
)
def test_no_text_of_a_record_is_executed_by_the_packaged_script(runs, tmp_path, text):
    run = runs[0]
    facts(run, device=text, omp_num_threads=text, pytorch_alloc_conf=text, pytorch_cuda_alloc_conf=text)
    build([run], tmp_path / "out")
    script = packaged_script(tmp_path / "out")
    for shell in SHELLS:
        found, _ = started_with(script, tmp_path / shell, shell)
        for name in ("DEVICE", "OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
            assert found[name] == text, shell


def test_the_readme_of_runs_that_read_packed_audio_says_how_to_pack_it(runs, tmp_path):
    readme = "Example/benchmarks/deepspeech2/box/README.md"
    build(runs, tmp_path / "files")
    assert "pack" not in (tmp_path / "files" / readme).read_text().partition("To make a run")[0]
    packed = [packed_copy(run, tmp_path / "packed" / run.name) for run in runs]
    build(packed, tmp_path / "out")
    assert "`python -m datasets pack DATASET`" in (tmp_path / "out" / readme).read_text()
    with pytest.raises(UserError, match="not the same input format as"):
        build([runs[0], *packed[1:]], tmp_path / "mixed")


def packed_copy(run, folder):
    """A copy of a run whose log says that it read packed audio."""
    shutil.copytree(run, folder)
    lines = (run / "result.txt").read_text().splitlines()
    fields = fields_of(lines[at(lines, "accelerators")]) | {"key": "input_format", "value": "packed"}
    place = at(lines, "init_stop")
    (folder / "result.txt").write_bytes(written([*lines[:place], line_of(fields), *lines[place:]]))
    renew(folder, files=hash_files(folder))
    return folder


def test_runs_of_several_trainers_or_of_a_missing_one_are_refused(runs, tmp_path):
    renew(runs[3], command=trained_by("examples.plain_trainer"))
    with pytest.raises(UserError, match="not the same trainer as in"):
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
        assert (org / RESULTS / f"result_{number}.txt").read_bytes() == (run / "result.txt").read_bytes()
        assert (org / RESULTS / f"record_{number}.json").read_bytes() == (run / "record.json").read_bytes()
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


def test_a_package_of_this_checkout_has_its_code(series, tmp_path, monkeypatch):
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no git checkout")
    monkeypatch.setattr(package, "ROOT", ROOT)
    run = shutil.copytree(next(series.iterdir()), tmp_path / "run")
    renew(run, code=CodeVersion(commit=done.stdout.strip(), clean=True))
    assert build([run], tmp_path / "out") == 0
    found = set(contents(tmp_path / "out" / "Example" / "benchmarks/deepspeech2/implementations/reference"))
    assert {"benchmark/mllog.py", "requirements.lock", "run_and_time.sh", "tests/conftest.py"} <= found
    assert not [name for name in found if name.startswith(("results/published/", "tests/data/"))]


def test_the_description_passes_mlperfs_checker_and_missing_fields_are_reported(runs, tmp_path, capsys):
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
    ("text", "message"),
    [
        ("coolness: x", "not a field"),
        ("submitter: Me", "determined by the runs"),
        ("number_of_nodes: 4", "determined by the runs"),
        ("- a", "expected"),
        ("cooling: [1]", "must be text"),
        ("{", "not a YAML file"),
        ("a: 2020-99-99", "not a field"),
    ],
)
def test_an_invalid_description_is_refused(runs, tmp_path, text, message):
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        build(runs, tmp_path / "out", "--describe", str(tmp_path / "d.yaml"))
    assert not (tmp_path / "out").exists()


def test_the_texts_of_a_description_are_kept_as_written(runs, tmp_path):
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


def test_the_same_runs_give_the_same_bytes_whatever_their_order(runs, tmp_path, capsys):
    inputs = snapshot(tmp_path / "runs")
    build(runs, tmp_path / "one")
    build(list(reversed(runs)), tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    before = snapshot(tmp_path / "one")
    build(runs, tmp_path / "one")
    assert snapshot(tmp_path / "one") == before and "unchanged" in capsys.readouterr().err
    assert snapshot(tmp_path / "runs") == inputs


def test_the_package_is_compliant_until_a_file_is_removed(runs, tmp_path, capsys):
    # An altered text would still be a compliant description, but of another machine.
    (tmp_path / "d.yaml").write_text("framework: 2.10\nhw_notes: 12:30\ncooling: no\nhost_memory_configuration: 010\n")
    build(runs, tmp_path / "out", "--describe", str(tmp_path / "d.yaml"))
    described = json.loads((tmp_path / "out" / "Example" / "systems" / "box.json").read_text())
    names = ("framework", "hw_notes", "cooling", "host_memory_configuration")
    assert [described[name] for name in names] == ["2.10", "12:30", "no", "010"]

    assert check_compliance([str(tmp_path / "out")]) == 0, capsys.readouterr().out
    (tmp_path / "out" / "Example" / RESULTS / "telemetry_4.csv").unlink()
    assert check_compliance([str(tmp_path / "out")]) == 1 and "telemetry_4.csv" in capsys.readouterr().out


def test_a_smaller_package_keeps_no_old_results(runs, tmp_path, capsys):
    build(runs, tmp_path / "out")
    build(runs[:3], tmp_path / "out")
    assert "3 runs; a submission has exactly 10" in capsys.readouterr().err
    build(runs[:3], tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_other_systems_of_the_submitter_are_kept(runs, code, tmp_path):
    build(runs, tmp_path / "out")
    more = write_series(tmp_path / "more", 2, FakeMachine("gpu-box", gpus=2))
    for run in more:
        renew(run, code=code)
    build(more, tmp_path / "out", name="gpu box")
    org = tmp_path / "out" / "Example"
    assert (org / RESULTS / "result_9.txt").is_file() and (org / "results/gpu box/deepspeech2/result_1.txt").is_file()
    fields = json.loads((org / "systems" / "gpu box.json").read_text())
    assert (fields["accelerators_per_node"], fields["accelerator_model_name"]) == ("2", "NVIDIA H200")
    sums = (org / "SHA256SUMS").read_text()
    assert f"{RESULTS}/result_9.txt" in sums and "gpu box/deepspeech2/record_1.json" in sums


def other(run, tmp_path, **changes):
    """A run of another kind, with the same code and environment."""
    fake = FakeRun(seed=77, start_s=1_770_000_000.0, **changes)
    made = write_run(tmp_path / "other", fake)
    renew(made, code=read_record(run).code, lock_sha256=read_record(run).lock_sha256)
    return made


def _params(**train):
    params = FakeRun().params
    return dataclasses.replace(params, train=dataclasses.replace(params.train, **train))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": _params(max_epochs=9)}, "not the same parameters as"),
        ({"params": dataclasses.replace(_params(), variant="other")}, "not the same variant as"),
        ({"tree_sha256": "e" * 64}, "not the same dataset as"),
        ({"org": "Somebody"}, "not the same submission_org as"),
    ],
)
def test_runs_of_another_kind_are_refused(runs, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        build([*runs[:2], other(runs[0], tmp_path, **changes)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code": CodeVersion(commit="f" * 40, clean=True)}, "not the same code as"),
        ({"lock_sha256": "a" * 64}, "not the same lock file as"),
        ({"software": {"torch": "2.12.0"}}, "not the same software as"),
        ({"system": {"host_processor_model_name": "Other CPU"}}, "not the same system as"),
        ({"status": "interrupted"}, "is interrupted"),
        ({"status": "unfinished"}, "is unfinished"),
        ({"code": CodeVersion(commit=None, clean=None)}, "not the same code as|not a git checkout"),
    ],
)
def test_records_that_do_not_match_are_refused(runs, tmp_path, changes, message):
    renew(runs[4], **changes)
    with pytest.raises(UserError, match=message):
        build(runs, tmp_path / "out")


SETTINGS = {name.lower(): ("8", f"not the same {name} as") for name in TIMING_VARIABLES} | {
    "threads": (8, "not the same number of CPU threads as"),
    "drop_caches": (False, "not the same DROP_CACHES as"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_runs_of_other_settings_are_refused(runs, tmp_path, name):
    value, message = SETTINGS[name]
    facts(runs[4], **{name: value})
    with pytest.raises(UserError, match=rf"{message} in .*\({value}, not None\).*package only runs of one kind"):
        build(runs, tmp_path / "out")
    for run in runs:
        facts(run, **{name: value})
    assert build(runs, tmp_path / "out") == 0


def test_a_seed_or_a_log_used_twice_is_refused(runs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(runs[0], copy)
    with pytest.raises(UserError, match=r"seed 1000 is also that of"):
        build([*runs, copy], tmp_path / "out")


def test_an_edited_or_missing_file_is_refused(runs, tmp_path):
    log = runs[2] / "result.txt"
    log.write_text(log.read_text().replace('"seed"', '"seed" '))
    with pytest.raises(UserError, match="changed after the run"):
        build(runs, tmp_path / "out")
    (runs[1] / "telemetry.csv").unlink()
    with pytest.raises(UserError, match="missing"):
        build(runs[:2], tmp_path / "out")


def test_uncommitted_changes_are_refused_unless_allowed(runs, code, tmp_path):
    for run in runs:
        renew(run, code=dataclasses.replace(code, clean=False))
    with pytest.raises(UserError, match=r"uncommitted changes.*--allow-dirty"):
        build(runs, tmp_path / "out")
    assert build(runs, tmp_path / "out", "--allow-dirty") == 0
    readme = tmp_path / "out" / "Example" / "benchmarks/deepspeech2/box/README.md"
    assert "with uncommitted changes" in readme.read_text()


def test_an_unknown_commit_is_reported(runs, tmp_path):
    for run in runs:
        renew(run, code=CodeVersion(commit="f" * 40, clean=True))
    with pytest.raises(UserError, match="commit"):
        build(runs, tmp_path / "out")


def test_the_wrong_submitter_and_invalid_names_are_refused(runs, tmp_path):
    with pytest.raises(UserError, match="SUBMISSION_ORG"):
        build(runs, tmp_path / "out", org="Somebody")
    for name in ("../up", "a/b", "", ".", "-x", "a\nb", "."):
        with pytest.raises(UserError, match="valid folder name"):
            package.main([str(runs[0]), "--org=Example", f"--system={name}", "--out", str(tmp_path / "out")])


def test_runs_and_other_folders_are_never_overwritten(runs, tmp_path):
    with pytest.raises(UserError, match="must not be inside a run"):
        build(runs, runs[0])
    (tmp_path / "out" / "Example").mkdir(parents=True)
    (tmp_path / "out" / "Example" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a package"):
        build(runs, tmp_path / "out")
    assert (tmp_path / "out" / "Example" / "thesis.txt").read_text() == "years of work"


def test_a_truncated_log_in_a_package_is_a_failed_run_of_its_system(runs, tmp_path):
    build(runs, tmp_path / "out")
    log = tmp_path / "out" / "Example" / RESULTS / "result_0.txt"
    log.write_bytes(log.read_bytes()[:300])
    (row,) = compare_runs(load_runs([tmp_path / "out"])).rows
    assert (row.converged, row.runs, row.score.kind, row.accelerators) == (9, 10, "olympic", 0)


def test_published_logs_are_not_run_folders(runs, tmp_path):
    build(runs, tmp_path / "out")
    with pytest.raises(UserError, match="not a run folder"):
        build([tmp_path / "out"], tmp_path / "again")


def test_the_code_is_that_of_the_commit_not_of_the_working_tree(tmp_path):
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
    with pytest.raises(
        UserError, match=r"several kinds.*dataset digest 3800c7e4.* \(12\).*dataset digest eeeeeeee \(1\)"
    ):
        score.main([str(tmp_path / "runs")])
