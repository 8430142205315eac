"""No config key is accepted and ignored: for each one `key_effects.yaml` names a test that sees what it does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from stdet.api import config_schema

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_name("key_effects.yaml")
LINES = [line.split(": ", 1) for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
EFFECTS = dict(LINES)
"""Dotted key to `path of a test file::test function`."""
UNPROVEN: dict[str, str] = {}
"""Keys whose effect no test sees yet, with the reason."""
MOST_UNPROVEN = 0
"""It may only shrink."""


def keys_of(node: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys below a node of a JSON schema that hold a value; sections and blocks are walked into."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    for key, value in node.get("properties", {}).items():
        if below := list(keys_of(value, schema, f"{prefix}{key}.")):
            yield from below
        elif value.get("type") != "object":
            yield prefix + key
    for choice in ("anyOf", "oneOf", "allOf"):
        for one in node.get(choice, []):
            yield from keys_of(one, schema, prefix)


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


@cache
def functions_of(path: Path) -> frozenset[str]:
    nodes = ast.parse(text_of(path)).body
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


def lie(key: str, test: str) -> str:
    """What is wrong with a line of the table; empty for a good one."""
    file, _, function = test.partition("::")
    if function not in functions_of(ROOT / file):
        return f"{key}: there is no {test}"
    name = key.rsplit(".", 1)[-1]
    return "" if re.search(rf"\b{re.escape(name)}\b", text_of(ROOT / file)) else f"{key}: {file} doesn't mention {name}"


def test_every_key_of_the_schema_has_a_test_that_sees_its_effect() -> None:
    schema = config_schema()
    keys = list(keys_of(schema, schema))
    assert len(keys) == len(set(keys)) > 150
    told = EFFECTS.keys() | UNPROVEN.keys()
    assert not [key for key in keys if key not in told], "add a test that sees the effect, and its line to the table"
    assert not told - set(keys), "these keys are gone"


def test_the_table_names_each_key_once_and_tests_that_exist_and_speak_of_it() -> None:
    assert len(LINES) == len(EFFECTS)
    assert not [found for key, test in EFFECTS.items() if (found := lie(key, test))]


def test_the_keys_without_proof_are_few_and_have_a_reason() -> None:
    print(*(f"{key}: {reason}" for key, reason in UNPROVEN.items()), sep="\n")
    assert len(UNPROVEN) <= MOST_UNPROVEN
    assert all(UNPROVEN.values())
    assert not EFFECTS.keys() & UNPROVEN.keys()


@pytest.mark.parametrize(
    ("key", "test", "said"),
    [
        ("training.epochs", "tests/no_such_file.py::test_a", "there is no"),
        ("training.epochs", "tests/test_every_key_has_an_effect.py::test_nothing", "there is no"),
        ("training.epochs", "tests/test_every_key_has_an_effect.py::keys_of", "there is no"),
        ("a." + "no" * 9, Path(__file__).relative_to(ROOT).as_posix() + "::test_a_line_that_lies_is_found", "mention"),
    ],
)
def test_a_line_that_lies_is_found(key: str, test: str, said: str) -> None:
    assert said in lie(key, test)


def test_blocks_references_and_choices_are_walked_into() -> None:
    block = {"type": "object", "properties": {"c": {"type": "string"}, "empty": {"type": "object", "properties": {}}}}
    schema: dict[str, Any] = {
        "$defs": {"Block": block},
        "properties": {"a": {"type": "integer"}, "b": {"anyOf": [{"$ref": "#/$defs/Block"}, {"type": "null"}]}},
    }
    assert list(keys_of(schema, schema)) == ["a", "b.c"]
