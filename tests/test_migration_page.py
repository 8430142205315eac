"""docs/migration.md: what it says of our keys is true, and it leaves out none of the reference's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stdet import api

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("STDET_SHARED", ROOT.parent / "shared"))
ROW = re.compile(r"\| `([\w.]+)` \| (same|–|`[\w.]+`) \| (.*) \|")
SECTIONS = {
    2: ("general",),
    3: ("model",),
    4: ("dataset",),
    5: ("preprocessing",),
    6: ("postprocessing",),
    7: ("training",),
    8: ("training",),
    9: ("quantization",),
    10: ("evaluation", "prediction"),
}
"""Of the tables A.2 to A.10 of the reference's facts; A.1 and A.11 name keys in full."""
OF_ONE = {"gen_npy_input", "gen_npy_output", "npy_in_name", "npy_out_name", "seed", "reid_distance_metric"}
"""Keys of A.10 that only one of its two sections has."""
IN_SHORT = {
    "…output": "deployment.hardware_setup.output",
    "…input": "deployment.hardware_setup.input",
    "…stlink_serial_number": "deployment.hardware_setup.stlink_serial_number",
    "…ip_address": "deployment.ip_address",
    ".min_lr_ratio": "optimizer.X.min_lr_ratio",
}


@pytest.fixture(scope="module")
def ours() -> set[str]:
    """Every config key."""
    schema = api.config_schema()

    def walk(node: dict[str, Any], prefix: str) -> Iterator[str]:
        for key, value in node.get("properties", {}).items():
            yield prefix + key
            for part in (value, *value.get("anyOf", ())):
                target = schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
                yield from walk(target, f"{prefix}{key}.")

    return {"operation_mode", *walk(schema, "")}


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str, str]]:
    """(theirs, here, difference) of each key."""
    text = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    found = ROW.findall(text)
    assert len(found) == text.partition("## Keys")[2].count("\n| `")
    return found


def test_each_key_of_ours_exists_and_what_is_not_here_is_not(rows: list[tuple[str, str, str]], ours: set[str]) -> None:
    for theirs, here, difference in rows:
        if here == "same" and ".optimizer." not in theirs:
            assert theirs in ours, theirs
        elif here == "–":
            assert theirs not in ours, theirs
        elif here.startswith("`"):
            assert here.strip("`") in ours, here
        named = re.findall(r"`([a-z]+\.[\w.]+)`", difference)
        assert not [key for key in named if key not in ours and not key.endswith(".log")], theirs


def test_no_key_is_listed_twice(rows: list[tuple[str, str, str]]) -> None:
    names = [theirs for theirs, _, _ in rows]
    assert len(set(names)) == len(names)


def test_no_key_of_the_reference_is_left_out(rows: list[tuple[str, str, str]]) -> None:
    path = SHARED / "reference" / "st_services.md"
    if not path.is_file():
        pytest.skip("no facts about the reference here")
    listed = {theirs for theirs, _, _ in rows}
    missing = [names for names in _theirs(path.read_text(encoding="utf-8")) if not listed & set(names)]
    assert not missing


def _theirs(text: str) -> Iterator[list[str]]:
    """The names that each key of the facts may have in our table, section first."""
    part = text[text.index("## A. Every") : text.index("## B. Operation")]
    number = 0
    for line in part.splitlines():
        if heading := re.match(r"### A\.(\d+)", line):
            number = int(heading[1])
        if not line.startswith("| `"):
            continue
        for cell in re.findall("`([^`]+)`", line.split("|")[1]):
            name = IN_SHORT.get(cell, cell)
            prefix, braces, inner = name.partition("{")
            for key in [prefix + one.strip() for one in inner.rstrip("}").split(",")] if braces else [name]:
                if number in (1, 11):
                    yield [key]
                elif key in OF_ONE and number == 10:
                    yield [f"{section}.{key}" for section in SECTIONS[number]]
                else:
                    yield from ([f"{section}.{key}"] for section in SECTIONS[number])
