"""The plan of docs/architecture.md, kept true by reading the sources: who may import whom, and how long a module may be."""

from __future__ import annotations

import ast
import itertools
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each package and the packages of ours that it may import besides itself.
FLOORS = {
    "common": set(),
    "datasets": {"common"},
    "benchmark": {"common", "datasets"},
    "reference_model": {"common", "benchmark", "datasets"},
    "results": {"common", "benchmark", "datasets"},
    "compliance": {"common", "benchmark", "datasets"},
    "examples": {"common", "benchmark", "datasets"},
    "script": {"common"},
}
OURS = {*FLOORS, "tests", "benches"}
TORCH = {"torch", "torchaudio", "torchvision"}
MAY_IMPORT_TORCH = {"reference_model"}
LONGEST_MODULE = 400
SAME_LINES = 6

# The one module that may import a library, or read a variable: everyone else goes through it.
GATES = {
    "pynvml": "benchmark/machine/nvml.py",
    "mlperf_logging.mllog": "benchmark/mllog.py",
}
RANKS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
RANKS_GATE = "reference_model/training/distributed.py"

# script/set_up.py runs before anything is installed, and so does all that it imports of ours.
NOTHING_INSTALLED = [
    "script/set_up.py",
    "script/pip_install.py",
    "common/__init__.py",
    "common/locks.py",
    "common/errors.py",
    "common/progress.py",
]

MODULES = sorted(path.relative_to(ROOT).as_posix() for package in FLOORS for path in (ROOT / package).rglob("*.py"))
BENCHES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "benches").rglob("*.py"))


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


@pytest.mark.parametrize("module", MODULES)
def test_a_package_imports_only_the_floors_below_it(module):
    package = module.split("/")[0]
    ours = {name.split(".")[0] for name in imports_of(module)} & OURS
    assert ours <= FLOORS[package] | {package}


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


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_the_models_business_alone(module):
    used = {name.split(".")[0] for name in imports_of(module)} & TORCH
    assert not used or module.split("/")[0] in MAY_IMPORT_TORCH


@pytest.mark.parametrize("module", MODULES)
def test_a_library_with_a_gate_is_imported_there_alone(module):
    for library, gate in GATES.items():
        if module != gate:
            assert not [name for name in imports_of(module) if touches(name, library)], f"only {gate} imports {library}"


@pytest.mark.parametrize("module", MODULES)
def test_only_one_module_reads_the_rank(module):
    if module == RANKS_GATE:
        return
    for node in ast.walk(syntax(module)):
        read = None
        if isinstance(node, ast.Subscript) and "environ" in ast.unparse(node.value):
            read = node.slice
        elif isinstance(node, ast.Call) and node.args:
            function = ast.unparse(node.func)
            if function.endswith(("environ.get", "getenv", "environ.pop", "environ.setdefault")):
                read = node.args[0]
        if isinstance(read, ast.Constant):
            assert read.value not in RANKS, f"{module}:{node.lineno}: only {RANKS_GATE} reads {read.value}"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_outgrows_its_reader(module):
    assert len((ROOT / module).read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


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


def test_what_results_and_compliance_both_need_stands_below_them():
    """They may not import each other, which tempts to copy: a copy is soon another rule."""
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


@pytest.mark.parametrize("module", NOTHING_INSTALLED)
def test_the_standard_library_suffices_for_the_set_up(module):
    tree = syntax(module)
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name.split(".")[0] for name in imports(ast.Module(at_import, []), Path(module).parent.parts)}
    assert names <= set(sys.stdlib_module_names) | {"common", "script"}


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


def test_every_package_of_the_plan_is_there():
    assert {module.split("/")[0] for module in MODULES} == set(FLOORS)
