"""References in a config: what they become, where they end, and that the work is bounded whatever somebody writes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stdet.config.interpolation import MAX_TEXT, InterpolationError, resolve

TREE = {
    "a": {
        "number": 3,
        "text": "x",
        "none": None,
        "list": [1, {"deep": "d"}],
        "beside": "${.number}",
        "above": "${..b.c}",
    },
    "b": {"c": 2.5},
}


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        ("${a.number}", 3),
        ("${a.none}", None),
        ("${a.list}", [1, {"deep": "d"}]),
        ("${a.list[1].deep}", "d"),
        ("${a.list.0}", 1),
        ("${b}", {"c": 2.5}),
        ("n${a.number}/${a.text}", "n3/x"),
        ("${a.beside}${a.above}", "32.5"),
        (r"\\${a.number}".replace("\\\\", "\\"), "${a.number}"),
        ("plain $ {text}", "plain $ {text}"),
    ],
)
def test_a_reference_becomes_what_it_names(written: str, becomes: Any) -> None:
    assert resolve(TREE | {"x": {"y": written}})["x"]["y"] == becomes


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("${no.such}", "there is no `no`"),
        ("${a.number.more}", "there is no `a.number.more`"),
        ("${a.list[7]}", "there is no `a.list.7`"),
        ("${x.y}", "it comes back to itself"),
        ("${x}", "it comes back to itself"),
        ("${oc.env:HOME}", "asks for a function"),
        ("${oc.decode:1}", "asks for a function"),
        ("${}", "is no key"),
        ("text ${a.list}", "is no part of a text"),
    ],
)
def test_a_reference_that_leads_nowhere_is_told_with_its_key(written: str, said: str) -> None:
    with pytest.raises(InterpolationError, match=said.replace(".", r"\\.").replace("\\\\", "\\")) as caught:
        resolve(TREE | {"x": {"y": written}})
    assert caught.value.key.startswith("x")


@pytest.mark.parametrize(
    "bomb",
    [
        {"x0": "a" * 10} | {f"x{i}": f"${{x{i - 1}}}${{x{i - 1}}}" for i in range(1, 40)},
        {"x0": ["a"]} | {f"x{i}": [f"${{x{i - 1}}}", f"${{x{i - 1}}}"] for i in range(1, 40)},
        {"x0": {"k": 1}} | {f"x{i}": {"l": f"${{x{i - 1}}}", "r": f"${{x{i - 1}}}"} for i in range(1, 40)},
        {f"x{i}": f"${{x{i + 1}}}" for i in range(5000)},
    ],
)
def test_a_few_lines_that_double_without_end_are_refused_at_once(bomb: dict[str, Any]) -> None:
    start = time.process_time()
    with pytest.raises(InterpolationError):
        resolve(bomb)
    assert time.process_time() - start < 2


KEYS = st.sampled_from("abcd")
VALUES = st.recursive(
    st.one_of(
        st.integers(), st.none(), st.text("xy$ ", max_size=4), KEYS.map("${{{}}}".format), KEYS.map("<${{{}}}>".format)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_whatever_is_written_ends_in_plain_values_or_an_error_with_a_key(tree: dict[str, Any]) -> None:
    try:
        resolved = resolve(tree)
    except InterpolationError as error:
        assert error.key
        return
    assert resolved.keys() == tree.keys()
    assert "${" not in str(resolved)
    assert len(str(resolved)) < 10 * MAX_TEXT
