"""Tables and the page of bench reports."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from stdet.interfaces.deploy import BenchReport
from stdet.reports.bench_page import bench_page
from stdet.reports.bench_table import bench_tables

LAYER = {
    "name": "stem <0>", "op_type": "Conv", "output_shape": [1, 8, 4, 4], "macc": 10, "weights_bytes": 20,
    "internal_bytes": 1024, "external_bytes": 512, "latency_ms": 0.5, "processor": "NPU",
}  # fmt: skip


def report(model: str = "a.onnx", **facts: Any) -> BenchReport:
    known = {"device": "Board", "activations_bytes": 1536, "weights_bytes": 2048} | facts
    return BenchReport(model, f"sha of {model}", "estimate", "tool", "1", **known)


ESTIMATED = {"latency_ms": 12.5, "latency_kind": "model", "uncertainty_percent": 18.0, "fits": True}
MEASURED = {"latency_ms": 3.0, "latency_kind": "measured", "latency_p10_ms": 2.9, "latency_p90_ms": 3.2}


def test_a_latency_stands_under_its_kind_with_its_error() -> None:
    (table,) = bench_tables([report(**ESTIMATED), report(**MEASURED, device="host")])
    by_formula, measured = (table.columns.index(f"latency ms ({kind})") for kind in ("by a formula", "measured"))
    assert [row[by_formula] for row in table.rows] == ["12.50 ± 18 %", "–"]
    assert [row[measured] for row in table.rows] == ["–", "3.00 (2.90 to 3.20)"]


@pytest.mark.parametrize(("fits", "word"), [(True, "fits"), (False, "DOES NOT FIT"), (None, "–")])
def test_every_row_names_the_board_and_says_whether_it_fits(fits: bool | None, word: str) -> None:
    table = bench_tables([report(fits=fits)])[0]
    assert table.rows[0][:3] == ["a.onnx", "Board", word]


def test_instructions_have_a_column_of_their_own_and_are_no_latency() -> None:
    table = bench_tables([report(instructions=174_408_984)])[0]
    assert table.rows[0][table.columns.index("instructions M")] == "174.41"
    assert not any("latency" in column for column in table.columns)


def test_a_reason_stands_among_the_remarks_once_for_all_models() -> None:
    _, remarks = bench_tables(
        [report("a.onnx", latency_reason="no figures"), report("b.onnx", latency_reason="no figures")]
    )
    assert remarks.rows == [["a.onnx, b.onnx", "no latency: no figures"]]


class Checker(HTMLParser):
    """Every element is closed in its turn; `links` are attributes that would load something."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.rectangles = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [f"{tag} {key}" for key, _ in attrs if key in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.rectangles += tag == "rect"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_the_page_is_well_formed_needs_nothing_else_and_escapes_names() -> None:
    details = {"layers": [LAYER], "pools": [{"name": "RAM", "bytes": 2048}]}
    page = bench_page([report("<script>.onnx", **ESTIMATED, details=details, operators={"NPU": 1})])
    checker = parsed(page)
    assert checker.links == []
    assert checker.rectangles == 3  # RAM inside, RAM outside, time
    assert "<script>" not in page
    assert "stem &lt;0&gt;" in page
    assert "RAM full: 2 KiB" in page


def test_models_with_known_accuracy_are_compared_within_one_kind_of_latency() -> None:
    details = {"layers": [], "pools": [{"name": "RAM", "bytes": 4096}]}
    reports = [report("a.onnx", **ESTIMATED, details=details), report("b.onnx", **ESTIMATED, details=details)]
    page = bench_page(reports, {"sha of a.onnx": 0.4, "sha of b.onnx": 0.5})
    parsed(page)
    assert page.count("<circle") == 4
    assert "accuracy against latency in ms, by a formula, Board" in page
    assert "internal RAM 4" in page
    mixed = bench_page([reports[0], report("b.onnx", **MEASURED)], {"sha of a.onnx": 0.4, "sha of b.onnx": 0.5})
    assert "accuracy against latency in ms, measured, Board" in mixed
    assert "accuracy against latency in ms, by a formula, Board" in mixed


def test_without_accuracy_the_comparison_says_what_is_missing() -> None:
    assert "No accuracy is known" in bench_page([report("a.onnx"), report("b.onnx")])
