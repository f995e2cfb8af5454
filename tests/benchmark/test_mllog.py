"""Log lines: what is written is read back in order, or raises; what cannot be read is reported with its line."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlperf_logging.compliance_checker.mlp_parser import parse_file

from benchmark import mllog
from benchmark.mllog import BadLine, Event, LogWriter, parse_line, read_lines, read_log

LINE = b':::MLLOG {"namespace": "", "time_ms": 5, "event_type": "POINT_IN_TIME", "key": "seed", "value": 7, "metadata": {}}'


def read(data: bytes) -> list[Event | BadLine]:
    return list(read_lines(io.BytesIO(data)))


def write_some(log: LogWriter) -> None:
    log.event(mllog.SEED, 7)
    log.start(mllog.EPOCH_START, epoch_num=1)
    log.event(mllog.EVAL_ACCURACY, 41.5, epoch_num=1, cer=None, note="ü")
    log.end(mllog.RUN_STOP, status="success")


def test_what_is_written_reads_back_in_order():
    lines: list[str] = []
    write_some(LogWriter(lines.append))
    events = read("\n".join(lines).encode())
    assert [event.key for event in events] == ["seed", "epoch_start", "eval_accuracy", "run_stop"]
    assert [event.event_type for event in events] == [
        "POINT_IN_TIME",
        "INTERVAL_START",
        "POINT_IN_TIME",
        "INTERVAL_END",
    ]
    assert [event.line for event in events] == [1, 2, 3, 4]
    assert (events[2].value, events[2].epoch_num, events[2].metadata["note"]) == (41.5, 1, "ü")
    assert events[3].metadata["status"] == "success"
    times = [event.time_ms for event in events]
    assert times == sorted(times) and all(time_ms == int(time_ms) for time_ms in times)


def test_mlperfs_own_parser_reads_what_is_written(tmp_path):
    path = tmp_path / "result_0.txt"
    with open(path, "w") as file:
        write_some(LogWriter(lambda line: print(line, file=file)))
    lines, failures = parse_file(str(path), ruleset="5.1.0")
    assert not failures
    assert [line.key for line in lines] == ["seed", "epoch_start", "eval_accuracy", "run_stop"]


def test_a_line_names_the_place_that_wrote_it_without_the_machines_folders():
    lines: list[str] = []
    write_some(LogWriter(lines.append))
    source = Path(__file__).read_text().splitlines()
    for line in lines:
        metadata = json.loads(line.partition(" ")[2])["metadata"]
        assert metadata["file"] == "tests/benchmark/test_mllog.py"
        assert "    log." in source[metadata["lineno"] - 1]


def test_an_error_of_the_sink_reaches_the_caller():
    def full(line: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        LogWriter(full).event(mllog.SEED, 7)


def test_a_value_that_json_cannot_hold_raises():
    lines: list[str] = []
    with pytest.raises((ValueError, TypeError)):
        LogWriter(lines.append).event(mllog.SEED, object())
    assert not lines


def test_writers_do_not_share_their_sinks():
    first: list[str] = []
    second: list[str] = []
    one, two = LogWriter(first.append), LogWriter(second.append)
    one.event("a")
    two.event("b")
    assert (len(first), len(second)) == (1, 1)


@pytest.mark.parametrize("prefix", [b"", b"0: ", b"2026-01-01 12:00 [rank0] ", b"\xff\x00 ", b"text :::MLLOG-like "])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b" \t\n"])
def test_prefixes_and_line_ends_are_tolerated(prefix, end):
    (event,) = read(prefix + LINE + end)
    assert isinstance(event, Event) and (event.key, event.value, event.line) == ("seed", 7, 1)


def test_two_lines_that_ran_together_give_the_last():
    (event,) = read(b":::MLLOG {broken " + LINE)
    assert isinstance(event, Event)


@pytest.mark.parametrize(
    "text",
    [
        b":::MLLOG ",
        b":::MLLOG {",
        b":::MLLOG null",
        b":::MLLOG []",
        b":::MLLOG 3",
        b':::MLLOG "key"',
        b":::MLLOG {}",
        LINE[:-1],
        LINE.replace(b'"seed"', b"5"),
        LINE.replace(b'"seed"', b"null"),
        LINE.replace(b"5,", b'"5",'),
        LINE.replace(b"5,", b"true,"),
        LINE.replace(b"5,", b"NaN,"),
        LINE.replace(b"{}}", b"[1]}"),
        LINE.replace(b"{}}", b'"x"}'),
        LINE.replace(b', "value": 7', b""),
        LINE.replace(b'"seed"', b'"\xff"'),
    ],
)
def test_a_line_that_is_no_event_is_reported_with_its_number(text):
    good, bad, again = read(LINE + b"\n" + text + b"\n" + LINE)
    assert isinstance(good, Event) and isinstance(again, Event) and again.line == 3
    assert isinstance(bad, BadLine)
    assert bad.line == 2 and bad.reason and bad.text.startswith(":::MLLOG")


def test_null_metadata_is_empty():
    (event,) = read(LINE.replace(b"{}}", b"null}"))
    assert event.metadata == {} and event.epoch_num is None


def test_lines_without_the_token_are_ignored():
    assert read(b"hello\n\n:::MLL {}\n:::MLLOG\n\xff\xfe\x00\n") == []
    assert parse_line(b"hello") is None


@pytest.mark.parametrize("extra", [0, 1, 1000, 3 * mllog.MAX_LINE_BYTES])
def test_a_line_too_long_is_reported_and_the_next_ones_read(extra):
    long = LINE.replace(b"7", b'"' + b"x" * (mllog.MAX_LINE_BYTES + extra) + b'"')
    bad, event = read(long + b"\n" + LINE)
    assert isinstance(bad, BadLine) and bad.line == 1 and "longer than" in bad.reason and len(bad.text) <= 200
    assert isinstance(event, Event) and event.line == 2
    assert read(b"x" * (mllog.MAX_LINE_BYTES + extra) + b"\n" + LINE)[0].line == 2


def test_the_longest_line_is_read():
    padding = mllog.MAX_LINE_BYTES - len(LINE) - 2
    (event,) = read(LINE.replace(b"7", b'"' + b"x" * (padding - 1) + b'"') + b"\n")
    assert isinstance(event, Event)


def test_a_log_file_is_read_into_events_and_bad_lines(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(LINE + b"\r\nnoise\n:::MLLOG {broken\n" + LINE)
    events, bad = read_log(path)
    assert [event.line for event in events] == [1, 4]
    assert [line.line for line in bad] == [3]


json_value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(
    st.text(min_size=1),
    json_value,
    st.dictionaries(st.from_regex(re.compile("[a-z_]{3,9}"), fullmatch=True), json_value),
)
def test_any_value_that_json_holds_reads_back(key, value, metadata):
    lines: list[str] = []
    LogWriter(lines.append).event(key, value, **metadata)
    (line,) = lines
    assert "\n" not in line
    (event,) = read(line.encode("utf-8", "surrogatepass"))
    assert isinstance(event, Event)
    assert (event.key, event.value) == (key, value)
    assert {name: event.metadata[name] for name in metadata} == metadata


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from([LINE, b":::MLLOG ", b"\n", b"\r", b"{", b"}", b'"', b"\x00", b"\xff"]) | st.binary(max_size=9)
    )
)
def test_any_bytes_give_events_and_bad_lines_with_rising_numbers(pieces):
    found = read(b"".join(pieces))
    numbers = [item.line for item in found]
    assert numbers == sorted(set(numbers))
    for item in found:
        if isinstance(item, Event):
            assert isinstance(item.key, str) and math.isfinite(item.time_ms) and isinstance(item.metadata, dict)
        else:
            assert item.reason


@settings(max_examples=60)
@given(st.integers(0, len(LINE)), st.integers(0, 4), st.binary(max_size=4))
def test_any_damage_to_a_line_is_an_event_a_report_or_no_line(start, length, replacement):
    for item in read(LINE[:start] + replacement + LINE[start + length :]):
        assert isinstance(item, Event | BadLine)


def lines_one_by_one(data: bytes, skipped: frozenset[str]) -> list[Event | BadLine]:
    """What `read_lines` must return, by a straightforward reading of the file line by line."""
    found: list[Event | BadLine] = []
    for number, raw in enumerate(lines_of(data), 1):
        length = len(raw.rstrip(b"\n")) + 1
        if length > mllog.MAX_LINE_BYTES:
            if mllog.TOKEN in raw[: mllog.MAX_LINE_BYTES]:
                text = raw[:200].decode("utf-8", "replace").rstrip()
                found.append(BadLine(number, f"the line is longer than {mllog.MAX_LINE_BYTES} bytes", text))
            continue
        parsed = parse_line(raw, number)
        if parsed is not None and not (isinstance(parsed, Event) and parsed.key in skipped):
            found.append(parsed)
    return found


def lines_of(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def without_position(item: Event | BadLine) -> Event | BadLine:
    """The item without the place in the line at which orjson stopped, which depends on the line break after it."""
    return item._replace(reason=item.reason.split(" (")[0]) if isinstance(item, BadLine) else item


pieces = st.sampled_from(
    [
        LINE,
        LINE.replace(b"seed", b"block_start"),
        b":::MLLOG ",
        b":::MLLOG {",
        b"x",
        b"\n",
        b"\r\n",
        b"\r",
        b"\0",
        b"[0] ",
        b"y" * 90,
    ]
)


@pytest.mark.parametrize("block", [7, 64, 250])
@settings(max_examples=60)
@given(st.lists(pieces, max_size=14))
def test_reading_in_blocks_gives_what_reading_line_by_line_gives(block, parts):
    data, skipped = b"".join(parts), frozenset({"block_start"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mllog, "BLOCK_BYTES", block)
        patch.setattr(mllog, "MAX_LINE_BYTES", 300)
        found = list(read_lines(io.BytesIO(data), skipped))
        assert list(map(without_position, found)) == list(map(without_position, lines_one_by_one(data, skipped)))
