"""Staging folders: files behind a symbolic link are never deleted or overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UserError
from datasets.staging import staging
from datasets.synthesis.plans import synthetic
from datasets.synthesis.synthesise import synthesise


@pytest.mark.parametrize("name", ["mine", ".mine.part", ".mine.part/tree", ".mine.part/done", ".mine.part/lock"])
@pytest.mark.parametrize("leads_somewhere", [True, False])
def test_a_link_is_rejected_and_its_target_stays(tmp_path: Path, name: str, leads_somewhere: bool):
    precious = tmp_path / "elsewhere" / "tree" / "precious.flac"
    if leads_somewhere:
        precious.parent.mkdir(parents=True)
        precious.write_text("a year's work")
    link = tmp_path / "data" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(UserError, match="a symbolic link is in the dataset's place") as caught,
        staging(tmp_path / "data" / "mine"),
    ):
        pass
    assert caught.value.where == str(link)
    assert precious.exists() == leads_somewhere
    assert (tmp_path / "elsewhere").exists() == leads_somewhere


def test_synthesis_rejects_a_staging_folder_that_is_a_link(tmp_path: Path):
    corpus = synthetic(hours=4)
    other = tmp_path / "other"
    (other / "tree").mkdir(parents=True)
    (other / "tree" / "precious.flac").write_text("a year's work")
    (tmp_path / f".{corpus.name}.part").symlink_to(other)
    with pytest.raises(UserError, match="a symbolic link is in the dataset's place"):
        synthesise(corpus, tmp_path)
    assert [path.name for path in other.rglob("*.flac")] == ["precious.flac"]
