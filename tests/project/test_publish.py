"""`python -m benches publish`: what the GPU bench left on several cards, beside the CPU; and everything that it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benches import publish
from benchmark.params import load_variant
from benchmark.record import read_record, write_record
from tests.conftest import ROOT
from tests.support.harness import Bench
from tests.support.logs import FakeRun
from tests.support.run_folders import FakeMachine, write_run

H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"
CPU = "CPU (x86_64)"
NOT_COPIED = shutil.ignore_patterns(".venv", ".git", "data", "runs", "__pycache__", ".*_cache", "tests", "docs")


def door(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benches", "publish", *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True)


def compared(folder: Path) -> list[dict]:
    line = [sys.executable, "-m", "results", "compare", str(folder), "--format", "json"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["rows"]


def timed_run(
    folder: Path, card: str, name: str = "vm-gpu-20260101T000000Z-s1", variant: str = "mini", **changes
) -> Path:
    """A run of one GPU in a machine whose host has the name of the published CPU's."""
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


def test_two_cards_stand_beside_the_cpu_and_publishing_again_changes_nothing(tmp_path, into):
    outs = [bench(tmp_path / "a", H100), bench(tmp_path / "b", H200)]
    done = door(*outs, "--into", into)
    assert (done.returncode, done.stderr) == (0, "")
    rows = compared(into)
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
    again = door(*outs, "--into", into)
    assert again.returncode == 0 and again.stdout.count("was there already") == 2
    assert state(into) == before
    assert not list(into.glob(".*"))


def test_two_parts_of_one_card_become_one_table_that_says_which_bench_measured_what(tmp_path, into):
    first = table(tmp_path / "first", H200, step("bf16", 1.0), step("bf16", 2.0, "gru"), step("bf16", 3.0, "loader"))
    left_out = {"section": "loader", "name": "left out", "reason": "the time is up"}
    second = table(tmp_path / "second", H200, step("bf16", 9.0, "gru"), left_out, torch="2.12.0", part="second")
    assert door(first, second, "--into", into).returncode == 0
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
    assert door(first, second, "--into", into).returncode == 0
    assert state(into) == before
    # A later bench replaces its own section of what is published, and no other.
    third = table(tmp_path / "third", H200, step("bf16", 5.0), seconds=99.0)
    assert door(third, "--into", into).returncode == 0
    rates = {row["section"]: row["audio_s_per_s"] for row in json.loads(found.read_text())["rows"]}
    assert rates == {"step": 5.0, "gru": 9.0, "loader": 3.0}


def test_a_checkouts_readme_shows_the_cards_and_no_longer_says_that_no_gpu_was_measured(tmp_path):
    checkout = Path(shutil.copytree(ROOT, tmp_path / "checkout", ignore=NOT_COPIED))
    for folder in (checkout / "results" / "published").glob("nvidia-*"):
        shutil.rmtree(folder)
    script = ["sh", str(checkout / "script" / "readme_table.sh")]
    environment = os.environ | {"PYTHON": sys.executable}
    readme = checkout / "README.md"
    subprocess.run(script, env=environment, check=True)
    assert "No GPU has been measured yet." in readme.read_text()
    done = door(bench(tmp_path / "a", H100), bench(tmp_path / "b", H200), cwd=checkout)
    assert (done.returncode, done.stderr) == (0, "")
    text = readme.read_text()
    assert "No GPU has been measured yet." not in text
    assert text.count("| Reference / vm | 1 x NVIDIA H") == 2 and "| Reference / vm | CPU: AMD EPYC" in text
    assert "[NVIDIA H200](results/published/nvidia-h200/gpu_bench.md)" in text
    head, tail = (part.splitlines() for part in (ROOT / "README.md").read_text().split("<!-- published: ", 1))
    assert text.splitlines()[: len(head)] == head and text.splitlines()[-20:] == tail[-20:]
    before = state(checkout)
    assert door(tmp_path / "a", tmp_path / "b", cwd=checkout).returncode == 0
    assert {name: kept for name, kept in state(checkout).items() if "__pycache__" not in name} == {
        name: kept for name, kept in before.items() if "__pycache__" not in name
    }
    readme.write_text(text.replace("<!-- /gpus -->", ""))
    refused = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2 and "<!-- /gpus" in refused.stderr
    assert readme.read_text() == text.replace("<!-- /gpus -->", "")


def test_notes_below_the_table_name_the_card_where_hosts_share_a_name(tmp_path, into):
    missed = FakeRun(seed=1, org="Reference", word_edits=(1290, 800))
    run = write_run(tmp_path / "runs" / "mini" / "missed", missed, FakeMachine("vm", 1, H200))
    out = table(tmp_path / "a", H200, step("bf16", 1.0))
    packed(out, run)
    assert door(out, "--into", into).returncode == 0
    line = [sys.executable, "-m", "results", "compare", str(into)]
    text = subprocess.run([*line, "--width", "200"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "Reference / vm (1 x NVIDIA H200): 1 of 1 runs: aborted" in text
    assert " - Reference / vm (CPU: AMD EPYC)" in text
    markdown = subprocess.run(
        [*line, "--format", "markdown"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "- Reference / vm (1 x NVIDIA H200): 1 of 1 runs: aborted" in markdown


def test_a_run_of_the_harness_is_published_as_it_is(tmp_path):
    """The record of a real run names no folder of the machine, wherever its data and its runs lie."""
    harness = Bench(tmp_path)
    assert harness.run().status == 0
    (run,) = harness.folders()
    out = table(tmp_path / "out", CPU, step("bf16", 1.0), rehearsal=True)
    packed(out, run)
    done = door(out, "--into", tmp_path / "into", "--rehearsal")
    assert done.returncode == 0, done.stderr
    (published,) = (tmp_path / "into").glob("cpu-x86-64/tiny/*")
    assert read_record(published) == read_record(run)
    assert "rehearsal, no measurement" in (tmp_path / "into" / "cpu-x86-64" / "gpu_bench.md").read_text()


def refused(into: Path, *arguments: object, said: str) -> None:
    """Exit status 2, one line on stderr that says so, and not a file touched."""
    before = state(into) if into.exists() else None
    done = door(*arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr
    assert (state(into) if into.exists() else None) == before
    assert not into.exists() or not list(into.glob(".*"))


def test_rehearsals_are_refused(tmp_path, into):
    rehearsal = table(tmp_path / "a", H200, step("bf16", 1.0), rehearsal=True)
    on_cpu = table(tmp_path / "b", CPU, step("bf16", 1.0))
    for out in (rehearsal, on_cpu):
        refused(into, out, "--into", into, said="a rehearsal")
    published = ROOT / "results" / "published"
    refused(published, rehearsal, "--rehearsal", said="never published")
    refused(published, rehearsal, "--rehearsal", "--into", published / ".." / "published", said="never published")
    real = table(tmp_path / "c", H200, step("bf16", 1.0))
    refused(into, real, rehearsal, "--rehearsal", "--into", into, said="cannot be put beside")


def test_nothing_is_published_of_several_folders_where_one_is_bad(tmp_path, into):
    good, bad = bench(tmp_path / "a", H100), bench(tmp_path / "b", H200)
    archive = bad / "run_mini.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-100])
    refused(into, good, bad, "--into", into, said=f"{archive}: the archive was refused")
    refused(tmp_path / "new", good, bad, "--into", tmp_path / "new", said="it is damaged")
    archive.write_bytes(b"no archive at all")
    refused(into, good, bad, "--into", into, said="it is damaged")


def member(name: str, data: bytes = b"x", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (member("../mini/result.txt"), "does not lie at VARIANT/RUN/FILE"),
        (member("/mini/run/result.txt"), "does not lie at VARIANT/RUN/FILE"),
        (member("mini/../result.txt"), "does not lie at VARIANT/RUN/FILE"),
        (member("mini/run/checkpoints/last.pt"), "does not lie at VARIANT/RUN/FILE"),
        (member("mini/run/.git"), "does not lie at VARIANT/RUN/FILE"),
        (member("mini/run/a\nb"), "does not lie at VARIANT/RUN/FILE"),
        (member("mini/run/result.txt", b"", type=tarfile.SYMTYPE, linkname="../../../secret"), "no plain file"),
        (member("mini/run/result.txt", b"", type=tarfile.LNKTYPE, linkname="secret"), "no plain file"),
        (member("mini/run/result.txt", b"", type=tarfile.FIFOTYPE), "no plain file"),
        (member("mini/run", b"", type=tarfile.DIRTYPE), "no plain file"),
        (member("mini/run/result.txt", bytes(publish.UNPACKED_BYTES)), "more than 64 MiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[0].name),
)
def test_a_hostile_member_refuses_its_archive(tmp_path, into, odd, said):
    out = table(tmp_path / "a", H200, step("bf16", 1.0))
    with tarfile.open(out / "run_mini.tar.gz", "w:gz", compresslevel=1) as tar:
        info, data = odd
        tar.addfile(info, io.BytesIO(data))
    refused(into, out, "--into", into, said=said)
    assert not (tmp_path / "mini").exists()


def test_a_member_that_is_there_twice_refuses_its_archive(tmp_path, into):
    out = table(tmp_path / "a", H200, step("bf16", 1.0))
    with tarfile.open(out / "run_mini.tar.gz", "w:gz") as tar:
        for data in (b"one", b"two"):
            info, _ = member("mini/run/result.txt", data)
            tar.addfile(info, io.BytesIO(data))
    refused(into, out, "--into", into, said="is there twice")


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
    ("change", "said"),
    [
        (edited_log, "not as the run's record sealed it: result.txt"),
        (no_parameters, "not as the run's record sealed it: params.yaml"),
        (no_record, "no run record lies here"),
        (damaged_record, "record.json: seed: the run record is damaged"),
        (changed(status="interrupted"), "did not come to its end"),
        (changed(variant="synthetic"), "the record is of the variant synthetic"),
        (changed(command=("python", "--data", "/scratch/mini")), "names a folder of the machine: /scratch/mini"),
        (changed(notes=("noise from /home/someone/noise",)), "names a folder of the machine: /home/someone/noise"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_is_not_in_order_is_refused_by_name(tmp_path, into, change, said):
    out = bench(tmp_path / "a", H200)
    run = tmp_path / "a-runs" / "mini" / "vm-gpu-20260101T000000Z-s1"
    change(run)
    packed(out, run)
    refused(into, out, "--into", into, said=said)
    refused(into, out, "--into", into, said=f"run_mini.tar.gz: mini/{run.name}")


def test_another_cards_run_is_refused(tmp_path, into):
    out = bench(tmp_path / "a", H200)
    table(out, H100, step("bf16", 1.0))
    refused(into, out, "--into", into, said=f"it ran on {H200}, not on {H100}")


def test_a_run_of_the_same_name_with_other_content_is_refused(tmp_path, into):
    assert door(bench(tmp_path / "a", H200), "--into", into).returncode == 0
    other = bench(tmp_path / "b", H200, ended_at="2026-01-01T00:10:01Z")
    refused(into, other, "--into", into, said="another run of this name is published already")
    refused(tmp_path / "new", tmp_path / "a", other, "--into", tmp_path / "new", said="another run of this name is in")


def test_a_sealed_file_that_names_a_folder_of_the_machine_is_published_and_said(tmp_path, into):
    out = table(tmp_path / "a", H200, step("bf16", 1.0))
    run = timed_run(tmp_path / "runs", H200)
    (run / "trainer.err").write_text("/home/someone/torch/rnn.py:1: UserWarning: weights in several pieces\n")
    packed(out, run)
    refused(into, out, "--into", into, said="trainer.err")
    record = read_record(run)
    sealed = record.files | {"trainer.err": hashlib.sha256((run / "trainer.err").read_bytes()).hexdigest()}
    write_record(dataclasses.replace(record, files=sealed), run)
    packed(out, run)
    done = door(out, "--into", into)
    assert done.returncode == 0
    assert "trainer.err: names a folder of the machine (/home/someone/torch/rnn.py)" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no measurement lies here"),
        ("{", "not JSON"),
        ("[]", "not a bench's table"),
        ('{"device": "NVIDIA H200", "rehearsal": false, "rows": []}', "without a row"),
        ('{"device": "NVIDIA H200", "rehearsal": false, "rows": ["step"]}', "not a bench's table"),
        ('{"device": "../..", "rehearsal": false, "rows": [{"section": "step"}]}', "a card without a name"),
    ],
)
def test_a_folder_that_is_no_benchs_is_refused(tmp_path, into, text, said):
    out = tmp_path / "a"
    out.mkdir()
    if text is not None:
        (out / "gpu_bench.json").write_text(text)
    refused(into, out, "--into", into, said=said)
