"""What each distribution declares is what it imports: read from its sources and its `pyproject.toml`."""

from __future__ import annotations

import ast
import functools
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in [*ROOT.glob("packages/*/pyproject.toml"), ROOT / "cli" / "pyproject.toml"])
INSTALLED = packages_distributions()
EVERYTHING = "all"
"""The extra of the command line that installs all of stdet: it names what nobody imports."""


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


OURS: dict[str, str] = {next((f / "src").glob("stdet*")).name: project(f)["name"] for f in FOLDERS}


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def distribution(module: str) -> str:
    """The distribution that a module belongs to; itself where it isn't installed."""
    return OURS.get(module) or canonicalize_name(INSTALLED.get(module, [module])[0])


OF_A_TOOL = {"stm-ai-runner"}
"""Lies in the folder of an external tool, and is imported there by a process of its own; no registry has it."""
BEHIND = {"mmengine.registry": "packaging", "torch.utils.tensorboard": "tensorboard"}
"""Modules that import another distribution than their own; mmengine does not declare it."""


@dataclass
class Imports:
    """Distributions that a package imports: at the top of a module, or when a function runs; and names it looks up."""

    always: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)


@functools.cache
def imports(folder: Path) -> Imports:
    found = Imports()
    for path in folder.glob("src/**/*.py"):
        for node, in_function in walk(ast.parse(path.read_text()), False):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                found.texts.add(distribution(node.value))
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [str(node.module)]
            where = found.later if in_function else found.always
            where.update(BEHIND[module] for module in modules if module in BEHIND)
            tops = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
            where.update(distribution(top) for top in tops)
    own = project(folder)["name"]
    found.always.discard(own)
    found.later -= found.always | {own} | OF_A_TOOL
    return found


def walk(node: ast.AST, in_function: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it runs only when a function is called."""
    yield node, in_function
    inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from walk(child, inside)


def extras(folder: Path) -> set[str]:
    found = project(folder).get("optional-dependencies", {})
    return names([text for extra, texts in found.items() if extra != EVERYTHING for text in texts])


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_what_is_imported_whenever_the_package_is_used_is_a_dependency(folder: Path) -> None:
    assert imports(folder).always - names(project(folder)["dependencies"]) == set()


def test_what_is_imported_later_is_a_dependency_or_an_extra(folder: Path) -> None:
    assert imports(folder).later - names(project(folder)["dependencies"]) - extras(folder) == set()


def test_every_dependency_is_imported_or_looked_up_by_its_name(folder: Path) -> None:
    found = imports(folder)
    assert names(project(folder)["dependencies"]) - found.always - found.later - found.texts == set()


def test_every_extra_is_imported_or_looked_up_by_its_name(folder: Path) -> None:
    found = imports(folder)
    assert extras(folder) - found.later - found.texts == set()


def test_no_dependency_on_a_package_of_ours_is_pinned(folder: Path) -> None:
    texts = project(folder)["dependencies"]
    ours = [Requirement(t) for t in texts if t.startswith("stdet-")]
    assert all({spec.operator for spec in r.specifier} == {">=", "<"} for r in ours)
