"""On a terminal of 80 columns every name can be read and copied, and nothing is cut off."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from stdet import api
from stdet.datatools.tables import findings_table, statistics_tables
from stdet.interfaces.deploy import BenchReport
from stdet.reports.bench_table import bench_tables
from stdet_cli.reporters import TerminalReporter
from stdet_cli.tables import drawn

MODEL = "ssdlite_mobilenetv3large_pt_coco_person_qdq_int8.onnx"


def shown(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(drawn(title, columns, rows, width))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    return text


@pytest.mark.parametrize("kind", ["models", "datasets", "transforms", "schedulers", "targets"])
def test_every_listed_name_stands_in_one_piece(kind: str) -> None:
    columns = ["name", "summary", "distribution", "version", "state"]
    items = api.list_components(kind)
    text = shown("", columns, [[str(getattr(item, column)) for column in columns] for item in items])
    assert all(f" {item.name} " in text for item in items)


def test_a_bench_of_two_long_names_says_all_of_each() -> None:
    reports = [
        BenchReport(f"{letter}_{MODEL}", "", "estimate", "", "", device="STM32N6570-DK", latency_ms=3.25)
        for letter in "ab"
    ]
    table, *_ = bench_tables(reports)
    text = shown(table.title, table.columns, table.rows)
    assert all(f"{letter}_{MODEL}\n" in text.replace(" ", "").replace("\n\n", "\n") for letter in "ab")
    assert text.count("STM32N6570-DK") == 2


def test_a_wide_table_with_short_names_is_turned_around() -> None:
    columns = ["model", *(f"latency ms (STM32N6570-DK, number {n})" for n in range(6))]
    text = shown("result", columns, [["float", *"123456"], ["int8", *"654321"]])
    assert "│ float │ int8 │" in text.replace("┃", "│")
    assert all(column in text for column in columns)


def test_findings_and_classes_keep_their_words() -> None:
    finding = {
        "severity": "error",
        "id": "D014",
        "split": "train",
        "message": "images whose size is not that of their annotation",
        "examples": ["/data/a_folder/" + "x" * 70 + ".jpg"],
    }
    table = findings_table({"findings": [finding], "counts": {"error": 1, "warning": 0}})
    text = shown(table.title, table.columns, table.rows)
    assert "D014" in text
    assert text.count("x") >= 70
    spread = dict.fromkeys(("p5", "p50", "p95"), 1.0)
    row = {"objects": 3, "images": 2, "side": spread, "aspect_ratio": spread}
    names = ["eastern_hemlock_looper_caterpillar", "b"]
    split = row | {"images_without_objects": 0, "ignored": 0, "objects_per_image": spread}
    split["classes"] = dict.fromkeys(names, row)
    for table in statistics_tables({"train": split, "val": split}):
        text = shown(table.title, table.columns, table.rows)
    assert all(name in text for name in names)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_width_loses_anything(width: int) -> None:
    cells = [["n" * 50, "a b c", "d" * 30], ["東京" * 10, "e", ""]]
    text = shown("t", ["name", "first", "second"], cells, width)
    assert (text.count("d") - text.count("second"), text.count("東")) == (30, 10)


def test_a_table_without_rows_shows_its_columns() -> None:
    assert "name" in shown("t", ["name", "first"], [])


def test_a_narrow_progress_line_keeps_its_label_and_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    reporter = TerminalReporter()
    losses = {"lr": 0.0005, "total": 12.5, "iou_loss": 4.4, "conf_loss": 5.46, "cls_loss": 1.5, "l1_loss": 1.2}
    reporter.progress("epoch 12/300", 1200, 12000, losses)
    reporter.progress("evaluate (validation)", 5, 50)
    reporter.stage("")
    text = out.getvalue()
    assert "…" not in text
    for said in ("epoch 12/300", "1200/12000", "lr 0.0005", "evaluate (validation)", "5/50"):
        assert said in text.replace(" 1200", "1200").replace("  ", " ")
