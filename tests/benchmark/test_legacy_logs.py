"""Logs of rounds 0.5 and 0.6: how a run ended, and lines in unusual forms."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.log_summary import LogSummary, summarise
from benchmark.mllog import BadLine
from benchmark.rounds import legacy_logs


def summary_of(*lines: str) -> LogSummary:
    return summarise(legacy_logs.read_lines(io.BytesIO("\n".join(lines).encode())))


def first_round(stop: str, score: object = 0.7501, target: object = 0.749, benchmark: str = "resnet") -> LogSummary:
    """A run of round 0.5 with this run_stop; `...` as target: none is logged."""
    events = [
        (1541720386.7, "run_start"),
        (1541728484.0, f"eval_accuracy: {json.dumps({'epoch': 61, 'value': score})}"),
        *([] if target is ... else [(1541728484.1, f"eval_target: {json.dumps(target)}")]),
        (1541728486.7, f"run_stop{stop}"),
    ]
    return summary_of(*(f":::MLPv0.5.0 {benchmark} {time_s} (a.py:49) {text}" for time_s, text in events))


MASKS = {"BBOX": 0.377, "SEGM": 0.339}


@pytest.mark.parametrize(
    ("stop", "score", "target", "status"),
    [
        ("", 0.7501, 0.749, "success"),
        ("", 0.749, 0.749, "success"),
        ("", 0.7489, 0.749, "aborted"),
        (": null", 0.7501, 0.749, "success"),
        (": {}", 0.1, 0.749, "aborted"),
        (': {"success": null}', 0.7501, 0.749, "success"),
        (': {"success": true}', 0.7501, 0.749, "success"),
        (': {"success": "true"}', 0.7501, 0.749, "success"),
        # 21.8 in single precision.
        (': {"success": true}', 21.799999237060547, 21.8, "success"),
        (': {"success": false}', 0.7501, 0.749, "aborted"),
        (': {"success": "false"}', 0.7501, 0.749, "aborted"),
        (': {"success": 0}', 0.7501, 0.749, "aborted"),
        ("", {"BBOX": 0.378, "SEGM": 0.34}, MASKS, "success"),
        ("", {"BBOX": 0.378, "SEGM": 0.33}, MASKS, "aborted"),
        ("", {"BBOX": 0.378}, MASKS, "aborted"),
        ("", 0.7501, ..., None),
        ("", "none", 0.749, None),
    ],
)
def test_a_run_of_the_first_round_succeeds_by_its_flag_or_else_by_its_target(stop, score, target, status):
    summary = first_round(stop, score, target)
    assert summary.status == status
    assert summary.minutes == pytest.approx(135.0) and summary.value("submission_benchmark") == "resnet"


def test_metadata_that_is_a_python_dictionary_is_read():
    summary = summary_of(
        ':::MLL 1560875000.0 submission_benchmark: {"value": "minigo", "metadata": {"lineno": 0, "file": "manual"}}',
        ":::MLL 1560875010.0 run_start: {\"value\": null, \"metadata\": {'lineno': 9, 'file': 'a.py'}}",
        ":::MLL 1560875622.0 eval_accuracy: {\"value\": 0.51, \"metadata\": {'lineno': 49, 'epoch_num': 14}}",
        ":::MLL 1560875622.1 run_stop: {\"value\": null, \"metadata\": {'lineno': 53, 'status': 'success'}}",
    )
    (evaluation,) = summary.evaluations
    assert summary.status == "success" and summary.bad_lines == 0
    assert evaluation.value == 0.51 and evaluation.event.epoch_num == 14


def test_a_time_that_is_no_number_makes_a_bad_line():
    for time_s in ("1.2.3", ".", "9" * 400):
        (line,) = legacy_logs.read_lines(io.BytesIO(f':::MLL {time_s} run_start: {{"value": null}}\n'.encode()))
        assert isinstance(line, BadLine) and line.line == 1


def test_the_last_of_several_tokens_in_a_line_counts():
    summary = summary_of(":::MLPv0.5.0 ssd 1.0 (a.py :::MLPv0.5.0 ssd 2.0 (a.py:1) run_start")
    assert summary.run_start is not None and summary.run_start.time_ms == 2000


PIECES = [":::MLL ", ":::MLPv0.5.0 ", "ssd ", "1541720386.7 ", "1e9 ", "(a.py:1) ", "run_stop", "eval_target", ": "]
VALUES = ["null", "NaN", "1e999", "[[]]", '{"success": [1]}', '{"value": {}, "metadata": 3}', "{'a': 1}", "\xff", '"']


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES + VALUES), max_size=8).map("".join), max_size=6))
def test_no_line_raises(lines):
    summary_of(*lines)
