"""The table at the end of a run shows what every backend found, and never two kinds of latency in one column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stdet.artifacts import ModelFile
from stdet.evaluation.coco import EvaluationReport
from stdet.interfaces.deploy import BenchReport
from stdet.runs.record import RunRecord
from stdet.runs.results import Benched, Evaluated, NotQuantized, Predicted, Quantized, Trained
from stdet.runs.summary import summary
from stdet.structures import Thresholds

THRESHOLDS = Thresholds(0.001, 0.65)


@pytest.fixture
def files(tmp_path: Path) -> tuple[ModelFile, ModelFile]:
    """A float ONNX of 2 KiB and an int8 one of 0.5 KiB, as far as their sizes go."""
    (tmp_path / "m.onnx").write_bytes(bytes(2048))
    (tmp_path / "m_int8.onnx").write_bytes(bytes(512))
    return ModelFile(tmp_path / "m.onnx", "float"), ModelFile(tmp_path / "m_int8.onnx", "int8")


def rows(record: RunRecord) -> dict[str, dict[str, str]]:
    table = summary(record.document())
    return {row[0]: dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}


def report(backend: str, **facts: Any) -> BenchReport:
    return BenchReport("m.onnx", "0" * 64, backend, "tool", "1", **facts)


def evaluated(model: ModelFile | None, ap: float | None, ap50: float | None) -> Evaluated:
    scores = EvaluationReport({"AP": ap, "AP50": ap50}, {}, 3, 4, 5, THRESHOLDS, "0" * 64, 1.0)
    return Evaluated(model, scores, "test", Path("p.jpg"), Path("c.png"))


def test_every_score_stands_under_its_name_in_the_row_of_its_form(
    tmp_path: Path, files: tuple[ModelFile, ModelFile]
) -> None:
    record = RunRecord(tmp_path)
    record.add(evaluated(files[0], 0.25, 0.5))
    record.add(evaluated(files[1], 0.125, None))
    assert rows(record) == {
        "float": {"AP": "0.2500", "AP50": "0.5000", "size KiB": "2.0"},
        "int8": {"AP": "0.1250", "AP50": "–", "size KiB": "0.5"},
    }
    assert list(record.results) == ["evaluate_float", "evaluate_int8"]


def test_a_backend_that_core_has_never_heard_of_is_in_the_table(
    tmp_path: Path, files: tuple[ModelFile, ModelFile]
) -> None:
    facts: dict[str, Any] = {"weights_bytes": 3072, "activations_bytes": 512, "macc": 1_500_000}
    record = RunRecord(tmp_path)
    record.add(Benched(((files[1], report("acme", **facts, latency_ms=7.0, latency_kind="measured", device="XY")),)))
    assert rows(record) == {
        "int8": {
            "size KiB": "0.5",
            "weights KiB": "3.0",
            "activations KiB": "0.5",
            "MACC M": "1.50",
            "latency ms (XY, measured)": "7.00",
        }
    }


def test_latencies_of_another_kind_device_or_backend_have_columns_of_their_own(
    tmp_path: Path, files: tuple[ModelFile, ModelFile]
) -> None:
    latencies = [
        ("host", "measured", "host CPU", 1.0, None),
        ("estimate", "model", "STM32", 2.0, 25.0),
        ("cloud", "vendor_estimate", "STM32", 3.0, None),
        ("board", "measured", "STM32", 4.0, None),
        ("trace", "measured", "STM32", 5.0, None),
    ]
    reports = [
        (model, report(name, latency_kind=kind, device=device, latency_ms=ms + add, uncertainty_percent=doubt))
        for model, add in zip(files, (0, 0.5), strict=True)
        for name, kind, device, ms, doubt in latencies
    ]
    record = RunRecord(tmp_path)
    record.add(Benched(tuple(reports)))
    shown = rows(record)
    assert shown["float"] == {
        "size KiB": "2.0",
        "latency ms (host CPU, measured)": "1.00",
        "latency ms (STM32, by a model)": "2.00 ±25 %",
        "latency ms (STM32, vendor's estimate)": "3.00",
        "latency ms (STM32, measured, board)": "4.00",
        "latency ms (STM32, measured, trace)": "5.00",
    }
    assert [cell.split()[0] for cell in shown["int8"].values()] == ["0.5", "1.50", "2.50", "3.50", "4.50", "5.50"]


def test_counts_that_two_backends_give_are_kept_apart(tmp_path: Path, files: tuple[ModelFile, ModelFile]) -> None:
    record = RunRecord(tmp_path)
    record.add(Benched(((files[0], report("one", macc=10**6)), (files[1], report("two", macc=2 * 10**6)))))
    assert rows(record)["float"] == {"size KiB": "2.0", "MACC M (one)": "1.00", "MACC M (two)": "–"}
    assert rows(record)["int8"]["MACC M (two)"] == "2.00"


def test_what_stages_say_survives_json_and_what_says_nothing_of_a_form_has_no_row(
    tmp_path: Path, files: tuple[ModelFile, ModelFile]
) -> None:
    record = RunRecord(tmp_path)
    record.add(Trained(ModelFile(tmp_path / "b.pth", "checkpoint"), tmp_path / "l.pth", 1, 0.5, None, 2.0, tmp_path))
    record.add(Predicted(3, tmp_path, THRESHOLDS))
    record.add(NotQuantized("no", {"left": [1]}))
    assert summary(record.document()).rows == []
    record.add(Quantized(files[1], 512, files[0], {"method": "m"}))  # a second try takes the place of the first
    document = json.loads((tmp_path / "run.json").read_text())
    assert document == record.document()
    assert document["stages"]["quantize"] == {
        "path": str(files[1].path),
        "float_path": str(files[0].path),
        "method": "m",
        "size_kib": 0.5,
    }
    assert document["stages"]["predict"]["thresholds"] == {"confidence": 0.001, "nms_iou": 0.65, "max_detections": None}
    assert rows(record) == {"float": {"size KiB": "2.0"}, "int8": {"size KiB": "0.5"}}


def test_a_process_that_does_not_write_leaves_no_file(tmp_path: Path) -> None:
    RunRecord(tmp_path, writes=False).add(Predicted(3, tmp_path, THRESHOLDS))
    assert list(tmp_path.iterdir()) == []
