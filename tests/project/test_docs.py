"""The documentation: what it names exists, its links resolve, its index is complete, its lines are not too wide."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.errors import EXIT_FAILED, EXIT_OK, UserError
from script import check_markdown
from tests.conftest import ROOT
from tests.project.test_architecture import MAY_IMPORT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
PACKAGES = [*MAY_IMPORT, "benches", "tests"]
FOLDERS = [*PACKAGES, "docs", "docker"]
MAX_README_WORDS = 1000
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"\b(?:[A-Z]{2,}|N)\b|\*")


def code_spans(text: str) -> set[str]:
    """The code spans of a page (text in backticks outside code blocks), with line breaks as spaces."""
    return {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))}


def exists(name: str) -> bool:
    """Whether a path of the repository exists; a word in capitals stands for any name (`compliance/rcp/VARIANT.json`)."""
    return (ROOT / name).exists() or any(ROOT.glob(PLACEHOLDER.sub("*", name)))


def module_exists(name: str) -> bool:
    """Whether `package.module` is a module or package, or `package.module.NAME` something that the module's source defines."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        sources = [path.with_suffix(".py"), path / "__init__.py", path / "__main__.py"]
        source = next((each for each in sources if each.is_file()), None)
        if source:
            rest = parts[length:]
            return not rest or bool(re.search(rf"^(?:def |class )?{rest[0]}\b", source.read_text(), re.MULTILINE))
    return False


def test_every_path_in_backticks_exists():
    path = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./*-]*(?:\.\w+|/)")
    found = {(page, span) for page, text in TEXTS.items() for span in code_spans(text) if path.fullmatch(span)}
    assert len(found) > 100
    assert not [f"{page}: {span}" for page, span in found if not exists(span)]


def test_every_module_that_is_named_exists():
    dotted = re.compile(rf"((?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?:\(.*\))?")
    named = {(page, m[1]) for page, text in TEXTS.items() for span in code_spans(text) if (m := dotted.fullmatch(span))}
    started = re.compile(rf"-m ((?:{'|'.join(PACKAGES)})\b[\w.]*)")
    named |= {(page, name) for page, text in TEXTS.items() for name in started.findall(text)}
    assert len(named) > 20
    assert not [f"{page}: {name}" for page, name in named if not module_exists(name)]


def test_every_script_that_is_named_exists():
    missing = [
        f"{page}: {script}"
        for page, text in TEXTS.items()
        for script in re.findall(r"\bsh ([\w/-]+\.sh)\b", text)
        if not any((folder / script).is_file() for folder in (ROOT, ROOT / "docker"))
    ]
    assert not missing


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE):
        slug = (
            re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).strip().replace(" ", "-")
        )
        found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{number}" if number else slug for slug, last in found.items() for number in range(last + 1)}


def test_links_and_their_anchors_resolve():
    broken = []
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
            if re.match(r"\w+:", target):
                continue
            file, _, anchor = target.partition("#")
            path = ((ROOT / page).parent / file) if file else ROOT / page
            if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
                broken.append(f"{page}: {target}")
    assert not broken


def test_anchors_are_those_of_github():
    text = "# Set-up: `a_b`, [c](d.md)\n```\n# no heading\n```\n## Same\n## Same\n"
    assert anchors(text) == {"set-up-a_b-c", "same", "same-1"}


def test_the_index_names_every_page_once():
    linked = re.findall(r"^- \[[^\]]+\]\(([\w-]+\.md)\): ", TEXTS["docs/index.md"], re.MULTILINE)
    assert sorted(linked) == sorted(
        page.name for page in PAGES if page.parent.name == "docs" and page.name != "index.md"
    )


def test_the_architecture_page_names_every_folder():
    section = TEXTS["docs/architecture.md"].split("\n## Folders\n")[1].split("\n## ")[0]
    named = re.findall(r"^\| `([\w/]+)/` \|", section, re.MULTILINE)
    code = {path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    folders = {folder.as_posix() for folder in code if folder.parts[0] != "tests"} | {"tests", "docs", "docker"}
    assert folders <= set(named), "a folder without a line"
    assert len(named) == len(set(named))


def test_the_architecture_page_has_the_import_rules_that_are_tested():
    section = TEXTS["docs/architecture.md"].split("\n## Import rules\n")[1].split("\n## ")[0]
    stated = {}
    for row in re.findall(r"^\| (`.*)\|$", section, re.MULTILINE):
        packages, allowed = (set(re.findall(r"`(\w+)`", cell)) for cell in row.split("|"))
        stated |= dict.fromkeys(packages, allowed)
    assert stated == MAY_IMPORT


def test_the_readme_is_short():
    """The generated tables do not count: they grow with every published run."""
    written = re.sub(r"<!-- (\w+): .*?<!-- /\1 -->", "", TEXTS["README.md"], flags=re.DOTALL)
    assert len(written.split()) <= MAX_README_WORDS


def test_no_markdown_is_too_wide(capsys):
    if not (ROOT / ".git").exists():
        pytest.skip("the list of files comes from git")
    assert check_markdown.main([]) == EXIT_OK, capsys.readouterr().out


def test_a_wide_line_is_named_with_file_line_and_columns(tmp_path, capsys):
    file = tmp_path / "page.md"
    wide = "word " * 25
    link = f"- [one link](https://example.org/{'a' * 120})"
    file.write_text("\n".join(["short", wide[:120], link, "```", wide[:121], "```", f"| {wide}|"]) + "\n")
    assert check_markdown.main([str(file)]) == EXIT_FAILED
    assert capsys.readouterr().out == f"{file}:5: 121 columns\n{file}:7: 128 columns\n"


def test_generated_lines_may_be_wide(tmp_path, capsys):
    file = tmp_path / "page.md"
    wide = "| " + "cell | " * 20
    file.write_text(f"<!-- table: sh make_table.sh -->\n{wide}\n<!-- /table -->\n{wide}\n", encoding="utf-8")
    assert check_markdown.main([str(file)]) == EXIT_FAILED
    assert capsys.readouterr().out == f"{file}:4: {len(wide)} columns\n"


def test_a_page_that_is_not_text_is_a_user_error(tmp_path: Path):
    file = tmp_path / "page.md"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=re.escape(str(file))):
        check_markdown.main([str(file)])
