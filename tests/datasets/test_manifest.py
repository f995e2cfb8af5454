"""Manifests: written manifests are read back unchanged, and errors name file and line."""

from __future__ import annotations

import string

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.files import write_atomically
from datasets.manifest import (
    ALPHABET,
    Manifest,
    Utterance,
    check_text,
    normalise_text,
    read_csv,
    read_jsonl,
    write_csv,
    write_jsonl,
)

VALID_ROW = {"id": "a", "audio": "a.flac", "duration_s": 1.5, "text": "YES"}


def write_lines(path, *rows):
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def test_utterances_come_sorted_by_length_then_id(tmp_path):
    utterances = [Utterance(id, f"{id}.flac", s, "A") for id, s in (("c", 2.0), ("b", 1.0), ("a", 2.0))]
    manifest = Manifest.of(tmp_path, utterances)
    assert [u.id for u in manifest] == ["b", "a", "c"]
    assert len(manifest) == 3 and manifest.duration_s == 5.0
    assert manifest.audio_path(manifest.utterances[0]) == tmp_path / "b.flac"


def test_absolute_audio_paths_stay_as_they_are(tmp_path):
    manifest = Manifest.of(tmp_path, [Utterance("a", "/somewhere/a.flac", 1.0, "A")])
    assert str(manifest.audio_path(manifest.utterances[0])) == "/somewhere/a.flac"


def test_a_duplicate_id_is_rejected(tmp_path):
    with pytest.raises(UserError, match="'a' occurs twice"):
        Manifest.of(tmp_path, [Utterance("a", "x.flac", 1.0, "A"), Utterance("a", "y.flac", 2.0, "B")])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
            st.floats(1e-3, 1e4),
            st.text("".join(sorted(ALPHABET)), min_size=1),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda row: row[0],
    )
)
def test_a_jsonl_manifest_is_read_back_unchanged(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp()
    # Durations are written in microseconds, so they are rounded before comparing and sorting.
    utterances = [Utterance(name, name, max(round(s, 6), 1e-6), text) for name, s, text in rows]
    manifest = Manifest.of(folder, utterances)
    write_jsonl(manifest, folder / "m.jsonl")
    assert read_jsonl(folder / "m.jsonl") == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ""}, "not empty"),
        ({"text": "caffé"}, "alphabet"),
        ({"text": 3}, "strings"),
        ({"id": ""}, "not empty"),
        ({"duration_s": 0}, "above 0"),
        ({"duration_s": -1.0}, "above 0"),
        ({"duration_s": True}, "above 0"),
        ({"duration_s": "1"}, "above 0"),
        ({"duration_s": None}, "above 0"),
        ({"audio": "a\0.flac"}, "NUL"),
        ({"more": 1}, "expected an object"),
    ],
)
def test_an_invalid_line_is_named(tmp_path, change, message):
    path = write_lines(tmp_path / "m.jsonl", VALID_ROW, VALID_ROW | {"id": "b"} | change)
    with pytest.raises(UserError, match=message) as caught:
        read_jsonl(path)
    assert caught.value.where == f"{path}:2"


@pytest.mark.parametrize("line", [b"", b"[1]", b"{", b"\xff\xfe", b"nul", b"[" * 5000, b'{"duration_s": 1e999}'])
def test_a_line_that_is_not_an_object_is_named(tmp_path, line):
    path = tmp_path / "m.jsonl"
    path.write_bytes(orjson.dumps(VALID_ROW) + b"\n" + line + b"\n")
    with pytest.raises(UserError) as caught:
        read_jsonl(path)
    assert caught.value.where == f"{path}:2"


def test_a_missing_or_empty_manifest_is_reported(tmp_path):
    with pytest.raises(UserError, match="no such manifest"):
        read_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="empty"):
        read_jsonl(write_lines(tmp_path / "m.jsonl"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_as_jsonl_are_read_or_rejected(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(data)
    check_read_or_rejected(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.fixed_dictionaries({"id": JSON, "audio": JSON, "duration_s": JSON, "text": JSON}), max_size=3))
def test_any_values_in_jsonl_are_read_or_rejected(tmp_path_factory, rows):
    check_read_or_rejected(write_lines(tmp_path_factory.getbasetemp() / "fuzz.jsonl", *rows))


def check_read_or_rejected(path):
    """The only exception is UserError, and a manifest that is read must be usable."""
    try:
        manifest = read_jsonl(path)
    except UserError:
        return
    for utterance in manifest:
        check_text(utterance.text, "here")
        assert 0 < utterance.duration_s < float("inf")


PATHS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda path: path == path.strip()
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(PATHS, PATHS), min_size=1, max_size=5))
def test_csv_rows_are_read_back_unchanged(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "round.csv"
    write_csv(rows, path)
    read = [(audio, transcript) for _, audio, transcript in read_csv(path)]
    assert read == [(path.parent / audio, path.parent / transcript) for audio, transcript in rows]


def test_csv_lines_are_counted_from_one_and_blank_lines_skipped(tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes("\ufeffa b.wav, a.txt \r\n\r\n/x/b.wav,b.txt".encode())
    assert [(line, str(audio.name), transcript.name) for line, audio, transcript in read_csv(path)] == [
        (1, "a b.wav", "a.txt"),
        (3, "b.wav", "b.txt"),
    ]


@pytest.mark.parametrize("line", [b"a.wav", b"a,b,c", b"a,", b" ,b", b"\xff,b", b"a\0,b", b"a," + b"b" * 200_000])
def test_an_invalid_csv_row_is_named(tmp_path, line):
    path = tmp_path / "m.csv"
    path.write_bytes(b"a.wav,a.txt\n" + line + b"\n")
    with pytest.raises(UserError) as caught:
        list(read_csv(path))
    assert caught.value.where == f"{path}:2"


def test_a_missing_csv_is_reported(tmp_path):
    with pytest.raises(UserError, match="no such manifest"):
        list(read_csv(tmp_path / "none.csv"))


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200) | st.text('a,"\r\n\0 é', max_size=60).map(str.encode))
def test_any_bytes_as_csv_are_read_or_rejected(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(data)
    try:
        for _, audio, transcript in read_csv(path):
            # The file system accepts every path that is returned.
            audio.is_file(), transcript.is_file()
            assert "\0" not in f"{audio}{transcript}"
    except UserError:
        return


@given(st.text())
def test_normalised_text_is_upper_case_with_single_spaces(text):
    normal = normalise_text(text)
    assert normal == normalise_text(normal) or not set(normal) <= ALPHABET
    assert "  " not in normal and normal == normal.strip()


def test_the_alphabet_is_that_of_the_reference():
    assert set(string.ascii_uppercase + "' ") == ALPHABET
    check_text("DON'T STOP", "here")
    with pytest.raises(UserError, match=r"'-' '3' '_'"):
        check_text("A_3-B", "here")


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:

        def fail(*_):
            raise OSError(28, "No space left on device")

        patch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="No space"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
