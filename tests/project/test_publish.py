"""`python -m benches publish`: the GPU bench's output of several cards next to the CPU's runs; and everything that it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from benches import publish
from benchmark.params import load_variant
from benchmark.record import read_record, write_record
from results import compare
from tests.conftest import ROOT
from tests.support.harness import Bench
from tests.support.logs import FakeRun
from tests.support.run_folders import FakeMachine, write_run

H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"
CPU = "CPU (x86_64)"
NOT_COPIED = shutil.ignore_patterns(".venv", ".git", "data", "runs", "__pycache__", ".*_cache", "tests", "docs")


def run_publish(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in this process."""
    return _in_process(publish.main, *arguments)


def run_compare(*arguments: object) -> str:
    done = _in_process(compare.main, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _in_process(main: Callable[[list[str]], int], *arguments: object) -> subprocess.CompletedProcess[str]:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        status = main([str(argument) for argument in arguments])
    return subprocess.CompletedProcess([], status, out.getvalue(), errors.getvalue())


def timed_run(
    folder: Path, card: str, name: str = "vm-gpu-20260101T000000Z-s1", variant: str = "mini", **changes
) -> Path:
    """A run of one GPU in a machine with the host name of the published CPU's."""
    params = load_variant(variant)
    fake = FakeRun(params=params, seed=1, org="Reference")
    return write_run(folder / variant / name, fake, FakeMachine("vm", 1, card), **changes)


def packed(out: Path, run: Path) -> Path:
    """The run's archive, as benches/gpu/program_runs.py makes it."""
    out.mkdir(exist_ok=True)
    archive = out / f"run_{run.parent.name}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(run.iterdir()):
            if path.is_file():
                tar.add(path, arcname=f"{run.parent.name}/{run.name}/{path.name}")
    return archive


def table(out: Path, device: str, *rows: dict, **facts) -> Path:
    """gpu_bench.json as benches/gpu/command.py writes it."""
    out.mkdir(exist_ok=True)
    tree = {"device": device, "rehearsal": False, "torch": "2.11.0", "cuda": "13.0", "cudnn": 91900, "seconds": 400.5}
    tree |= facts | {"rows": list(rows)}
    (out / "gpu_bench.json").write_text(json.dumps(tree, indent=1) + "\n")
    return out


def step(precision: str, rate: float, section: str = "step") -> dict:
    return {"section": section, "name": "batch 8", "precision": precision, "audio_s_per_s": rate}


def bench(out: Path, card: str, **changes) -> Path:
    """A whole OUT folder of one card: a table and a timed run."""
    packed(out, timed_run(out.with_name(f"{out.name}-runs"), card, **changes))
    return table(out, card, step("bf16", 1234.5678))


def state(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def into(tmp_path):
    return Path(
        shutil.copytree(ROOT / "results" / "published" / "mini-cpu", tmp_path / "published" / "mini-cpu")
    ).parent


def test_two_cards_are_published_next_to_the_cpu_and_publishing_again_changes_nothing(tmp_path, into):
    outs = [bench(tmp_path / "a", H100), bench(tmp_path / "b", H200)]
    done = run_publish(*outs, "--into", into)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(run_compare(into, "--format", "json"))["rows"]
    assert {(row["submitter"], row["system"], row["accelerator"], row["runs"]) for row in rows} == {
        ("Reference", "vm", None, 10),
        ("Reference", "vm", H100, 1),
        ("Reference", "vm", H200, 1),
    }
    assert len({row["group"] for row in rows}) == 1
    run = into / "nvidia-h100-80gb-hbm3" / "mini" / "vm-gpu-20260101T000000Z-s1"
    assert {path.name for path in run.iterdir()} == {
        path.name for path in next((into / "mini-cpu").iterdir()).iterdir()
    }
    assert "1,235" in (into / "nvidia-h200" / "gpu_bench.md").read_text()
    before = state(into)
    again = run_publish(*outs, "--into", into)
    assert again.returncode == 0 and again.stdout.count("already published") == 2
    assert state(into) == before
    assert not list(into.glob(".*"))


def test_two_parts_of_one_card_become_one_table_with_the_bench_of_each_section(tmp_path, into):
    first = table(tmp_path / "first", H200, step("bf16", 1.0), step("bf16", 2.0, "gru"), step("bf16", 3.0, "loader"))
    left_out = {"section": "loader", "name": "left out", "reason": "the time limit is reached"}
    second = table(tmp_path / "second", H200, step("bf16", 9.0, "gru"), left_out, torch="2.12.0", part="second")
    assert run_publish(first, second, "--into", into).returncode == 0
    found = into / "nvidia-h200" / "gpu_bench.json"
    tree = json.loads(found.read_text())
    assert [(row["section"], row["audio_s_per_s"]) for row in tree["rows"]] == [
        ("step", 1.0),
        ("gru", 9.0),
        ("loader", 3.0),
    ]
    assert [(each["sections"], each["bench"]["torch"]) for each in tree["benches"]] == [
        (["step", "loader"], "2.11.0"),
        (["gru"], "2.12.0"),
    ]
    text = found.with_suffix(".md").read_text()
    assert "- step, loader: torch 2.11.0, cuda 13.0, cudnn 91900, seconds 400.5\n- gru: torch 2.12.0" in text
    before = state(into)
    assert run_publish(first, second, "--into", into).returncode == 0
    assert state(into) == before
    # A later bench replaces its own published section and no other.
    third = table(tmp_path / "third", H200, step("bf16", 5.0), seconds=99.0)
    assert run_publish(third, "--into", into).returncode == 0
    rates = {row["section"]: row["audio_s_per_s"] for row in json.loads(found.read_text())["rows"]}
    assert rates == {"step": 5.0, "gru": 9.0, "loader": 3.0}


def publish_in(checkout: Path, *outs: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of a copy of the checkout."""
    line = [sys.executable, "-m", "benches", "publish", *map(str, outs)]
    return subprocess.run(line, cwd=checkout, capture_output=True, text=True)


def test_the_readme_of_a_checkout_shows_the_published_cards(tmp_path):
    checkout = Path(shutil.copytree(ROOT, tmp_path / "checkout", ignore=NOT_COPIED))
    for folder in (checkout / "results" / "published").glob("nvidia-*"):
        shutil.rmtree(folder)
    script = ["sh", str(checkout / "script" / "readme_table.sh")]
    environment = os.environ | {"PYTHON": sys.executable}
    readme = checkout / "README.md"
    subprocess.run(script, env=environment, check=True)
    assert "No GPU has been measured yet." in readme.read_text()
    done = publish_in(checkout, bench(tmp_path / "a", H100), bench(tmp_path / "b", H200))
    assert (done.returncode, done.stderr) == (0, "")
    text = readme.read_text()
    assert "No GPU has been measured yet." not in text
    assert len(re.findall(r"\| Reference / vm \|.*\| 1 x NVIDIA H", text)) == 2
    assert re.search(r"\| Reference / vm \|.*\| CPU: AMD EPYC", text)
    assert "[NVIDIA H200](results/published/nvidia-h200/gpu_bench.md)" in text
    head, tail = (part.splitlines() for part in (ROOT / "README.md").read_text().split("<!-- published: ", 1))
    assert text.splitlines()[: len(head)] == head and text.splitlines()[-20:] == tail[-20:]
    before = state(checkout)
    assert publish_in(checkout, tmp_path / "a", tmp_path / "b").returncode == 0
    assert {name: kept for name, kept in state(checkout).items() if "__pycache__" not in name} == {
        name: kept for name, kept in before.items() if "__pycache__" not in name
    }
    readme.write_text(text.replace("<!-- /gpus -->", ""))
    refused = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2 and "<!-- /gpus" in refused.stderr
    assert readme.read_text() == text.replace("<!-- /gpus -->", "")


def test_notes_below_the_table_name_the_card_if_hosts_share_a_name(tmp_path, into):
    missed = FakeRun(seed=1, org="Reference", word_edits=(1290, 800))
    run = write_run(tmp_path / "runs" / "mini" / "missed", missed, FakeMachine("vm", 1, H200))
    out = table(tmp_path / "a", H200, step("bf16", 1.0))
    packed(out, run)
    assert run_publish(out, "--into", into).returncode == 0
    text = run_compare(into, "--width", 200)
    assert "Reference / vm (1 x NVIDIA H200): 1 of 1 runs: aborted" in text
    assert " - Reference / vm (CPU: AMD EPYC)" in text
    markdown = run_compare(into, "--format", "markdown")
    assert "- Reference / vm (1 x NVIDIA H200): 1 of 1 runs: aborted" in markdown


def test_a_run_of_the_harness_is_published_unchanged(tmp_path):
    """The record of a real run contains no path of the machine, wherever its data and its runs are."""
    harness = Bench(tmp_path)
    assert harness.run().status == 0
    (run,) = harness.folders()
    out = table(tmp_path / "out", CPU, step("bf16", 1.0), rehearsal=True)
    packed(out, run)
    done = run_publish(out, "--into", tmp_path / "into", "--rehearsal")
    assert done.returncode == 0, done.stderr
    (published,) = (tmp_path / "into").glob("cpu-x86-64/tiny/*")
    assert read_record(published) == read_record(run)
    assert "rehearsal, not a measurement" in (tmp_path / "into" / "cpu-x86-64" / "gpu_bench.md").read_text()


def refused(into: Path, *arguments: object, error: str) -> None:
    """Exit status 2, `error` in one line on stderr, and no file changed."""
    before = state(into) if into.exists() else None
    done = run_publish(*arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert error in done.stderr
    assert (state(into) if into.exists() else None) == before
    assert not into.exists() or not list(into.glob(".*"))


def test_rehearsals_are_refused(tmp_path, into):
    rehearsal = table(tmp_path / "a", H200, step("bf16", 1.0), rehearsal=True)
    on_cpu = table(tmp_path / "b", CPU, step("bf16", 1.0))
    for out in (rehearsal, on_cpu):
        refused(into, out, "--into", into, error="a rehearsal")
    published = ROOT / "results" / "published"
    refused(published, rehearsal, "--rehearsal", error="never published")
    refused(published, rehearsal, "--rehearsal", "--into", published / ".." / "published", error="never published")
    real = table(tmp_path / "c", H200, step("bf16", 1.0))
    refused(into, real, rehearsal, "--rehearsal", "--into", into, error="cannot be combined with")


def test_nothing_is_published_if_one_of_several_folders_is_damaged(tmp_path, into):
    whole, damaged = bench(tmp_path / "a", H100), bench(tmp_path / "b", H200)
    archive = damaged / "run_mini.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-100])
    refused(into, whole, damaged, "--into", into, error=f"{archive}: the archive was refused")
    refused(tmp_path / "new", whole, damaged, "--into", tmp_path / "new", error="it is damaged")
    archive.write_bytes(b"not an archive")
    refused(into, whole, damaged, "--into", into, error="it is damaged")


def member(name: str, data: bytes = b"x", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


@pytest.mark.parametrize(
    ("odd", "error"),
    [
        (member("../mini/result.txt"), "is not of the form VARIANT/RUN/FILE"),
        (member("/mini/run/result.txt"), "is not of the form VARIANT/RUN/FILE"),
        (member("mini/../result.txt"), "is not of the form VARIANT/RUN/FILE"),
        (member("mini/run/checkpoints/last.pt"), "is not of the form VARIANT/RUN/FILE"),
        (member("mini/run/.git"), "is not of the form VARIANT/RUN/FILE"),
        (member("mini/run/a\nb"), "is not of the form VARIANT/RUN/FILE"),
        (member("mini/run/result.txt", b"", type=tarfile.SYMTYPE, linkname="../../../secret"), "not a regular file"),
        (member("mini/run/result.txt", b"", type=tarfile.LNKTYPE, linkname="secret"), "not a regular file"),
        (member("mini/run/result.txt", b"", type=tarfile.FIFOTYPE), "not a regular file"),
        (member("mini/run", b"", type=tarfile.DIRTYPE), "not a regular file"),
        (member("mini/run/result.txt", bytes(publish.UNPACKED_BYTES)), "more than 64 MiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[0].name),
)
def test_an_archive_with_a_hostile_member_is_refused(tmp_path, into, odd, error):
    out = table(tmp_path / "a", H200, step("bf16", 1.0))
    with tarfile.open(out / "run_mini.tar.gz", "w:gz", compresslevel=1) as tar:
        info, data = odd
        tar.addfile(info, io.BytesIO(data))
    refused(into, out, "--into", into, error=error)
    assert not (tmp_path / "mini").exists()


def test_an_archive_with_a_duplicated_member_is_refused(tmp_path, into):
    out = table(tmp_path / "a", H200, step("bf16", 1.0))
    with tarfile.open(out / "run_mini.tar.gz", "w:gz") as tar:
        for data in (b"one", b"two"):
            info, _ = member("mini/run/result.txt", data)
            tar.addfile(info, io.BytesIO(data))
    refused(into, out, "--into", into, error="is duplicated")


def edited_log(run: Path) -> None:
    log = run / "result.txt"
    log.write_bytes(log.read_bytes().replace(b'"seed"', b'"SEED"'))


def no_parameters(run: Path) -> None:
    (run / "params.yaml").unlink()


def no_record(run: Path) -> None:
    (run / "record.json").unlink()


def damaged_record(run: Path) -> None:
    tree = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps(tree | {"seed": "one"}))


def changed(**fields):
    def change(run: Path) -> None:
        write_record(dataclasses.replace(read_record(run), **fields), run)

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (edited_log, "files do not match the hashes in the run's record: result.txt"),
        (no_parameters, "files do not match the hashes in the run's record: params.yaml"),
        (no_record, "no run record here"),
        (damaged_record, "record.json: seed: the run record is damaged"),
        (changed(status="interrupted"), "the run did not end"),
        (changed(variant="synthetic"), "the record is for the variant synthetic"),
        (changed(command=("python", "--data", "/scratch/mini")), "contains a path of the machine: /scratch/mini"),
        (changed(notes=("noise from /home/someone/noise",)), "contains a path of the machine: /home/someone/noise"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_faulty_run_is_refused_by_name(tmp_path, into, change, error):
    out = bench(tmp_path / "a", H200)
    run = tmp_path / "a-runs" / "mini" / "vm-gpu-20260101T000000Z-s1"
    change(run)
    packed(out, run)
    refused(into, out, "--into", into, error=error)
    refused(into, out, "--into", into, error=f"run_mini.tar.gz: mini/{run.name}")


def test_another_cards_run_is_refused(tmp_path, into):
    out = bench(tmp_path / "a", H200)
    table(out, H100, step("bf16", 1.0))
    refused(into, out, "--into", into, error=f"it ran on {H200}, not on {H100}")


def test_a_run_of_the_same_name_with_other_content_is_refused(tmp_path, into):
    assert run_publish(bench(tmp_path / "a", H200), "--into", into).returncode == 0
    other = bench(tmp_path / "b", H200, ended_at="2026-01-01T00:10:01Z")
    refused(into, other, "--into", into, error="another run of this name is already published")
    refused(tmp_path / "new", tmp_path / "a", other, "--into", tmp_path / "new", error="another run of this name is in")


def test_a_hashed_file_with_a_path_of_the_machine_is_published_with_a_warning(tmp_path, into):
    out = table(tmp_path / "a", H200, step("bf16", 1.0))
    run = timed_run(tmp_path / "runs", H200)
    (run / "trainer.err").write_text("/home/someone/torch/rnn.py:1: UserWarning: weights in several pieces\n")
    packed(out, run)
    refused(into, out, "--into", into, error="trainer.err")
    record = read_record(run)
    hashes = record.files | {"trainer.err": hashlib.sha256((run / "trainer.err").read_bytes()).hexdigest()}
    write_record(dataclasses.replace(record, files=hashes), run)
    packed(out, run)
    done = run_publish(out, "--into", into)
    assert done.returncode == 0
    assert "trainer.err: contains a path of the machine (/home/someone/torch/rnn.py)" in done.stderr


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "there is no measurement here"),
        ("{", "not JSON"),
        ("[]", "not a bench's table"),
        ('{"device": "NVIDIA H200", "rehearsal": false, "rows": []}', "without rows"),
        ('{"device": "NVIDIA H200", "rehearsal": false, "rows": ["step"]}', "not a bench's table"),
        ('{"device": "../..", "rehearsal": false, "rows": [{"section": "step"}]}', "a card without a name"),
    ],
)
def test_a_folder_that_is_not_a_benchs_output_is_refused(tmp_path, into, text, error):
    out = tmp_path / "a"
    out.mkdir()
    if text is not None:
        (out / "gpu_bench.json").write_text(text)
    refused(into, out, "--into", into, error=error)
