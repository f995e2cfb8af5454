"""The rules of docs/architecture.md, checked by reading the sources: imports, names, and sizes of modules and folders."""

from __future__ import annotations

import ast
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Each package and the packages of ours that it may import besides itself.
MAY_IMPORT = {
    "common": set(),
    "datasets": {"common"},
    "benchmark": {"common", "datasets"},
    "reference_model": {"common", "benchmark", "datasets"},
    "results": {"common", "benchmark", "datasets", "compliance"},  # COMPLIANCE_USED_BY alone
    "compliance": {"common", "benchmark", "datasets"},
    "examples": {"common", "benchmark", "datasets"},
    "script": {"common"},
}
COMPLIANCE_USED_BY = "results/reading/run_check.py"
OURS = {*MAY_IMPORT, "tests", "benches"}
TORCH = {"torch", "torchaudio", "torchvision"}
MAX_MODULE_LINES = 400
MAX_MODULES_PER_FOLDER = 16
SAME_LINES = 6

# The one module that imports a library or reads a variable; all others call it.
ONLY_IMPORTED_BY = {
    "pynvml": "benchmark/machine/nvml.py",
    "mlperf_logging.mllog": "benchmark/mllog.py",
}
RANKS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
RANKS_READ_BY = "reference_model/training/distributed.py"

# script/set_up.py runs before anything is installed, and so does all that it imports of ours.
NOTHING_INSTALLED = [
    "script/set_up.py",
    "script/pip_install.py",
    "common/__init__.py",
    "common/locks.py",
    "common/errors.py",
    "common/progress.py",
]

MODULES = sorted(path.relative_to(ROOT).as_posix() for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))
BENCHES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "benches").rglob("*.py"))
TESTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))
ALL_MODULES = MODULES + BENCHES + TESTS


@cache
def syntax(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"), module)


def imports(tree: ast.Module, package: tuple[str, ...] = ()) -> Iterator[str]:
    """Dotted names of everything that a module imports, inside functions too; `package` resolves relative imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += [node.module] if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield from (str(value.value) for value in node.args[:1] if isinstance(value, ast.Constant))


def imports_of(module: str) -> set[str]:
    return set(imports(syntax(module), Path(module).parent.parts))


def touches(name: str, library: str) -> bool:
    return name == library or name.startswith(library + ".")


def test_a_package_imports_only_the_packages_below_it():
    wrong = {}
    for module in MODULES:
        package = module.split("/")[0]
        ours = {name.split(".")[0] for name in imports_of(module)} & OURS
        if not ours <= MAY_IMPORT[package] | {package}:
            wrong[module] = ours
    assert not wrong


def test_one_module_of_results_uses_the_compliance_check():
    """Without `--check`, nothing of it is needed."""
    using = {module for module in MODULES if any(touches(name, "compliance") for name in imports_of(module))}
    assert {module for module in using if not module.startswith("compliance/")} == {COMPLIANCE_USED_BY}


def test_every_import_is_absolute():
    relative = [
        f"{module}:{node.lineno}"
        for module in ALL_MODULES
        for node in ast.walk(syntax(module))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def circle(imported: dict[str, set[str]]) -> list[str]:
    """Modules each of which imports the next, the last being the first again; empty where there are none.

    `imported`: for each module's path, the dotted names that it imports.
    """
    paths = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in imported}
    below: dict[str, set[str]] = {}
    for path, names in imported.items():
        # `from a.b import c` may name the module a.b.c, or a thing in a.b.
        prefixes = ({name, name.rpartition(".")[0]} for name in names)
        below[path] = {paths[max(known, key=len)] for known in (each & set(paths) for each in prefixes) if known}
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


def test_no_modules_import_each_other_in_a_circle():
    assert circle({module: imports_of(module) for module in MODULES + BENCHES}) == []


def test_a_circle_is_seen_through_a_third_module():
    imported = {"a/up.py": {"a.mid.f"}, "a/mid.py": {"b.low", "math"}, "b/low.py": set(), "b/__init__.py": set()}
    assert circle(imported) == []
    found = circle(imported | {"b/low.py": {"a.up"}})
    assert found[0] == found[-1] and set(found) == {"a/up.py", "a/mid.py", "b/low.py"}
    assert ("a/up.py", "a/mid.py") in itertools.pairwise(found)


def test_only_the_reference_model_imports_torch():
    importing = {module for module in MODULES if {name.split(".")[0] for name in imports_of(module)} & TORCH}
    assert {module.split("/")[0] for module in importing} == {"reference_model"}


def test_each_of_these_libraries_is_imported_by_one_module():
    for library, only in ONLY_IMPORTED_BY.items():
        importing = {module for module in MODULES if any(touches(name, library) for name in imports_of(module))}
        assert importing == {only}, f"only {only} imports {library}"


def test_only_one_module_reads_the_rank():
    for module in set(MODULES) - {RANKS_READ_BY}:
        for node in ast.walk(syntax(module)):
            read = None
            if isinstance(node, ast.Subscript) and "environ" in ast.unparse(node.value):
                read = node.slice
            elif isinstance(node, ast.Call) and node.args:
                function = ast.unparse(node.func)
                if function.endswith(("environ.get", "getenv", "environ.pop", "environ.setdefault")):
                    read = node.args[0]
            if isinstance(read, ast.Constant):
                assert read.value not in RANKS, f"{module}:{node.lineno}: only {RANKS_READ_BY} reads {read.value}"


def test_no_module_is_too_long_to_be_read_whole():
    lengths = {module: len((ROOT / module).read_text(encoding="utf-8").splitlines()) for module in MODULES + BENCHES}
    assert {module: lines for module, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}


def test_no_folder_holds_too_many_modules():
    folders = Counter(module.rpartition("/")[0] for module in ALL_MODULES if not module.endswith("/__init__.py"))
    assert {folder: count for folder, count in folders.items() if count > MAX_MODULES_PER_FOLDER} == {}


def test_a_modules_name_is_used_once():
    """Who searches for `score.py` finds one file."""
    names = Counter(module.rpartition("/")[2] for module in MODULES)
    assert {name for name, count in names.items() if count > 1} == {"__init__.py", "__main__.py"}


def test_every_package_says_what_it_holds():
    for module in MODULES:
        if module.endswith("/__init__.py"):
            assert ast.get_docstring(syntax(module)), module


def blocks(source: str) -> Iterator[tuple[str, ...]]:
    """Every run of SAME_LINES lines of code, without their indentation; comments, blank lines and imports do not count."""
    imported = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = [line.strip() for number, line in enumerate(source.splitlines(), 1) if number not in imported]
    code = [line for line in lines if line and not line.startswith("#")]
    yield from zip(*(code[first:] for first in range(SAME_LINES)), strict=False)


def test_results_and_compliance_share_no_copied_code():
    """`compliance` may not import `results`, which tempts to copy: a copy is soon another rule."""
    found: dict[tuple[str, ...], str] = {}
    for module in MODULES:
        package = module.split("/")[0]
        if package in ("results", "compliance"):
            for block in blocks((ROOT / module).read_text(encoding="utf-8")):
                other = found.setdefault(block, module)
                assert other.split("/")[0] == package, f"{other} and {module} both hold:\n" + "\n".join(block)


def test_equal_blocks_are_seen_through_indentation_and_comments():
    lines = [f"f({number})" for number in range(SAME_LINES)]
    other = "\n".join(["import os", "def g():", *(f"    {line}  \n\n    # why" for line in lines)])
    assert set(blocks("\n".join(lines))) & set(blocks(other)) == {tuple(lines)}


def test_set_up_needs_the_standard_library_alone():
    for module in NOTHING_INSTALLED:
        at_import = [node for node in syntax(module).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name.split(".")[0] for name in imports(ast.Module(at_import, []), Path(module).parent.parts)}
        assert names <= set(sys.stdlib_module_names) | {"common", "script"}, module


def test_the_reader_sees_every_kind_of_import():
    """The tests above are only as good as this."""
    source = """
import torch.nn as nn
from . import sibling
from .. import above
from benchmark import params
def lazily():
    from torchaudio.transforms import MFCC
    import importlib
    importlib.import_module("results.reading.load")
"""
    found = set(imports(ast.parse(source), ("reference_model", "inner")))
    assert found == {
        "torch.nn",
        "reference_model.inner.sibling",
        "reference_model.above",
        "benchmark.params",
        "torchaudio.transforms.MFCC",
        "importlib",
        "results.reading.load",
    }


def test_every_package_with_a_rule_exists():
    assert {module.split("/")[0] for module in MODULES} == set(MAY_IMPORT)
