"""The description of a prepared dataset, which marks it as complete, and its verification stamp."""

from __future__ import annotations

import dataclasses
import re
import subprocess

import orjson
import pytest

from common.errors import UserError
from datasets.dataset import (
    LIBRISPEECH,
    Dataset,
    Split,
    Stamp,
    TreeDigest,
    description_path,
    is_prepared,
    read_dataset,
    read_stamp,
    stamp_path,
    write_description,
    write_stamp,
)
from datasets.manifest import Manifest, Utterance, write_jsonl


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "mini"
    folder.mkdir()
    write_jsonl(Manifest.of(folder, [Utterance("a", "a.flac", 1.0, "YES")]), folder / "mini_val_manifest.jsonl")
    split = Split("mini_val_manifest.jsonl", "mini_val_manifest.csv", 1, 1.0, None)
    return Dataset(
        folder, "mini", "LibriSpeech", {"val": split}, TreeDigest("ab" * 32, 1, 10240, 2), {"source": "test"}
    )


def test_a_description_is_read_back_unchanged(dataset):
    write_description(dataset)
    assert is_prepared(dataset.folder)
    assert read_dataset(dataset.folder) == dataset
    assert [u.text for u in read_dataset(dataset.folder).manifest("val")] == ["YES"]


def test_the_description_is_next_to_the_folder(dataset):
    write_description(dataset)
    assert description_path(dataset.folder) == dataset.folder.parent / "mini.dataset.json"
    assert [path.name for path in dataset.folder.iterdir()] == ["mini_val_manifest.jsonl"]


def test_a_folder_without_a_description_is_incomplete(dataset):
    assert not is_prepared(dataset.folder)
    with pytest.raises(UserError, match="incomplete"):
        read_dataset(dataset.folder)


def test_a_description_without_a_folder_is_not_a_dataset(dataset):
    write_description(dataset)
    (dataset.folder / "mini_val_manifest.jsonl").unlink()
    dataset.folder.rmdir()
    assert not is_prepared(dataset.folder)
    with pytest.raises(UserError, match="no dataset here") as caught:
        read_dataset(dataset.folder)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree.pop("digest"),
        lambda tree: tree.update(schema_version=99),
        lambda tree: tree.update(splits=[]),
        lambda tree: tree["splits"]["val"].pop("csv"),
        lambda tree: tree["splits"]["val"].update(manifest=5),
        lambda tree: tree["splits"]["val"].update(csv=None),
        lambda tree: tree["splits"]["val"].update(utterances="1"),
        lambda tree: tree["splits"]["val"].update(duration_s=[]),
        lambda tree: tree["splits"]["val"].update(speakers=True),
        lambda tree: tree["splits"].update(val=7),
        lambda tree: tree["digest"].update(tar_bytes=None),
        lambda tree: tree.update(provenance=[]),
    ],
)
def test_a_damaged_description_is_named(dataset, damage):
    write_description(dataset)
    path = description_path(dataset.folder)
    tree = orjson.loads(path.read_bytes())
    damage(tree)
    path.write_bytes(orjson.dumps(tree))
    with pytest.raises(UserError) as caught:
        read_dataset(dataset.folder)
    assert str(caught.value.where).startswith(str(path))


@pytest.mark.parametrize(("name", "folder_stays"), [("mini", False), ("my corpus", False), (LIBRISPEECH, True)])
def test_the_remedy_for_a_damaged_description_works(tmp_path, name, folder_stays):
    folder = tmp_path / name
    folder.mkdir()
    description_path(folder).write_bytes(b"{")
    with pytest.raises(UserError) as caught:
        read_dataset(folder)
    if folder_stays:
        assert "keep the folder" in caught.value.remedy
        return
    command = re.search(r"\((rm -r .*)\)", caught.value.remedy)[1]
    subprocess.run(command, shell=True, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null"])
def test_a_description_that_is_not_an_object_is_named(dataset, content):
    description_path(dataset.folder).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_dataset(dataset.folder)
    assert caught.value.where == str(description_path(dataset.folder))


def test_an_unknown_split_is_rejected_with_a_list_of_the_splits(dataset):
    with pytest.raises(UserError, match="no split 'test'") as caught:
        dataset.manifest("test")
    assert "val" in caught.value.remedy


def test_a_stamp_is_read_back_and_a_damaged_one_is_ignored(dataset):
    assert read_stamp(dataset.folder) is None
    stamp = Stamp("2026-01-02T03:04:05Z", "ab" * 32, True)
    write_stamp(dataset.folder, stamp)
    assert read_stamp(dataset.folder) == stamp
    for content in (b"", b"{}", b"[1]", orjson.dumps(dataclasses.asdict(stamp) | {"schema_version": 99})):
        stamp_path(dataset.folder).write_bytes(content)
        assert read_stamp(dataset.folder) is None


def test_writing_a_description_deletes_the_earlier_stamp(dataset):
    write_stamp(dataset.folder, Stamp("2026-01-02T03:04:05Z", "ab" * 32, False))
    write_description(dataset)
    assert read_stamp(dataset.folder) is None
