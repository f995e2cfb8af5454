"""The record: written atomically, read back equal; a damaged one is refused with the name of its field."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.harness.summary import print_summary, summary_rows
from benchmark.log_summary import EpochFacts
from benchmark.params import load_variant
from benchmark.record import CodeVersion, DatasetFacts, RunFacts, RunRecord, hash_files, read_record, write_record
from common.errors import UserError
from common.formats import RECORD


def a_record(**changes) -> RunRecord:
    params = load_variant("mini")
    record = RunRecord(
        status="success",
        reason=None,
        variant="mini",
        division="closed",
        params=params.as_dict(),
        params_sha256=params.sha256,
        seed=2**32 - 1,
        started_at="2026-01-02T03:04:05+00:00",
        ended_at="2026-01-02T03:06:05+00:00",
        command=("python", "-m", "reference_model.train"),
        code=CodeVersion(commit=None, clean=None),
        lock_sha256=None,
        dataset=DatasetFacts(
            name="mini",
            tree_sha256="ab" * 32,
            tar_cksum=1,
            tar_bytes=10240,
            train_utterances=1600,
            train_hours=0.55,
            eval_utterances=300,
            eval_hours=0.1,
            verified_at=None,
            verified=False,
        ),
        system={"system_name": "", "other_software_stack": {"python": "3.11"}},
        software={"torch": "2.11.0", "driver": None},
        run=RunFacts(
            nproc=1,
            nnodes=1,
            device="cpu",
            target_wer=23.0,
            run_s=90.0,
            minutes=1.5,
            epochs=1,
            final_wer=20.0,
            best_wer=20.0,
        ),
        epochs=(
            EpochFacts(
                epoch_num=1,
                train_loss=None,
                train_s=80.0,
                eval_s=9.5,
                wer=20.0,
                cer=7.0,
                mean_wer=21.0,
                utterances_per_s=20.0,
                audio_s_per_s=24.7,
                data_wait_s=None,
            ),
        ),
        telemetry={"gpus": [], "host": {"cpu_pct": {"mean": 90.0, "max": 100.0}}},
        files={"result.txt": "cd" * 32},
        notes=("a note",),
    )
    return dataclasses.replace(record, **changes)


def test_what_is_written_reads_back_equal(tmp_path):
    write_record(a_record(), tmp_path)
    assert read_record(tmp_path) == read_record(tmp_path / "record.json") == a_record()


def test_writing_again_replaces_the_whole(tmp_path):
    write_record(a_record(status="unfinished", ended_at=None), tmp_path)
    write_record(a_record(), tmp_path)
    assert read_record(tmp_path).status == "success"
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_the_file_has_the_documented_form(tmp_path):
    write_record(a_record(), tmp_path)
    tree = json.loads((tmp_path / "record.json").read_text())
    assert tree["schema_version"] == 2
    assert list(tree)[:4] == ["schema_version", "status", "reason", "variant"]
    assert tree["params"]["model"]["rnn_layers"] == 2
    assert tree["epochs"][0]["train_loss"] is None, "not measured is null, never 0"


def test_no_record(tmp_path):
    for path in (tmp_path, tmp_path / "record.json", tmp_path / "no" / "folder"):
        with pytest.raises(UserError, match="no run record here"):
            read_record(path)


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 2', '{"schema_version": 2}', "[]", "null", "{}", "3"])
def test_a_file_that_is_not_a_record(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(UserError) as caught:
        read_record(tmp_path)
    assert str(tmp_path / "record.json") in str(caught.value)


def as_written(**changes) -> dict:
    return RECORD.with_version(json.loads(json.dumps(dataclasses.asdict(a_record())))) | changes


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            3,
            "a run record of version 3; this program reads versions up to 2 - use a version of the benchmark that reads",
        ),
        (0, "not a run record: its schema_version is 0"),
        ("two", "not a run record: its schema_version is 'two'"),
        (None, "not a run record: its schema_version is null"),
        ("2", "not a run record: its schema_version is '2'"),
        ("9" * 5000, "not a run record: its schema_version is '999"),
        ([[]], "not a run record: its schema_version is a list"),
    ],
)
def test_a_record_of_a_later_version_is_refused_with_a_message(tmp_path, version, message):
    (tmp_path / "record.json").write_text(json.dumps(as_written(schema_version=version)))
    with pytest.raises(UserError, match=re.escape(message)):
        read_record(tmp_path)


TREE = as_written()
PATHS = [
    *((key,) for key in TREE if key != "schema_version"),
    *((group, key) for group in ("code", "dataset", "run") for key in TREE[group]),
    *(("epochs", 0, key) for key in TREE["epochs"][0]),
]
NEEDED = {
    *((key,) for key in ("status", "variant", "division", "params", "params_sha256", "seed", "started_at")),
    *(("dataset",), *(("dataset", key) for key in ("name", "tree_sha256", "train_utterances", "eval_utterances"))),
    *(("run",), *(("run", key) for key in ("nproc", "device", "target_wer"))),
    *(("epochs", 0, "epoch_num"), ("epochs", 0, "wer")),
}
"""The fields that identify the run and its result."""


def damaged(path: tuple, value: object) -> dict:
    tree = copy.deepcopy(TREE)
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    if value is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return tree


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_missing_field_takes_its_default_or_is_named(tmp_path, path):
    (tmp_path / "record.json").write_text(json.dumps(damaged(path, KeyError)))
    if path in NEEDED:
        with pytest.raises(UserError, match="missing key") as caught:
            read_record(tmp_path)
        assert caught.value.where.endswith("record.json: " + ".".join(map(str, path)).replace(".0.", "[0]."))
    else:
        part = read_record(tmp_path)
        for key in path:
            part = part[key] if isinstance(key, int) else getattr(part, key)
        assert part in (None, (), {}, 0, 1, False) or part == CodeVersion()


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_every_field_is_checked(tmp_path, path):
    for value in ({"not": "that"}, ["x", 1]):
        if value == {"not": "that"} and path in [
            ("params",),
            ("code",),
            ("system",),
            ("software",),
            ("telemetry",),
            ("files",),
        ]:
            value = 3
        if value == ["x", 1] and path in (("epochs",), ("command",), ("notes",), ("run", "resumed_epochs")):
            value = "no list"
        (tmp_path / "record.json").write_text(json.dumps(damaged(path, value)))
        with pytest.raises(UserError) as caught:
            read_record(tmp_path)
        assert str(path[-1]) in caught.value.where


def test_a_field_nested_too_deep_to_print_is_refused(tmp_path):
    text = json.dumps(TREE).replace(f'"seed": {2**32 - 1}', '"seed": ' + "[" * 900 + "]" * 900)
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(UserError, match="must be a whole number, not a list"):
        read_record(tmp_path)


def test_an_unknown_field_is_ignored(tmp_path):
    for path in (("more",), ("run", "more"), ("epochs", 0, "more")):
        (tmp_path / "record.json").write_text(json.dumps(damaged(path, 1)))
        assert read_record(tmp_path) == a_record()


@settings(max_examples=100)
@given(st.integers(0, 3500), st.integers(0, 30), st.text(max_size=5))
def test_any_damage_is_a_user_error_or_still_a_record(tmp_path_factory, start, length, replacement):
    folder = tmp_path_factory.mktemp("record")
    text = json.dumps(TREE)
    (folder / "record.json").write_text(text[:start] + replacement + text[start + length :])
    try:
        assert isinstance(read_record(folder), RunRecord)
    except UserError as error:
        assert "record.json" in error.where  # noqa: PT017


def test_files_are_hashed_as_sha256sum_does(tmp_path):
    (tmp_path / "result.txt").write_bytes(b"abc")
    (tmp_path / "other").write_bytes(b"abc")
    assert hash_files(tmp_path) == {
        "result.txt": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }


# ---------------------------------------------------------------------------------------------------------------------
# The summary at the end


def test_the_summary_fits_80_columns_and_has_only_measured_values(tmp_path, capsys):
    gpu = {
        "index": 0,
        "name": "NVIDIA H200",
        "used": True,
        "utilization_pct": {"mean": 93.2, "max": 100.0},
        "power_w": None,
        "energy_j": 52_300.0,
        "memory_used_bytes": {"mean": 2**30, "max": 3 * 2**30},
    }
    telemetry = {
        "gpus": [gpu, dict(gpu, index=1, used=False)],
        "host": {"cpu_pct": None},
        "trainer": {"cpu_pct": {"mean": 99.0}},
    }
    run_dir = tmp_path / "[a] folder"
    slow = dataclasses.replace(a_record().epochs[0], train_s=12_345.0, train_loss=123.456, utterances_per_s=1234.5)
    print_summary(a_record(telemetry=telemetry, epochs=(slow,)), run_dir)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert max(map(len, lines[:-2])) <= 80
    assert "…" not in captured.err, "nothing is cut off"
    text = " ".join(captured.err.split())
    for expected in (
        "target reached: WER 20.00 % after epoch 1 (target 23 %)",
        "1.50 minutes (1:30 min), MLPerf-style, unverified",
        "NVIDIA H200, busy 93 %, 52.3 kJ, 3.00 GiB at most",
        "trainer 99 % of one core",
        "not verified",
        "a note",
    ):
        assert expected in text
    assert "GPU 1" not in text and "None" not in text
    assert [line.split()[0] for line in lines[-2:]] == ["files", "next"]
    assert lines[-2].endswith(f" {run_dir}"), "the path is on one line and can be copied"
    assert lines[-1].endswith(f" -m results compare '{run_dir}'")


@pytest.mark.parametrize(
    ("status", "reason", "epochs", "expected", "step"),
    [
        ("aborted", "WER 23 was not reached", True, "target missed", "results compare"),
        ("failed", "the trainer was killed", True, "failed: the trainer was killed", "--resume"),
        ("interrupted", "interrupted by SIGINT", True, "interrupted by SIGINT", "--resume"),
        ("failed", "a.flac: damaged", False, "no epoch finished", "trainer.err"),
        ("interrupted", "interrupted by SIGINT", False, "no epoch finished", "start again: no epoch"),
    ],
)
def test_the_summary_says_what_to_do_next(tmp_path, status, reason, epochs, expected, step):
    record = a_record(status=status, reason=reason)
    if not epochs:
        record = dataclasses.replace(record, epochs=(), run=dataclasses.replace(record.run, final_wer=None, epochs=0))
    rows = dict(summary_rows(record, tmp_path))
    assert expected in rows["result"]
    assert step in rows["next"]
    assert "MLPerf-style" not in rows["time"], "no target, no score"
    assert rows["result"].count("interrupted") <= 1
    assert str(tmp_path) in rows["files"]


def test_the_next_command_works_in_the_checkout(monkeypatch):
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setattr(sys, "executable", str(root / ".venv" / "bin" / "python"))
    rows = dict(summary_rows(a_record(status="success"), root / "runs" / "mini" / "a run"))
    assert rows["next"] == ".venv/bin/python -m results compare 'runs/mini/a run'"


def test_a_machine_without_the_log_reports_no_result(tmp_path):
    record = a_record(status="success", epochs=())
    record = dataclasses.replace(record, run=dataclasses.replace(record.run, final_wer=None, epochs=0))
    rows = dict(summary_rows(record, tmp_path))
    assert "target" not in rows["result"] and "machine 0" in rows["result"]
    assert rows["next"] == "see machine 0"
