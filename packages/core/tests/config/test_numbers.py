"""The number parser against Python's own arithmetic, and against everything that must stay text."""

from __future__ import annotations

import ast
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdet.config.numbers import parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1/127.5", 1 / 127.5),
        ("1./255", 1 / 255),
        ("5e-4", 5e-4),
        ("-1", -1),
        (" 3 ", 3),
        ("(0.5, 1.5)", (0.5, 1.5)),
        ("(1/2, -2)", (0.5, -2)),
        ("(0.5)", 0.5),
        ("(1 + 2) * 3", 9),
        ("2 - 3 - 4", -5),
        ("(1,)", (1,)),
        (".5", 0.5),
    ],
)
def test_expressions_of_the_guide_are_numbers(text: str, value: object) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "2024_01_01",
        "1 2",
        "(1, 2",
        "1/0",
        "__import__('os')",
        "1e",
        "()",
        "1,2",
        "lambda: 1",
        "9**9",
        "nan",
        "0x10",
    ],
)
def test_anything_else_is_not_a_number(text: str) -> None:
    assert parse_number(text) is None


_LEAF = st.one_of(st.integers(0, 1000).map(str), st.floats(0.001, 1e4).map(repr))
_EXPRESSION = st.recursive(
    _LEAF,
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from("+-*/"), part).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        part.map(lambda p: f"-{p}"),
    ),
    max_leaves=6,
)


@given(_EXPRESSION)
def test_arithmetic_equals_pythons(text: str) -> None:
    try:
        expected = eval(compile(ast.parse(text, mode="eval"), "", "eval"), {"__builtins__": {}})  # noqa: S307
    except (ZeroDivisionError, OverflowError):
        expected = None
    found = parse_number(text)
    if expected is None or len(text) > 200:
        assert found is None
    else:
        assert isinstance(found, int | float)
        assert math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-300)


@given(st.text(alphabet="0123456789.eE+-*/(), ", max_size=60))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    parse_number(text)


def test_deep_nesting_is_not_a_number_rather_than_a_crash() -> None:
    assert parse_number("(" * 150 + "1" + ")" * 40) is None
