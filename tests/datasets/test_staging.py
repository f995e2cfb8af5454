"""Where a data set grows: nothing that lies behind a link is emptied or written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UserError
from datasets.staging import staging
from datasets.synthesis.plans import synthetic
from datasets.synthesis.synthesise import synthesise


@pytest.mark.parametrize("name", ["mine", ".mine.part", ".mine.part/tree", ".mine.part/done", ".mine.part/lock"])
@pytest.mark.parametrize("leads_somewhere", [True, False])
def test_a_link_in_the_way_is_refused_and_what_it_leads_to_stays(tmp_path: Path, name: str, leads_somewhere: bool):
    precious = tmp_path / "elsewhere" / "tree" / "precious.flac"
    if leads_somewhere:
        precious.parent.mkdir(parents=True)
        precious.write_text("a year's work")
    link = tmp_path / "data" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(UserError, match="a link is in the data set's way") as refused,
        staging(tmp_path / "data" / "mine"),
    ):
        pass
    assert refused.value.where == str(link)
    assert precious.exists() == leads_somewhere
    assert (tmp_path / "elsewhere").exists() == leads_somewhere


def test_a_synthesis_leaves_alone_what_its_unfinished_folder_is_linked_to(tmp_path: Path):
    corpus = synthetic(hours=4)
    other = tmp_path / "other"
    (other / "tree").mkdir(parents=True)
    (other / "tree" / "precious.flac").write_text("a year's work")
    (tmp_path / f".{corpus.name}.part").symlink_to(other)
    with pytest.raises(UserError, match="a link is in the data set's way"):
        synthesise(corpus, tmp_path)
    assert [path.name for path in other.rglob("*.flac")] == ["precious.flac"]
