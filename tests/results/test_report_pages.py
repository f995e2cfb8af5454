"""The report for readers: who won and the minutes first, large groups, many pages, paper; and what is written where."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from common.errors import UserError
from results import report
from results.comparing.comparison import Comparison, compare_runs
from results.reading.discover import find_sources, labelled_path
from results.reading.load import read_run
from results.rendering.report_pages import MAX_PAGE_BYTES, report_pages
from results.rendering.report_tables import RANKING_PX, ranking_columns
from tests.conftest import DATA
from tests.results.test_results_report import HOSTILE, Page, open_browser
from tests.support.logs import MINI_PARAMS, FakeRun
from tests.support.mlperf_round import ONE_INSTANCE, ROUND, build_result
from tests.support.run_folders import FakeMachine, write_run, write_series

MANY = 14
"""Systems of the large group."""


def compared(*paths: object, **options: object) -> Comparison:
    """A comparison with everything that a report shows."""
    given = [labelled_path(str(path)) for path in paths]
    return compare_runs([read_run(source) for source in find_sources(given, [])], **options)


def written(folder: Path, *arguments: object) -> str:
    """The page that the command writes."""
    assert report.main([*map(str, arguments), "--html", str(folder / "report.html")]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def two_systems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    write_series(folder / "fast", 10, FakeMachine("fast-machine", gpus=2))
    write_series(folder / "slow", 10, FakeMachine("slow-machine", gpus=2), slower=2.5)
    return folder


@pytest.fixture(scope="module")
def many_systems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for number in range(MANY):
        fake = FakeRun(seed=number, train_s=9.0 + number)
        write_run(folder / f"box-{number:02d}" / "run", fake, FakeMachine(f"box-{number:02d}"))
    return folder


def headers(text: str) -> list[list[str]]:
    """The headers of every table."""
    return [
        re.findall(r"<th scope=\"col\"[^>]*>([^<]*)<", head) for head in re.findall(r"<thead>.*?</thead>", text, re.S)
    ]


def classes(page: Page, *names: str) -> list[str]:
    return [attributes.get("class", "") for name, attributes in page.elements if name in names]


def test_who_won_is_said_first_and_the_minutes_follow_the_system(two_systems, tmp_path):
    text = written(tmp_path, two_systems, "--baseline", "slow-machine")
    heading, won, table = text.index("<h2"), text.index('<p class="summary">'), text.index("<table")
    assert heading < won < table
    assert "fast-machine" in text[won:table] and "x as fast" in text[won:table]
    assert headers(text)[0][:4] == ["#", "system", "minutes", "speed-up"]


def test_the_score_of_weak_scaling_follows_the_system(tmp_path):
    org = tmp_path / "hpc_results_v2.0" / "Org"
    build_result(org, [10, 11, 12, 13, 14], kind="weak", benchmark="deepcam", logged=ONE_INSTANCE)
    assert headers(written(tmp_path, org.parent))[0][:4] == ["#", "system", "models/min", "minutes"]


def test_what_does_not_fit_beside_the_ranking_is_in_a_second_table(two_systems):
    (group,) = compared(two_systems, baseline="slow-machine").groups
    shown, others = ranking_columns(group)
    assert sum(each.width for each in shown) <= RANKING_PX
    assert [each.column.header for each in others[:2]] == ["#", "system"] and len(others) > 2
    important = {each.column.header for each in shown}
    assert {"minutes", "speed-up", "min-max", "runs", "accelerator"} <= important
    everything = important | {each.column.header for each in others}
    assert {"GPU %", "tensor %", "mem GB", "W", "kWh", "audio s/s"} <= everything


def test_a_small_group_has_one_table_for_all_its_figures(many_systems):
    (group,) = compared(many_systems / "box-00").groups
    shown, others = ranking_columns(group)
    assert others == [] or sum(each.width for each in shown) + others[-1].width > RANKING_PX


def test_a_large_group_draws_the_best_eight_and_the_named_in_colour(many_systems, tmp_path):
    named = [f"mine={many_systems / 'box-12'}", *(many_systems / f"box-{n:02d}" for n in range(MANY) if n != 12)]
    text = written(tmp_path, *named, "--baseline", "box-10")
    page = Page(text)
    bars, curves = classes(page, "rect"), classes(page, "polyline")
    # The best eight, the baseline and the row with a label; the parts of the time are stacked bars of four parts each.
    assert bars.count("bar other") == MANY - 10
    assert len(bars) - bars.count("bar other") == 10 + 4 * 10
    assert curves.count("curve other") == 2 * (MANY - 10) and len(curves) > 2 * MANY
    for key in re.findall(r'<ul class="key">.*?</ul>', text, re.S):
        if "box-" in key:
            assert [name in key for name in ("box-00", "box-07", "box-08", "box-10", "mine")] == [1, 1, 0, 1, 1]
    assert text.count("Grey: the other 4 systems.") == 2
    # The tables have every system.
    assert len(re.findall(r"<tr", text[text.index("<tbody") : text.index("</tbody")])) == MANY


def test_much_slower_systems_do_not_squeeze_the_bars_of_the_best(many_systems, tmp_path):
    for number in range(3):
        slow = FakeRun(seed=number, train_s=3000.0 + number)
        write_run(tmp_path / f"slow-{number}" / "run", slow, FakeMachine(f"slow-{number}"))
    text = written(tmp_path, many_systems, tmp_path)
    assert "Not drawn: 3 systems with much longer bars." in text and "minutes (logarithmic)" in text


def test_many_labels_do_not_colour_everything(many_systems, tmp_path):
    labelled = [f"label-{number}={many_systems / f'box-{number:02d}'}" for number in range(MANY)]
    assert classes(Page(written(tmp_path, *labelled)), "rect").count("bar other") == MANY - 8


def test_notes_and_reasons_keep_the_case_of_their_words(tmp_path):
    for number in range(2):
        write_run(tmp_path / f"run-{number}", FakeRun(seed=5, org="acme"), FakeMachine("gpu-box"))
    harder = dataclasses.replace(MINI_PARAMS, train=dataclasses.replace(MINI_PARAMS.train, target_wer=20.0))
    write_run(tmp_path / "harder", FakeRun(params=harder, word_edits=(250,)), FakeMachine("gpu-box"))
    text = written(tmp_path, tmp_path)
    assert "<li>acme / gpu-box: " in text
    assert re.search(r"Not ranked with group 1: .*other target WER \([0-9]+, not [0-9]+\)", text)


def test_provenance_has_each_folder_once_and_points_are_one_element_for_each_bar(two_systems, tmp_path):
    text = written(tmp_path, two_systems)
    assert text.count(str(two_systems / "fast")) == 1 and text.count(str(two_systems / "slow")) == 1
    assert len(re.findall(r"<td class=\"code\">[0-9a-f]{64}</td>", text)) == 20
    page = Page(text)
    assert classes(page, "path").count("dots") == 2 and "dot" not in classes(page, "circle")
    for points in re.findall(r'points="([^"]*)"', text):
        assert not re.search(r"\.0\b|\.[0-9]{2}", points)


def pages_of(comparison: Comparison, most_bytes: int, name: str = "report.html") -> dict[str, str]:
    return {page.name: page.content.decode() for page in report_pages(comparison, "A title", name, most_bytes)}


@pytest.fixture(scope="module")
def several_benchmarks(tmp_path_factory):
    """Results of three benchmarks, one of them in two rounds, and runs of ours."""
    folder = tmp_path_factory.mktemp("several")
    for version, benchmark in (("4.0", "resnet"), ("5.0", "resnet"), ("5.0", "bert")):
        for org in ("Fast", "Slow"):
            place = folder / f"training_results_v{version}" / org
            build_result(place, [10 + len(org) * n for n in range(5)], benchmark=benchmark)
    write_series(folder / "ours", 2)
    return folder


def test_a_report_that_fits_is_one_page(several_benchmarks):
    comparison = compared(several_benchmarks)
    assert list(pages_of(comparison, MAX_PAGE_BYTES)) == ["report.html"]


def test_a_large_report_is_an_index_with_a_page_for_each_benchmark(several_benchmarks):
    comparison = compared(several_benchmarks)
    comparison.problems.append("some-log: a problem")
    whole = len(pages_of(comparison, MAX_PAGE_BYTES)["report.html"])
    pages = pages_of(comparison, whole - 1)
    assert sorted(pages) == ["report-bert.html", "report-deepspeech2.html", "report-resnet.html", "report.html"]
    index = pages.pop("report.html")
    assert "<svg" not in index and "Problems with the sources" in index and "some-log: a problem" in index
    for group in comparison.groups:
        home = f"report-{group.aspects.benchmark}.html"
        assert f'href="{home}#g{group.number}"' in index
        assert [name for name, text in pages.items() if f'<section id="g{group.number}"' in text] == [home]
        if group.aspects.benchmark != "deepspeech2":
            assert group.summary and Page(index).text.count(group.summary) >= 1
    for text in pages.values():
        assert '<a href="report.html">A title</a>' in text and "some-log" not in text and len(text) < whole
        assert "Content-Security-Policy" in text and "<script" not in text


def test_a_page_of_one_benchmark_that_is_too_large_is_divided_by_round(several_benchmarks):
    comparison = compared(several_benchmarks, benchmark="resnet")
    whole = len(pages_of(comparison, MAX_PAGE_BYTES)["report.html"])
    assert sorted(pages_of(comparison, whole - 1)) == [
        "report-resnet-round-4.0.html",
        "report-resnet-round-5.0.html",
        "report.html",
    ]


def test_hostile_and_equal_names_of_benchmarks_give_safe_and_distinct_files(tmp_path):
    names = [HOSTILE, "../../etc/passwd", "a/b", "a\\b", "A b", "x" * 300, "..."]
    for number, name in enumerate(names):

        def renamed(lines, name=name):
            return [line.replace('"deepspeech2"', json.dumps(name), 1) for line in lines]

        write_run(tmp_path / f"run-{number}", FakeRun(seed=number), edit=renamed)
    comparison = compared(tmp_path)
    pages = pages_of(comparison, 0, "odd name: é.html")
    assert len(pages) == len(comparison.groups) + 1 == len({name.casefold() for name in pages})
    for name in pages:
        assert len(name.encode()) < 200 and "/" not in name and "\\" not in name and not name.startswith(".")
    links = {link["href"].split("#")[0] for link in Page(pages["odd name: é.html"]).all("a")} - {""}
    assert all(re.fullmatch(r"[A-Za-z0-9%._-]+", link) for link in links)
    assert {unquote(link) for link in links} == set(pages) - {"odd name: é.html"}


def test_what_was_written_is_reported_in_singular_and_plural(several_benchmarks, tmp_path, capsys):
    sources = find_sources([labelled_path(str(several_benchmarks))])
    pages = report_pages(compared(several_benchmarks), "A title", "r.html", 0)
    report.write_pages(tmp_path / "r.html", pages, sources)
    reported = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'r-deepspeech2.html'}: 1 row in 1 group" in reported
    assert reported[-1] == f"{tmp_path / 'r.html'}: index of {len(pages) - 1} pages with 7 rows in 4 groups"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(page.name for page in pages)


def test_no_page_overwrites_an_input(tmp_path):
    log = tmp_path / "report-deepspeech2.html"
    write_run(tmp_path / "other" / "run", FakeRun(seed=1), FakeMachine("other-box"))
    build_result(tmp_path / "training_results_v5.0" / "Org", [10, 11, 12])
    log.write_text(FakeRun().text())
    paths = [labelled_path(str(path)) for path in (log, tmp_path / "training_results_v5.0")]
    pages = report_pages(compared(*(path.path for path in paths)), "A title", "report.html", 0)
    before = log.read_bytes()
    with pytest.raises(UserError, match="one of the inputs"):
        report.write_pages(tmp_path / "report.html", pages, find_sources(paths))
    assert log.read_bytes() == before and not (tmp_path / "report.html").exists()


def test_telemetry_and_linked_files_are_inputs_too(two_systems, tmp_path):
    telemetry = next(two_systems.glob("fast/*/telemetry.csv"))
    (tmp_path / "link.html").symlink_to(telemetry)
    for file in (telemetry, tmp_path / "link.html"):
        with pytest.raises(UserError, match="one of the inputs"):
            report.main([str(two_systems), "--html", str(file)])


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path):
    for file in (tmp_path / "missing" / "r.html", tmp_path):
        with pytest.raises(UserError, match="existing folder"):
            report.main([str(tmp_path / "no-such-run"), "--html", str(file)])


def test_two_systems_have_their_telemetry_open_and_more_have_it_closed(two_systems, many_systems, tmp_path):
    assert written(tmp_path, two_systems).count("<details open>") == 1
    text = written(tmp_path, many_systems)
    assert "<details open>" not in text and "over one run of each system" in text


RANKINGS = """[...document.querySelectorAll("section > .scroll, section > details > .scroll")].map(box => {
    const headers = [...box.querySelectorAll("thead th")].map(each => each.textContent);
    const cells = [...box.querySelectorAll("tbody tr")].map(row => row.children[headers.indexOf("minutes")]);
    const ends = cells.filter(each => each && each.textContent).map(each => each.getBoundingClientRect().right);
    return {headers, hidden: box.scrollWidth - box.clientWidth, end: Math.max(...ends), window: innerWidth};
})"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_on_a_phone_rank_system_and_minutes_are_on_the_screen(chromium, two_systems, tmp_path):
    for number, more in enumerate(([DATA / ROUND, "--baseline", "slow-machine"], ["--baseline", "slow-machine"])):
        page = tmp_path / f"{number}.html"
        report.main([str(two_systems), *map(str, more), "--html", str(page)])
        chromium.open(page, 390)
        rankings = [each for each in chromium.value(RANKINGS) if each["headers"][:3] == ["#", "system", "minutes"]]
        assert len(rankings) == 2 - number
        for ranking in rankings:
            assert ranking["window"] == 390 and ranking["end"] <= 390, ranking
        assert chromium.value("document.documentElement.scrollWidth") <= 390


def test_on_a_computer_no_column_of_the_ranking_is_cut_off(chromium, two_systems, tmp_path):
    page = tmp_path / "report.html"
    report.main([str(two_systems), str(DATA / ROUND), "--baseline", "slow-machine", "--html", str(page)])
    chromium.open(page, 1400)
    chromium.value("document.querySelectorAll('details').forEach(each => { each.open = true })")
    tables = [each for each in chromium.value(RANKINGS) if "#" in each["headers"]]
    assert len(tables) >= 3 and [each["hidden"] for each in tables] == [0] * len(tables)


def test_two_systems_are_printed_on_few_sheets_and_closed_details_stay_closed(chromium, two_systems, tmp_path):
    text = written(tmp_path, two_systems, "--baseline", "slow-machine")
    assert "details-content" not in text
    chromium.open(tmp_path / "report.html", 1000)
    assert chromium.printed_pages() <= 2
    chromium.value("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert chromium.printed_pages() > 2


def test_relative_and_absolute_paths_of_one_row(tmp_path, monkeypatch):
    for name in "ab":
        write_series(tmp_path / name, 2, seed_offset=ord(name))
    monkeypatch.chdir(tmp_path)
    page = Page(written(tmp_path, "a", tmp_path / "b"))
    assert "Provenance (logs: 4)" in page.text
    assert all(f"{name}/run-0{number}" in page.text for name in "ab" for number in range(2))
