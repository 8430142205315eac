"""Core's code contains no name of a reader, model, board, quantizer or method: those are the plugins' own words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stdet.known import known

CORE = Path(__file__).parents[1] / "packages" / "core" / "src" / "stdet"
METHODS = (
    "onnx_quantizer", "nncf", "aimet", "adaround", "smoothquant", "sequentialmse", "biascorrection", "int4share",
    "int16share", "equalization", "calibrate_method", "sensitivity", "minmax", "operating_mode", "full_auto", "normalise",
    "stedgeai", "stm32ai",
)  # fmt: skip
"""Words of a target's own, in any letter case."""


def plugin_names() -> list[str]:
    kinds = ("models", "datasets", "targets")  # recipes are called like architectures, whose heads core reads
    owners = [item for kind in kinds for item in known().provides[kind].items()]
    return [name for owner, names in owners if owner != "stdet-core" for name in names]


def code_words(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every identifier and every string that isn't documentation."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name | ast.arg):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.arg
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr


def found_in(path: Path) -> list[str]:
    names, methods = ("|".join(map(re.escape, found)) for found in (plugin_names(), METHODS))
    pattern = re.compile(rf"(?<![\w-])({names}|(?i:{methods}))(?![\w-])")
    return [f"{path.name}:{line}: {text}" for line, text in code_words(path) if pattern.search(text)]


def test_the_search_sees_a_name_in_code_and_passes_over_documentation(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text('"""About coco."""\nname = "coco"\nsection.full_auto = 1\nother = "cocoa"\n', encoding="utf-8")
    assert [line.split(":")[1] for line in found_in(planted)] == ["2", "3"]


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: path.relative_to(CORE).as_posix())
def test_no_file_of_core_names_what_a_plugin_brings(path: Path) -> None:
    module_of_the_metrics = "coco"
    assert not [found for found in found_in(path) if found.split(": ", 1)[1] != module_of_the_metrics]
