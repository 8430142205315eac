"""The search for a network that fits: against a list that is tried in full."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdet.errors import ModelError
from stdet.fitting import Candidate, in_a_line, largest, why_not
from stdet.interfaces.deploy import BenchReport, Overflow


def report(**facts: Any) -> BenchReport:
    return BenchReport("m.onnx", "0", "b", "tool", "1", **({"fits": True, "device": "a board"} | facts))


@given(st.lists(st.integers(1, 100), max_size=12, unique=True).map(sorted), st.integers(0, 100))
def test_the_largest_that_will_do_is_found_with_few_tries(sizes: list[int], limit: int) -> None:
    tried: list[int] = []

    def judge(size: int) -> Candidate:
        tried.append(size)
        return Candidate(str(size), report(), "" if size <= limit else "too large")

    found = largest(sizes, judge)
    wanted = max((size for size in sizes if size <= limit), default=None)
    assert (found and found.change) == (None if wanted is None else str(wanted))
    assert len(tried) == len(set(tried)) <= 5


def test_each_memory_that_overflows_is_named_with_its_excess() -> None:
    both = (Overflow("flash", 3 * 1024, 2 * 1024), Overflow("internal RAM", 5000, 4096))
    assert why_not(report(fits=False, overflows=both), None) == (
        "flash overflows by 1.0 KiB: 3.0 KiB needed, 2 KiB there; "
        "internal RAM overflows by 0.9 KiB: 4.9 KiB needed, 4 KiB there"
    )


def test_a_latency_above_the_limit_is_a_fault_and_one_below_is_none() -> None:
    slow = report(latency_ms=20.0, latency_kind="model")
    assert why_not(slow, 10) == "20.0 ms are more than 10 ms"
    assert why_not(slow, 20) == ""
    assert why_not(slow, None) == ""


def test_without_a_latency_a_limit_can_not_be_kept_and_the_reason_is_told() -> None:
    assert (
        why_not(report(latency_reason="no figures"), 10) == "whether it takes at most 10 ms can't be told: no figures"
    )


def test_a_device_of_unknown_memory_is_an_error_that_says_what_to_name() -> None:
    with pytest.raises(ModelError, match="nothing is known of the memory of a board"):
        why_not(report(fits=None), None)


def test_a_line_before_training_has_verdict_latency_kind_and_error() -> None:
    known = report(latency_ms=12.34, latency_kind="model", uncertainty_percent=18.0)
    assert in_a_line(known) == "the model fits; 12.3 ms ± 18 % (model, no measurement)"
    full = report(fits=False, overflows=(Overflow("flash", 2048, 1024),), latency_reason="no figures")
    assert in_a_line(full) == "flash overflows by 1.0 KiB: 2.0 KiB needed, 1 KiB there; no latency: no figures"
