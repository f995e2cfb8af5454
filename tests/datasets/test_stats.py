"""`python -m datasets stats` reports the contents of a dataset."""

from pathlib import Path

import pytest

from common.errors import EXIT_ERROR, EXIT_OK, run_cli
from datasets.command_options import default_folder
from datasets.commands import main
from datasets.dataset import Dataset, Split, TreeDigest, write_description
from datasets.manifest import Manifest, Utterance, write_jsonl
from datasets.stats import histogram


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    utterances = [Utterance(f"{n % 3}-1-{n}", f"{n}.flac", 1.0 + n, "HELLO THERE" if n else "IT'S") for n in range(9)]
    write_jsonl(Manifest.of(folder, utterances), folder / "mine_train_manifest.jsonl")
    split = Split("mine_train_manifest.jsonl", "mine_train_manifest.csv", 9, 45.0, 3)
    write_description(Dataset(folder, "mine", "flac", {"train": split}, TreeDigest("", 0, 0, 0), {}))
    return folder


def stats(*arguments: object) -> int:
    return run_cli(lambda: main(["stats", *map(str, arguments)]))


def test_all_figures_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert stats(folder) == EXIT_OK
    out = capsys.readouterr().out
    assert "mine train\n" in out
    for line in (
        "  utterances 9", "  hours      0.01", "  speakers   3", "  words      17, 3 different",
        "  shortest   1.00 s  0-1-0  IT'S", "  median     5.00 s", "  longest    9.00 s  2-1-8  HELLO THERE",
        "      0-  2 s         1 #########################", "      2-  4 s         2 " + "#" * 50,
        "  alphabet   10 of 28 characters (never: ABCDFGJKMNPQUVWXYZ)",
    ):  # fmt: skip
        assert line + "\n" in out


def test_the_histogram_counts_every_utterance():
    lines = histogram([0.1, 1.99, 2.0, 35.2])
    assert sum(int(line.split("s", 1)[1].split()[0]) for line in lines) == 4
    assert len(lines) == 18


@pytest.mark.parametrize("arguments", [["/nowhere"], ["--split", "dev"]])
def test_errors_are_one_line(folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert stats(*([folder] if "--split" in arguments else []), *arguments) == EXIT_ERROR
    assert capsys.readouterr().err.count("\n") == 1


def test_the_default_is_the_largest_prepared_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert default_folder() == tmp_path / "mini"
    for name in ("mini", "synthetic", "LibriSpeech_dataset"):
        (tmp_path / name).mkdir()
        write_description(Dataset(tmp_path / name, name, "LibriSpeech", {}, TreeDigest("", 0, 0, 0), {}))
        assert default_folder() == tmp_path / name
