"""The README's tables: the published runs, and the variants with their target and division."""

from __future__ import annotations

from benchmark.params import load_variant, variant_names
from common.errors import EXIT_OK
from results import compare
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_is_what_compare_prints_of_the_published_runs(monkeypatch, capsys):
    table = README.split("readme_table.sh -->")[1].split("<!-- /published -->")[0].strip()
    monkeypatch.chdir(ROOT)
    assert compare.main(["results/published", "--format", "markdown"]) == EXIT_OK
    assert table == capsys.readouterr().out.strip(), "run `sh script/readme_table.sh`"
    assert "mini" in table


def test_every_variant_is_listed_with_its_target_and_division():
    for name in variant_names():
        (row,) = [line for line in README.splitlines() if line.startswith(f"| `{name}` |")]
        params = load_variant(name)
        assert f"{params.train.target_wer:.1f} %" in row
        assert row.rstrip(" |").endswith(params.division)
        assert f"| {params.train.batch_size} |" in row
