"""Reading runs: broken files, logs of old rounds, and `results.load` with its DataFrame."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

import results
from common.errors import UserError
from results import compare
from results.comparing.comparison import compare_runs
from results.reading.discover import find_sources
from results.reading.load import read_run
from tests.conftest import DATA, ROOT
from tests.results.test_results_compare import as_json
from tests.support.logs import FakeRun, fields_of, line_of
from tests.support.mlperf_round import ROUND
from tests.support.run_folders import FakeMachine, write_run, write_series


def test_logs_of_rounds_before_mllog(tmp_path, capsys):
    folder = tmp_path / "training_results_v0.6" / "Org" / "results" / "box" / "ssd"
    folder.mkdir(parents=True)
    (folder / "result_0.txt").write_text(
        ':::MLL 1558640006.5 run_start: {"value": null, "metadata": {"lineno": 1}}\n'
        ':::MLL 1558640066.0 eval_accuracy: {"value": 0.23, "metadata": {"epoch_num": 40}}\n'
        ':::MLL 1558640126.5 run_stop: {"value": null, "metadata": {"status": "success"}}\n'
    )
    (folder / "result_1.txt").write_text(
        ":::MLPv0.5.0 ssd 1541635596.0 (train.py:12) run_start\n"
        ':::MLPv0.5.0 ssd 1541635600.0 (train.py:20) eval_accuracy: {"epoch": 41, "value": 0.24}\n'
        ':::MLPv0.5.0 ssd 1541635776.0 (train.py:30) run_stop: {"success": true}\n'
    )
    _, answer, _ = as_json(capsys, tmp_path)
    (row,) = answer["rows"]
    assert row["run_minutes"] == pytest.approx([2.0, 3.0]) and row["converged"] == 2 and row["run_epochs"] == [40, 41]


def test_broken_files_are_reported_and_do_not_prevent_a_comparison(tmp_path, capsys):
    write_series(tmp_path / "good", 3)
    broken = tmp_path / "broken"
    for name, content in {
        "empty": b"",
        "garbage": b"\xff\xfe\x00\x01" * 500,
        "not-json": b":::MLLOG {oops}\n",
        "escape": b':::MLLOG {"key": 3, "time_ms": "\x1b[31m"}\n',
        "array": b":::MLLOG [1, 2]\n",
        "long": b":::MLLOG " + b"x" * 3_000_000,
    }.items():
        (broken / name).mkdir(parents=True)
        (broken / name / "result.txt").write_bytes(content)
    (broken / "record" / "x").mkdir(parents=True)
    write_run(broken / "bad-record", FakeRun(seed=5))
    (broken / "bad-record" / "record.json").write_text("{")
    (broken / "no-log").mkdir()
    (broken / "no-log" / "record.json").write_text("[]")
    status, answer, err = as_json(capsys, tmp_path)
    assert status == 0
    # The run with the broken record has the same parameters, dataset, system: it stays with the others.
    (row,) = answer["rows"]
    assert (row["runs"], row["converged"]) == (4, 4)
    assert any("not known of 1 of 4 runs" in note and "commit" in note for note in row["notes"])
    for name in ("empty", "garbage", "not-json", "escape", "array", "long", "bad-record", "no-log"):
        assert re.search(rf"^warning: .*/{name}/", err, re.MULTILINE), name
    assert "\x1b" not in err and "Traceback" not in err


def test_unusual_files_and_names_do_not_prevent_a_comparison(tmp_path, monkeypatch):
    write_series(tmp_path, 2, FakeMachine("名前"))
    os.mkfifo(tmp_path / "result_1.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    odd = Path(os.fsdecode(bytes(tmp_path / "x名") + b"\xff"))
    odd.mkdir()
    (odd / "result.txt").write_bytes(b"nothing")
    for form in ("text", "json", "csv", "markdown"):
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        # As Python opens stderr, with any encoding.
        err = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert compare.main([str(tmp_path), "--format", form]) == 0
        out.flush()
        err.flush()
        assert rb"\u540d\u524d" in out.buffer.getvalue()
        warnings = err.buffer.getvalue()
        assert re.search(rb"^warning: .*/result_1\.txt: .*not a regular file", warnings, re.MULTILINE)
        assert re.search(rb"^warning: .*/x\\u540d\\udcff/result\.txt: .*no log lines", warnings, re.MULTILINE)
    assert len(find_sources([tmp_path])) == 4


def test_values_of_unexpected_types_never_change_the_time_of_a_run(tmp_path):
    """An invalid record is reported and ignored; any value in a log is read and compared without an error."""
    folder = write_run(tmp_path / "odd", FakeRun(), FakeMachine(gpus=1))
    (source,) = find_sources([folder])
    minutes = read_run(source).minutes
    record, log = folder / "record.json", folder / "result.txt"
    whole = record.read_text()
    tree = json.loads(whole)
    for key in tree:
        for value in (None, 7, "x", [1], {"a": {}}, -1, 1e300):
            record.write_text(json.dumps(tree | {key: value}))
            run = read_run(source)
            assert run.minutes == minutes, (key, value)
            assert (run.record is None) == any("record.json" in problem for problem in run.problems), (key, value)
            compare_runs([run])
    record.write_text(whole)
    lines = log.read_text().splitlines()
    for number, line in enumerate(lines):
        fields = fields_of(line)
        for value in (None, 7, "x", [1], 1e300, [{}], {"gpus": [3]}, {"gpus": {"a": 1}}):
            log.write_text("\n".join([*lines[:number], line_of(fields | {"value": value}), *lines[number + 1 :]]))
            run = read_run(source)
            assert run.minutes == minutes, (number, value)
            compare_runs([run])


def test_load_gives_a_data_frame_with_one_row_per_run(tmp_path):
    write_series(tmp_path / "gpu", 3, FakeMachine("gpu-box", gpus=2, power_w=500.0))
    write_run(tmp_path / "cpu" / "missed", FakeRun(seed=5, word_edits=(1290, 1200)))
    loaded = results.load(tmp_path, f"published={DATA / ROUND}")
    frame = loaded.runs
    assert len(frame) == 24 and loaded.problems == []
    assert set(frame["label"].dropna()) == {"published"} and (frame["label"] == "published").sum() == 20
    assert frame.groupby("system")["minutes"].count()["gpu-box"] == 3
    (cpu,) = frame[frame["system"] == "a-machine"].to_dict("records")
    assert (cpu["verdict"], cpu["seed"], cpu["accelerators"]) == ("aborted", 5, 0)
    assert cpu["best_wer_pct"] == pytest.approx(100 * 1200 / 1300) and cpu["target_wer_pct"] == 23
    # Unknown is NA or NaN, and never 0.
    assert pd.isna(cpu["power_w"]) and pd.isna(cpu["accelerator"]) and pd.isna(cpu["round"])
    gpu = frame[frame["system"] == "gpu-box"]
    assert (gpu["power_w"] == 1000).all() and (gpu["peak_memory_bytes"] == 70e9).all()
    assert set(frame["round"].dropna()) == {"1.1"}
    for name in ("minutes", "best_wer_pct", "power_w", "energy_kwh"):
        assert pd.api.types.is_float_dtype(frame[name]), name
    for name in ("accelerators", "nodes", "processes", "parse_errors"):
        assert pd.api.types.is_integer_dtype(frame[name]), name


def test_columns_of_the_data_frame_are_fields_of_the_other_outputs_and_documented(tmp_path, capsys):
    write_run(tmp_path / "one", FakeRun())
    frame = results.load(tmp_path).runs
    _, answer, _ = as_json(capsys, tmp_path)
    (row,) = answer["rows"]
    (details,) = row["run_details"]
    values = row | details
    for name, value in frame.iloc[0].items():
        assert value == values[name] or (pd.isna(value) and values[name] is None), name
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert "results.load(" in page
    assert [name for name in frame if f"`{name}`" not in page] == []


def test_load_reports_broken_files_and_refuses_a_path_without_logs(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no result log"):
        results.load(tmp_path / "empty")
    log = write_run(tmp_path / "run", FakeRun()) / "result.txt"
    log.write_text(log.read_text() + ":::MLLOG {\n")
    loaded = results.load(tmp_path / "run")
    assert loaded.runs["parse_errors"].tolist() == [1]
    assert re.fullmatch(rf"{re.escape(str(log))}: line \d+: .+", loaded.problems[0])
